// exp, split so that nothing is rounded before it must be.
//
// exp(d) = (1 + tail) * power, after Cody and Waite. 1 + tail is never rounded on its own: results multiply it out in one
// rounding, and sums keep what it loses.
//
// In Double power = 2^n with n = round(d / ln2), r = d - n ln2 and tail = r + r^2 q(r). r is a sum of two numbers and not
// rounded; tail is at most 0.42, so that its rounding is a quarter of an ULP of 1 at most.
//
// In Float 16 n + j = round(16 d / ln2), j from 0 to 15, and power = 2^n (1 + j/16), whose bits are those of 16 n + j, moved.
// With 1 + excess = 2^(j/16) / (1 + j/16), from a table that one register or two hold (after Tang, "Table-driven implementation of
// the exponential function", 1989), r = d - (16 n + j) ln2/16 and t = r + r^2 q(r), tail = excess + (1 + excess) t. That is at most
// 0.08, so that its rounding is a sixteenth of an ULP of 1.
//
// The polynomials q are minimax fits by scripts/fit_polynomials.py: relative error of exp 2^-29.2 (Float) and 2^-56.6 (Double).
// In all, exp is off by at most 0.152 times 2^-24 in Float and 0.58 times 2^-53 in Double (scripts/exponential_error.py).
//
// The scaling of a slice is an integer: k = round(max / ln2) is taken off n, and no x - max is rounded.

import CVector

// MARK: Constants

/// 1.5 * 2^(mantissa bits): adding it to a small number rounds that to an integer, found in its low bits.
#if SWIFTMAX_FLOAT64
    @inline(__always) var roundingMagic: Element { 0x1.8p52 }
    @inline(__always) var exponentBias: Element { 1023 }
    @inline(__always) var log2e: Element { 0x1.71547652b82fep+0 }
#else
    @inline(__always) var roundingMagic: Element { 0x1.8p23 }
    @inline(__always) var exponentBias: Element { 127 }
    @inline(__always) var log2e: Element { 0x1.715476p+0 }
#endif
/// How many powers there are from one power of two to the next.
@inline(__always) var powersPerOctave: Element { Element(SWIFTMAX_POWERS_PER_OCTAVE) }
@inline(__always) var ln2: Element { Element(0x1.62e42fefa39efp-1 as Double) }

/// Powers are kept 2^64 too large, so that the smallest subnormal results are still scaled from a
/// normal power; the sums are too large by the same factor, and quotients come out right.
@inline(__always) var spareExponent: Element { 64 }

/// Beyond this |max|, x - max is exact wherever exp(x - max) is not zero (Sterbenz: x lies between
/// max/2 and 2 max), and is subtracted; up to it, n ln2 has few enough bits to be exact.
@inline(__always) var exactRange: Element { 2048 }

// MARK: Range

/// How the elements of a slice become arguments of exp, d = max(x - base, low), and d a power of two.
struct Shift {
    /// 0, or max where that is beyond `exactRange`.
    var base: Vector
    /// What makes of d / ln2, in steps of 1/`powersPerOctave`, the bits of the power: `roundingMagic` and, in such steps, the
    /// exponent field that n = 0 stands for.
    var magic: Vector
    /// The d below which the field would be negative. At `low` it is 0, and so is the power; powers next to it are subnormal, and
    /// nothing beside any sum.
    var low: Vector

    @inline(__always)
    init(base: Vector, magic: Vector, low: Vector) {
        self.base = base
        self.magic = magic
        self.low = low
    }

    /// n of the maximum, as it was rounded: round(max / ln2).
    @inline(__always)
    var k: Vector {
        (splat(roundingMagic + (exponentBias + spareExponent) * powersPerOctave) - magic)
            * splat(1 / powersPerOctave)
    }

    /// The shift of slices with these maxima; an infinite maximum is taken for 0.
    @inline(__always)
    init(max: Vector) {
        base = farBase(max)
        let near = Shift(near: vector_if_equal(max - max, splat(0), max - base, splat(0)))
        (magic, low) = (near.magic, near.low)
    }

    /// The shift of slices with these maxima, all of them within `exactRange`.
    @inline(__always)
    init(near max: Vector) {
        let k = rounded(max)
        let bias = exponentBias + spareExponent
        base = splat(0)
        magic = splat(roundingMagic + bias * powersPerOctave) - k * splat(powersPerOctave)
        low = (k - splat(bias)) * splat(ln2)
    }
}

