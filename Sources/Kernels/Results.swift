// From the stats of slices to their results.

import CKernels
import CVector

/// What turns the elements of a slice into its softmax: y = (1 + tail) * power / sum.
///
/// With inverse + inverseLow = 1/sum, y = (inverse + (tail * inverse + (1 + tail) * inverseLow)) * power. The inner sum
/// is at most 0.42 of the outer and its rounding a quarter of an ULP, the outer is rounded once and the scaling is exact
/// but for subnormal results. With the errors of exp, its own and that of the sum, below two ULP (docs/numerics.md).
struct SoftmaxResult {
    var shift: Shift
    var inverse: Vector
    var inverseLow: Vector

    @inline(__always)
    init(shift: Shift, inverse: Vector, inverseLow: Vector) {
        self.shift = shift
        self.inverse = inverse
        self.inverseLow = inverseLow
    }

    @inline(__always)
    func callAsFunction(_ e: Exponential) -> Vector {
        let correction = vector_fma(e.tail, inverse, vector_fma(e.tail, inverseLow, inverseLow))
        return (inverse + correction) * e.power
    }

    /// The softmax of `x`, whose exponential is computed anew.
    @inline(__always)
    func callAsFunction(_ x: Vector) -> Vector {
        self(Exponential(maximum(x - shift.base, shift.low), magic: shift.magic))
    }
}

extension Stats {
    /// 1/sum as the sum of two numbers. An infinite maximum, or nothing but -inf: the slice is NaN.
    @inline(__always)
    var inverse: (high: Vector, low: Vector) {
        let max = wide_narrow(max)
        let one = vector_if_equal(max - max, splat(0), splat(1), splat(.nan))
        let inverse = one / wide_narrow(sum.high)
        #if SWIFTMAX_FLOAT64
            let low = (residual(inverse, sum.high, one) - inverse * sum.low) * inverse
        #else
            let low = wide_narrow(residual(vector_widen(inverse), sum.high, splatWide(1))) * inverse
        #endif
        return (inverse, low)
    }

    /// What the sum, scaled by 2^-k and not by exp(-max), is too small by: exp(k ln2 - max) - 1 in Float, and in Double
    /// exp(max - k ln2) - 1.
    @inline(__always)
    func maxTail(_ shift: Shift) -> Wide {
        let max = wide_narrow(max)
        let near = vector_if_equal(max - max, splat(0), max - shift.base, splat(0))
        #if SWIFTMAX_FLOAT64
            return wideExpTail(near, shift.k)
        #else
            return shortExpTail(
                wide_fma(
                    vector_widen(shift.k), splatWide(0x1.62e42fefa39efp-1), -vector_widen(near)))
        #endif
    }

    /// The sum of exp(x - max) over all elements but one of those that equal the maximum.
    @inline(__always)
    func others(maxTail: Wide) -> Pair {
        let scale = splatWide(1 / spareScale)
        #if SWIFTMAX_FLOAT64
            // Scaled last, so that a subnormal result is rounded once.
            let rest = quotient(sum, Pair(sumOrdered: splatWide(1), maxTail)).scaled(by: scale)
            let others = Pair(sum: count - splatWide(1), rest.high)
            return Pair(high: others.high, low: others.low + rest.low)
        #else
            let rest = wide_fma(sum.high, maxTail, sum.high) * scale
            return Pair(high: count - splatWide(1) + rest, low: splatWide(0))
        #endif
    }
}

extension ElementLogArgument {
    /// That of `Stats.others`.
    @inline(__always)
    init(others: Pair) {
        #if SWIFTMAX_FLOAT64
            self.init(others)
        #else
            let high = wide_narrow(others.high)
            let low = wide_narrow(others.high - vector_widen(high))
            self.init(
                BundlePair(high: Single(repeating: high), low: Single(repeating: low)),
                and: Single(repeating: splat(1)))
        #endif
    }
}

/// What gives the log_softmax of a slice, x - max - log(sum(exp(x - max))), and its logsumexp. The logarithm is
/// that of 1 + the sum of the others, where nothing cancels: it is right to its last bits next to 0 too, and so is
/// the difference, as both terms are negative or 0.
struct LogResult {
    let max: Vector
    let log: Vector
    let logLow: Vector

    /// One slice per lane.
    @inline(__always)
    init(max: Vector, log: Vector, low: Vector) {
        self.max = max
        self.log = log
        logLow = low
    }

    /// See `Stats.others`, for which `argument` is.
    @inline(__always)
    init(max: Vector, others: Pair, argument: ElementLogArgument) {
        let (log, low) = argument.log.parts
        #if SWIFTMAX_FLOAT64
            // Where it is the sum itself, subnormal ones are not taken through its divisions.
            let isSum = wide_min(others.high, splatWide(0x1p-120))
            self.init(
                max: max, log: wide_if_equal(isSum, others.high, others.high, log),
                low: wide_if_equal(isSum, others.high, others.low, low))
        #else
            self.init(max: max, log: log, low: low)
        #endif
    }

    /// max + log. An infinite maximum is the result, unless there was a NaN.
    @inline(__always)
    var logsumexp: Vector {
        let (sum, error) = ElementPair(sum: max, log).parts
        return vector_if_equal(max - max, splat(0), sum + (error + logLow), max + (log - log))
    }
}

/// What turns the elements of a slice into its log_softmax, (x - max) - log.
///
/// Both terms are negative or 0, so that nothing cancels. The rounding error of x - max is had exactly where
/// |max| >= |x| (Fast2Sum), and is at most half an ULP of the result elsewhere.
struct LogSoftmaxResult {
    var max: Vector
    var logHigh: Vector
    var logLow: Vector

    @inline(__always)
    init(max: Vector, logHigh: Vector, logLow: Vector) {
        self.max = max
        self.logHigh = logHigh
        self.logLow = logLow
    }

    /// One slice per lane. With an infinite maximum every log_softmax is NaN, as it is with a NaN in the sum.
    @inline(__always)
    init(_ result: LogResult) {
        (logHigh, logLow) = (result.log, result.logLow)
        let difference = logHigh - logHigh + (result.max - result.max)
        max = vector_if_equal(difference, splat(0), result.max, splat(.nan))
    }

    /// Some subtractions are FMAs with a factor of 1, as Zen adds on other units than it multiplies.
    @inline(__always)
    func callAsFunction(_ x: Vector) -> Vector {
        let one = vector_in_register(splat(1))
        let d = x - max
        let error = vector_fma(-one, d + max, x)
        let y = d + vector_fma(one, error - logLow, -logHigh)
        // Where x is -inf the error is not a number and d is the result, as it is where d is none; elsewhere y <= d.
        return vector_min(d, y)
    }
}
