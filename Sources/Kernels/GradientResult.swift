// From the sums of gradients to grad_input = y * (g - sum(g * y)) of softmax, g - exp(y) * sum(g) of log_softmax.

import CVector

/// What turns the elements of a slice into its gradient.
struct BackwardResult {
    let sum: Vector
    let sumLow: Vector
    /// The scale of the sum; see `GradientSum`.
    let scale: Vector

    /// Of slices with ordinary sums.
    @inline(__always)
    init(sum: Vector, sumLow: Vector) { self.init(sum: sum, sumLow: sumLow, scale: splat(1)) }

    @inline(__always)
    private init(sum: Vector, sumLow: Vector, scale: Vector) {
        self.sum = sum
        self.sumLow = sumLow
        self.scale = scale
    }

    /// One slice per lane.
    @inline(__always)
    init(_ total: GradientSum) {
        sum = wide_narrow(total.sum.high)
        #if SWIFTMAX_FLOAT64
            let low = total.sum.low
        #else
            let low = wide_narrow(total.sum.high - vector_widen(sum))
        #endif
        // Not a number where the sum is infinite.
        sumLow = vector_if_equal(low, low, low, splat(0))
        scale = wide_narrow(total.scale)
    }

    /// 1 for the slices whose sum, not scaled, is finite and need not be taken again; see `GradientSum.needsScale`.
    @inline(__always)
    private var ordinary: Vector {
        let room = sum * splat(4)
        return vector_if_equal(room - room, splat(0), scale, splat(0))
    }

    /// Whether every slice is one of those.
    @inline(__always)
    var isOrdinary: Bool { vector_count_equal(ordinary, splat(1)) == lanes }

    /// These constants of ordinary slices, and the `other` ones of the rest.
    @inline(__always)
    func replacingUnusual(with other: BackwardResult) -> BackwardResult {
        @inline(__always)
        func chosen(_ own: Vector, _ other: Vector) -> Vector {
            vector_if_equal(ordinary, splat(1), own, other)
        }
        return BackwardResult(
            sum: chosen(sum, other.sum), sumLow: chosen(sumLow, other.sumLow),
            scale: chosen(scale, other.scale))
    }

    /// One slice per lane, from sums that are not scaled.
    @inline(__always)
    init(_ sum: Pair) { self.init(GradientSum(scale: splatWide(1), sum: sum, plain: splatWide(0))) }

    @inline(__always)
    private var isInfinite: SIMDMask<Vector.MaskStorage> {
        (sum .== splat(.infinity)) .| (sum .== splat(-.infinity))
    }

    /// The gradient where `isOrdinary`.
    @inline(__always)
    func callAsFunction(_ op: Operation, _ g: Vector, _ y: Vector) -> Vector {
        op == .softmax ? softmax(g, y) : logSoftmax(g, y, exponent: splat(0))
    }

    /// Four gradients of log_softmax, computed side by side, where `isOrdinary`.
    @inline(__always)
    func logSoftmax(_ g: Quad, _ y: Quad) -> Quad {
        BackwardResult.logSoftmax(g, y, sum: Quad(repeating: sum), sumLow: Quad(repeating: sumLow))
    }

    /// The gradient anywhere: the same where `isOrdinary`.
    @inline(never)
    func general(_ op: Operation, _ g: Vector, _ y: Vector) -> Vector {
        if op == .softmax { return softmax(g * scale, y) * (splat(1) / scale) }
        let zero = splat(0)
        let one = splat(1)
        let isScaled = scale .!= one
        // What is taken from g may overflow where the difference does not: both are quartered.
        let isQuartered = isScaled .& ((g .> one) .| (g .< -one))
        let quarter = one.replacing(with: splat(0.25), where: isQuartered)
        let exponent = zero.replacing(with: splat(downExponent), where: isScaled)
            .replacing(with: splat(downExponent - 2), where: isQuartered)
        let scaled = logSoftmax(g * quarter, y, exponent: exponent) * (one / quarter)
        // exp(y) times infinity is infinite, but NaN where exp(y) is 0 or NaN.
        let t = y.replacing(with: zero, where: y .> zero)
        return scaled.replacing(with: g - (sum + (t - t)), where: isInfinite)
    }