extension Shift {
    /// The power of exp(x), without the tail.
    @inline(__always)
    func power(of x: Vector) -> Vector {
        vector_power_from_mantissa(biasedLogarithm(maximum(x - base, low), magic: magic))
    }
}

/// max where it is finite and beyond `exactRange`, else 0.
@inline(__always)
func farBase(_ max: Vector) -> Vector {
    let limited = vector_max(splat(-exactRange), vector_min(splat(exactRange), max))
    let far = vector_if_equal(limited, max, splat(0), max)
    return vector_if_equal(max - max, splat(0), far, splat(0))
}

@inline(__always)
func isFar(_ max: Element) -> Bool { max.magnitude > exactRange && max.isFinite }

/// k = round(max / ln2).
@inline(__always)
func rounded(_ max: Vector) -> Vector {
    vector_fma(max, splat(log2e), splat(roundingMagic)) - splat(roundingMagic)
}

// MARK: exp

/// d / ln2 in steps of 1/`powersPerOctave`, rounded, in the low bits of the mantissa.
@inline(__always)
func biasedLogarithm(_ d: Vector, magic: Vector) -> Vector {
    vector_fma(d, splat(log2e * powersPerOctave), magic)
}

/// exp(d) = (1 + tail) * power, power times 2^`spareExponent` for the shift of a slice.
struct Exponential {
    let tail: Vector
    let power: Vector

    @inline(__always)
    init(tail: Vector, power: Vector) {
        self.tail = tail
        self.power = power
    }

    /// For d >= the low of the shift.
    @inline(__always)
    init(_ d: Vector, magic: Vector) {
        #if SWIFTMAX_BASELINE && arch(x86_64)
            self = exponential(d, magic: magic)
        #else
            self.init(inlined: d, magic: magic)
        #endif
    }

    @inline(__always)
    fileprivate init(inlined d: Vector, magic: Vector) {
        let biased = biasedLogarithm(d, magic: magic)
        tail =
            ReducedArgument(
                Single(repeating: d), Single(repeating: biased), magic: Single(repeating: magic)
            ).tail.value
        power = vector_power_from_mantissa(biased)
    }
}

/// Four exponentials, computed side by side.
struct ExponentialQuad {
    let tail: Quad
    let power: Quad

    @inline(__always) var a: Exponential { Exponential(tail: tail.a, power: power.a) }
    @inline(__always) var b: Exponential { Exponential(tail: tail.b, power: power.b) }
    @inline(__always) var c: Exponential { Exponential(tail: tail.c, power: power.c) }
    @inline(__always) var d: Exponential { Exponential(tail: tail.d, power: power.d) }

    @inline(__always)
    init(_ a: Exponential, _ b: Exponential, _ c: Exponential, _ d: Exponential) {
        tail = Quad(a.tail, b.tail, c.tail, d.tail)
        power = Quad(a.power, b.power, c.power, d.power)
    }

    /// As for one.
    @inline(__always)
    init(_ d: Quad, magic: Vector) {
        #if SWIFTMAX_BASELINE && arch(x86_64)
            self = exponentials(d, magic: magic)
        #else
            self.init(inlined: d, magic: magic)
        #endif
    }

    @inline(__always)
    fileprivate init(inlined d: Quad, magic: Vector) { self.init(d, magic: Quad(repeating: magic)) }

    /// As for one. What `meanwhile` computes stands before the polynomials, whose operations would fill the scheduler of the CPU
    /// while they wait for each other.
    @inline(__always)
    init(_ d: Quad, magic: Vector, meanwhile: () -> Vector) {
        let biased = d.map { biasedLogarithm($0, magic: magic) }
        var argument = ReducedArgument(d, biased, magic: Quad(repeating: magic))
        let last = meanwhile()
        argument.r = argument.r.map { vector_behind($0, last) }
        tail = argument.tail
        power = biased.map(vector_power_from_mantissa)
    }

    /// Four that add up to nothing.
    static var zero: ExponentialQuad {
        @inline(__always) get {
            let zero = Exponential(tail: splat(0), power: splat(0))
            return ExponentialQuad(zero, zero, zero, zero)
        }
    }

