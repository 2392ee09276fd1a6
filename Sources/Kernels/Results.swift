// From the stats of slices to their results.

import CKernels
import CVector

/// What turns the elements of a slice into its softmax: y = (1 + tail) * power / sum.
///
/// With inverse + inverseLow = 1/sum, y = (inverse + (tail * inverse + (1 + tail) * inverseLow)) * power. The inner sum
/// is at most 0.42 of the outer, the outer is rounded once and the scaling is exact but for subnormal
/// results, so that the error is half an ULP, that of tail, and a little: below one ULP in all.
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

    /// One slice per lane.
    @inline(__always)
    init(_ stats: Stats) {
        shift = Shift(max: wide_narrow(stats.max))
        let one = splatWide(1)
        var high = one / stats.sum.high
        // An infinite maximum, or nothing but -inf: the slice is NaN.
        high = wide_if_equal(stats.max - stats.max, splatWide(0), high, splatWide(.nan))
        inverse = wide_narrow(high)
        #if SWIFTMAX_FLOAT64
            inverseLow = (residual(high, stats.sum.high, one) - high * stats.sum.low) * high
        #else
            inverseLow = wide_narrow(high - vector_widen(inverse))
        #endif
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

/// What turns the elements of a slice into its log_softmax, x - max - log(sum(exp(x - max))), and gives its
/// logsumexp. The logarithm is that of 1 + (count - 1 + the rest of the sum), where nothing cancels: it is
/// right to its last bits next to 0 too, and so is the difference, as both terms are negative or 0.
struct LogResult {
    var max: Wide
    var log: Pair

    @inline(__always)
    init(max: Wide, log: Pair) {
        self.max = max
        self.log = log
    }

    /// One slice per lane.
    @inline(__always)
    init(_ stats: Stats) {
        max = stats.max
        let shift = Shift(max: wide_narrow(max))
        let (_, tail) = wideExponent(max: max - vector_widen(shift.base))
        let sum = stats.sum.scaled(by: splatWide(1 / spareScale))
        #if SWIFTMAX_FLOAT64
            let rest = quotient(sum, Pair(sumOrdered: splatWide(1), tail))
            let others = Pair(sum: stats.count - splatWide(1), rest.high)
            log = log1p(Pair(high: others.high, low: others.low + rest.low))
        #else
            let rest = sum.high / (splatWide(1) + tail)
            log = Pair(high: log1p(stats.count - splatWide(1) + rest), low: splatWide(0))
        #endif
    }

    /// The logsumexp.
    @inline(__always)
    func logsumexp(_ stats: Stats) -> Vector {
        let result = Pair(sum: max, log.high)
        let finite = result.high + (result.low + log.low)
        // An infinite maximum is the result, unless there was a NaN.
        let infinite = max + stats.sum.high * splatWide(0)
        return wide_narrow(wide_if_equal(max - max, splatWide(0), finite, infinite))
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
        let nan = splatWide(.nan)
        let difference = result.log.high - result.log.high + (result.max - result.max)
        max = wide_narrow(wide_if_equal(difference, splatWide(0), result.max, nan))
        logHigh = wide_narrow(result.log.high)
        #if SWIFTMAX_FLOAT64
            logLow = result.log.low
        #else
            logLow = wide_narrow(result.log.high - vector_widen(logHigh))
        #endif
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
