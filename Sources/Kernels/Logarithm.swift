// log(1 + v) to about 2^-60, as a pair of doubles.
//
// 1 + v = 2^j m with m in [sqrt(1/2), sqrt(2)); f = m - 1 is exact as a pair; z = f / (2 + f), also a pair;
// log(m) = 2 z + z^3 p(z^2), p a minimax fit by scripts/fit_polynomials.py (2^-60.7 of log m). The part
// beyond 2 z is below a hundredth of it, so that one double holds it. Nothing is lost next to v = 0.

import CVector

/// A number as the unevaluated sum of two doubles per lane.
struct Pair {
    var high: Wide
    var low: Wide

    @inline(__always)
    init(high: Wide, low: Wide) {
        self.high = high
        self.low = low
    }

    static var zero: Pair {
        @inline(__always) get { Pair(high: splatWide(0), low: splatWide(0)) }
    }

    /// a + b exactly (Knuth's TwoSum).
    @inline(__always)
    init(sum a: Wide, _ b: Wide) {
        high = a + b
        let rounded = high - a
        low = (a - (high - rounded)) + (b - rounded)
    }

    /// a + b exactly, for |a| >= |b| or a = 0 (Dekker's Fast2Sum).
    @inline(__always)
    init(sumOrdered a: Wide, _ b: Wide) {
        high = a + b
        low = b - (high - a)
    }
}

/// numerator / denominator.
@inline(__always)
func quotient(_ numerator: Pair, _ denominator: Pair) -> Pair {
    let inverse = splatWide(1) / denominator.high
    let high = numerator.high * inverse
    let remainder = residual(high, denominator.high, numerator.high)
    return Pair(high: high, low: (remainder + numerator.low - high * denominator.low) * inverse)
}

/// c - a * b, exact where a * b is close to c.
@inline(__always)
func residual(_ a: Wide, _ b: Wide, _ c: Wide) -> Wide {
    #if SWIFTMAX_BASELINE && arch(x86_64)
        // Dekker's product: halves of 26 bits multiply exactly.
        let splitter = splatWide(0x1.0000002p27)
        let aScaled = a * splitter
        let aHigh = aScaled - (aScaled - a)
        let aLow = a - aHigh
        let bScaled = b * splitter
        let bHigh = bScaled - (bScaled - b)
        let bLow = b - bHigh
        return (((c - aHigh * bHigh) - aHigh * bLow) - aLow * bHigh) - aLow * bLow
    #else
        return wide_fma(-a, b, c)
    #endif
}

/// p(u), for log(m) = 2 z + z^3 p(z^2).
@inline(__always)
func logPolynomial(_ u: Wide) -> Wide {
    var p = splatWide(0x1.ecf715705a65dp-4)
    p = wide_fma(p, u, splatWide(0x1.ddf10dd102508p-4))
    p = wide_fma(p, u, splatWide(0x1.11229bc111945p-3))
    p = wide_fma(p, u, splatWide(0x1.3b13539eebfdep-3))
    p = wide_fma(p, u, splatWide(0x1.745d1878c02c3p-3))
    p = wide_fma(p, u, splatWide(0x1.c71c71c4bd89ep-3))
    p = wide_fma(p, u, splatWide(0x1.24924924939c4p-2))
    p = wide_fma(p, u, splatWide(0x1.9999999999990p-2))
    return wide_fma(p, u, splatWide(0x1.5555555555555p-1))
}

/// What the logarithm comes from, in steps of their own, as each takes much longer than it does work, but is short enough for the CPU
/// to have that of several vectors under way.
struct LogArgument {
    let j: Wide
    /// f or, as another step, z.
    let reduced: Pair

    @inline(__always)
    init(j: Wide, reduced: Pair) {
        self.j = j
        self.reduced = reduced
    }

    /// That of log(count + v), for count >= 1 and count + v > 0.
    @inline(__always)
    init(_ v: Pair, and count: Wide) {
        let sum = Pair(sumOrdered: wide_max(v.high, count), wide_min(v.high, count))
        j = wide_exponent(sum.high)
        let scale = powerOfTwo(minus: j)
        reduced = Pair(sumOrdered: wide_fma(sum.high, scale, splatWide(-1)), (sum.low + v.low) * scale)
    }

    /// z, of f.
    @inline(__always)
    var divided: LogArgument {
        let denominator = Pair(sumOrdered: splatWide(2), reduced.high)
        let z = quotient(reduced, Pair(high: denominator.high, low: denominator.low + reduced.low))
        return LogArgument(j: j, reduced: z)
    }

    /// The logarithm, of z.
    @inline(__always)
    var log: Pair {
        let z = reduced
        let u = z.high * z.high
        let p = logPolynomial(u)
        // j ln2 in two parts, the first short enough to be exact; and twice z, ordered and by FMA, as Zen adds on other units.
        let two = splatWide(2)
        let exponent = j * splatWide(0x1.62e42fefa38p-1)
        let leading = wide_fma(two, z.high, exponent)
        let rounding = wide_fma(two, z.high, exponent - leading)
        let low = wide_fma(j, splatWide(0x1.ef35793c7673p-45), wide_fma(two, z.low, rounding))
        return Pair(sumOrdered: leading, wide_fma(z.high * u, p, low))
    }
}

/// 2^-j
@inline(__always)
private func powerOfTwo(minus j: Wide) -> Wide {
    wide_exponent_from_mantissa(splatWide(0x1.8p52 + 1023) - j)
}

/// log(1 + v) for v > -1.
@inline(__always)
func log1p(_ v: Pair) -> Pair { LogArgument(v, and: splatWide(1)).divided.log }

#if SWIFTMAX_FLOAT32
    extension LogArgument {
        /// The same in plain double, to about 2^-50.
        @inline(__always)
        init(_ v: Wide) {
            let one = splatWide(1)
            let m = v + one
            let j = wide_exponent(m)
            // Next to v = 0, where j is 0, f is v itself.
            let f = wide_if_equal(j, splatWide(0), v, m * powerOfTwo(minus: j) - one)
            self.init(j: j, reduced: Pair(high: f / (f + splatWide(2)), low: splatWide(0)))
        }

        /// In plain double too.
        @inline(__always)
        var plainLog: Wide {
            let z = reduced.high
            let u = z * z
            return wide_fma(
                j, splatWide(0x1.62e42fefa39efp-1), wide_fma(z * u, logPolynomial(u), z + z))
        }
    }
#endif