    /// Each with a magic of its own.
    @inline(__always)
    init(_ d: Quad, magic: Quad) {
        let biased = d.map(magic) { biasedLogarithm($0, magic: $1) }
        tail = ReducedArgument(d, biased, magic: magic).tail
        power = biased.map(vector_power_from_mantissa)
    }
}

#if SWIFTMAX_BASELINE && arch(x86_64)
    // For a CPU as old as that they are not worth the size of a copy in each place.

    @inline(never)
    private func exponential(_ d: Vector, magic: Vector) -> Exponential {
        Exponential(inlined: d, magic: magic)
    }

    @inline(never)
    private func exponentials(_ d: Quad, magic: Vector) -> ExponentialQuad {
        ExponentialQuad(inlined: d, magic: magic)
    }
#endif

/// d less a multiple of ln2 / `powersPerOctave`, the next.
struct ReducedArgument<B: Bundle> {
    var r: B
    #if SWIFTMAX_POWER_TABLE
        private let biased: B

        /// - Parameters:
        ///   - biased: of `biasedLogarithm`.
        ///   - error: what d was rounded by, if it was.
        @inline(__always)
        init(_ d: B, _ biased: B, magic: B, error: B? = nil) {
            // The product of a step's leading bits and their number is exact, and so is d without it.
            let steps = biased.map(magic) { $0 - $1 }
            let leading = steps.map(d) { vector_fma($0, splat(-0x1.62e43p-5), $1) }
            let rest = error.map { leading.map($0) { $0 + $1 } } ?? leading
            r = steps.map(rest) { vector_fma($0, splat(0x1.05c61p-33), $1) }
            self.biased = biased
        }

        /// exp(d) / power - 1, for |r| <= ln2/32.
        @inline(__always)
        var tail: B {
            let q = r.map { vector_fma(splat(0x1.5555a0p-3), $0, splat(0x1.000224p-1)) }.together
            let t = r.map { $0 * $0 }.fma(q, r).together
            let excess = biased.map(vector_power_excess)
            return t.map(excess) { vector_fma($0, $1 + splat(1), $1) }
        }
    #else
        private let leading: B
        private let rest: B

        @inline(__always)
        init(_ d: B, _ biased: B, magic: B, error: B? = nil) {
            (leading, rest) = reduced(d, biased.map(magic) { $0 - $1 }, error: error)
            r = leading.map(rest) { $0 + $1 }
        }

        @inline(__always)
        var tail: B { leading.map(polynomialTail(r, rest)) { $0 + $1 } }
    #endif
}

/// exp(d - n ln2) - 1 for |d - n ln2| <= ln2/2 as the sum of two numbers, the second below half of the first.
@inline(__always)
func expTailParts(_ d: Single, _ n: Single) -> (leading: Single, rest: Single) {
    let (leading, rest) = reduced(d, n)
    return (leading, polynomialTail(leading.map(rest) { $0 + $1 }, rest))
}

/// d - n ln2 as the sum of two numbers: `leading` has no rounding error and `rest` next to none. Their sum r is rounded for the
/// polynomial alone, where no more than 0.29 or 0.41 of that is seen, for r below and above 0.
///
/// - Parameter error: what d was rounded by, if it was.
@inline(__always)
func reduced<B: Bundle>(_ d: B, _ n: B, error: B? = nil) -> (leading: B, rest: B) {
    let ownRest = n.map(trailingLn2)
    return (
        d.map(n, withoutLeadingLn2), error.map { ownRest.map($0) { $0 + $1 } } ?? ownRest
    )
}

/// rest + r^2 q(r), which the leading part of r is to be added to: in Float with a q of degree 4, for a relative error of exp of
/// 2^-27.9.
@inline(__always)
private func polynomialTail<B: Bundle>(_ r: B, _ rest: B) -> B {
    #if SWIFTMAX_FLOAT64
        let q: B = doublePolynomial { q, c in
            q.map { $0.fma(r, splat(c)).together } ?? B(repeating: splat(c))
        }
    #else
        var q = r.map { vector_fma(splat(0x1.6a247ep-10), $0, splat(0x1.1239bap-7)) }.together
        q = q.fma(r, splat(0x1.5558f0p-5)).together
        q = q.fma(r, splat(0x1.555494p-3)).together
        q = q.fma(r, splat(0x1.fffffcp-2)).together
    #endif
    return r.map { $0 * $0 }.fma(q, rest)
}