    @inline(__always)
    private func softmax(_ g: Vector, _ y: Vector) -> Vector {
        vector_fma(y, vector_in_register(g), -vector_fma(y, sum, y * sumLow))
    }

    #if SWIFTMAX_BASELINE && arch(x86_64)
        // For a CPU as old as that it is not worth the size of a copy in each place.
        @inline(never)
    #else
        @inline(__always)
    #endif
    private func logSoftmax(_ g: Vector, _ y: Vector, exponent: Vector) -> Vector {
        BackwardResult.logSoftmax(
            Single(repeating: g), Single(repeating: y), sum: Single(repeating: sum),
            sumLow: Single(repeating: sumLow), exponent: exponent
        ).value
    }

    /// Where 2^n is a normal number in all lanes, exp(y) = (1 + tail) * 2^n takes less: by a seventh of the time in Float,
    /// but not in Double.
    #if SWIFTMAX_BASELINE && arch(x86_64)
        // For a CPU as old as that it is not worth the size of a copy in each place.
        @inline(never)
    #else
        @inline(__always)
    #endif
    static func logSoftmax(_ g: Quad, _ y: Quad, sum: Quad, sumLow: Quad) -> Quad {
        #if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
            // In this order, as a NaN that comes second does not count: no other element must be lost with it.
            let least = vector_min(vector_min(vector_min(y.a, y.b), y.c), y.d)
            let largest = maximum(maximum(maximum(y.a, y.b), y.c), y.d)
            if vector_all_within(least, largest, splat((exponentBias - 1) * ln2)) {
                let magic = splat(roundingMagic + exponentBias * powersPerOctave)
                let biased = y.map { biasedLogarithm($0, magic: magic) }
                let tail = ReducedArgument(y, biased, magic: Quad(repeating: magic)).tail
                let scaled = tail.map(sum, sumLow) { $1 + vector_fma($0, $1, vector_fma($0, $2, $2)) }
                return scaled.map { -$0 }.fma(biased.map(vector_power_from_mantissa), g)
            }
        #endif
        return logSoftmax(g, y, sum: sum, sumLow: sumLow, exponent: splat(0))
    }

    /// exp(y) * 2^exponent = (1 + tail) * 2^n is put together from two powers, as n has more than their range. The first is 1
    /// where the second is normal, so that what is next to 0 is rounded once.
    @inline(__always)
    static func logSoftmax<B: Bundle>(_ g: B, _ y: B, sum: B, sumLow: B, exponent: Vector) -> B {
        // At the lower bound the first power is 0; at the upper the product of both overflows.
        let lowest = (splat(1 - 2 * exponentBias) - exponent) * splat(ln2)
        let highest = (splat(exponentBias + 2) - exponent) * splat(ln2)
        let d = y.map { vector_min(maximum($0, lowest), highest) }
        let magic = splat(roundingMagic)
        let rounded = d.map { biasedLogarithm($0, magic: magic) }
        let tail = ReducedArgument(d, rounded, magic: B(repeating: magic)).tail
        // From here on in steps of 1/`powersPerOctave`.
        @inline(__always)
        func steps(_ n: Vector) -> Vector { n * splat(powersPerOctave) }
        let n = rounded.map { $0 - magic }
        let least = steps(splat(1 - exponentBias) - exponent)
        let largest = steps(splat(exponentBias) - exponent)
        let normal = n.map { vector_min(maximum($0, least), largest) }
        let biased = splat(roundingMagic + exponentBias * powersPerOctave)
        let power = n.map(normal) { vector_power_from_mantissa(($0 - $1) + biased) }
        let otherPower = normal.map { vector_power_from_mantissa($0 + (biased + steps(exponent))) }
        let scaled = tail.map(sum, sumLow) { $1 + vector_fma($0, $1, vector_fma($0, $2, $2)) }
        return scaled.map(power) { -($0 * $1) }.fma(otherPower, g)
    }
}