/// d - n ln2, with as much of ln2 as makes this exact.
@inline(__always)
private func withoutLeadingLn2(_ d: Vector, _ n: Vector) -> Vector {
    #if SWIFTMAX_FLOAT64
        return wideWithoutLeadingLn2(d, n)
    #elseif SWIFTMAX_BASELINE && arch(x86_64)
        // Without FMA: a constant short enough that its product with n (12 bits) is exact.
        return d - n * splat(0x1.62ep-1)
    #else
        return vector_fma(n, splat(-0x1.62e43p-1), d)
    #endif
}

/// -n times what `withoutLeadingLn2` leaves of ln2.
@inline(__always)
private func trailingLn2(_ n: Vector) -> Vector {
    #if SWIFTMAX_FLOAT64
        return wideTrailingLn2(n)
    #elseif SWIFTMAX_BASELINE && arch(x86_64)
        return n * splat(-0x1.0bfbe8p-15)
    #else
        return n * splat(0x1.05c61p-29)
    #endif
}

// MARK: exp in double

/// As `withoutLeadingLn2`.
@inline(__always)
private func wideWithoutLeadingLn2(_ d: Wide, _ n: Wide) -> Wide {
    #if SWIFTMAX_BASELINE && arch(x86_64)
        return d - n * splatWide(0x1.62e42fefa4p-1)
    #else
        return wide_fma(n, splatWide(-0x1.62e42fefa39efp-1), d)
    #endif
}

/// As `trailingLn2`.
@inline(__always)
private func wideTrailingLn2(_ n: Wide) -> Wide {
    #if SWIFTMAX_BASELINE && arch(x86_64)
        return n * splatWide(0x1.8432a1b0e2634p-43)
    #else
        return n * splatWide(-0x1.abc9e3b39803fp-56)
    #endif
}

/// q(r) in double, by Horner's rule: `step(q, c)` is q * r + c, or c where q is nil.
@inline(__always)
func doublePolynomial<T>(_ step: (T?, Double) -> T) -> T {
    var q = step(nil, 0x1.ad7f8d1910aa0p-26)
    q = step(q, 0x1.28ad579c576f0p-22)
    q = step(q, 0x1.71df251284146p-19)
    q = step(q, 0x1.a0199a2870f38p-16)
    q = step(q, 0x1.a01a012a87dafp-13)
    q = step(q, 0x1.6c16c18420517p-10)
    q = step(q, 0x1.1111111127b1fp-7)
    q = step(q, 0x1.55555555508a6p-5)
    q = step(q, 0x1.55555555554fcp-3)
    return step(q, 0x1.000000000000ap-1)
}

/// exp(d - n ln2) - 1 for |d - n ln2| <= ln2/2.
@inline(__always)
func wideExpTail(_ d: Wide, _ n: Wide) -> Wide {
    let leading = wideWithoutLeadingLn2(d, n)
    let rest = wideTrailingLn2(n)
    let r = leading + rest
    let q: Wide = doublePolynomial { q, c in q.map { wide_fma($0, r, splatWide(c)) } ?? splatWide(c) }
    return leading + wide_fma(r * r, q, rest)
}

/// k of `rounded`, and exp(max - k ln2) = 1 + tail. A maximum outside the exact range, or infinite, counts
/// as one at its border: such a block either is summed against the slice's own maximum (see
/// `Stats.needsKnownMax`), or is too small to be seen.
@inline(__always)
func wideExponent(max: Wide) -> (k: Wide, tail: Wide) {
    let limit = splatWide(2 * Double(exactRange))
    let x = wide_max(-limit, wide_min(limit, max))
    let k = vector_widen(rounded(wide_narrow(x)))
    return (k, wideExpTail(x, k))
}

/// 2^n for integral n <= 0; 0 below -1022.
@inline(__always)
func widePowerOfTwo(_ n: Wide) -> Wide {
    let low = splatWide(-1023)
    return wide_exponent_from_mantissa(wide_max(low, n) + splatWide(0x1.8p52 + 1023))
}
