// From the stats of slices to their results.

import CKernels
import CVector

/// What turns the elements of a slice into its softmax: y = (1 + tail) * power / sum.
///
/// In Float inverse + inverseLow = `spareScale`/sum and y = (inverse * power + (tail * inverse + inverseLow) * power) / `spareScale`.
/// The second product is at most 0.08 of the sum, and its two roundings are as much of an ULP; the rest is rounded once and
/// scaled last, so that the parts of a subnormal result are normal numbers. With the errors of exp, its own and that of the
/// sum, below 1.8 ULP (docs/numerics.md).
///
/// In Double inverse + inverseLow = 1/sum and y = (inverse + (tail * inverse + (1 + tail) * inverseLow)) * power. The inner sum
/// is at most 0.42 of the outer and its rounding a quarter of an ULP, the outer is rounded once and the scaling is exact
/// but for subnormal results: below two ULP.
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
        #if SWIFTMAX_POWER_TABLE
            let correction = vector_fma(e.tail, inverse, inverseLow) * e.power
            return vector_fma(inverse, e.power, correction) * splat(Element(1 / spareScale))
        #else
            let correction = vector_fma(e.tail, inverse, vector_fma(e.tail, inverseLow, inverseLow))
            return (inverse + correction) * e.power
        #endif
    }

    /// The softmax of `x`, whose exponential is computed anew.
    @inline(__always)
    func callAsFunction(_ x: Vector) -> Vector {
        self(Exponential(maximum(x - shift.base, shift.low), magic: shift.magic))
    }
}

extension Pair {
    /// The inverse of a sum, for `SoftmaxResult`, as the sum of two numbers; not a number where `one` is not.
    @inline(__always)
    func inverse(of one: Vector) -> (high: Vector, low: Vector) {
        #if SWIFTMAX_FLOAT64
            let inverse = one / high
            return (inverse, (residual(inverse, high, one) - inverse * low) * inverse)
        #else
            #if SWIFTMAX_POWER_TABLE
                let sum = high * splatWide(1 / spareScale)
            #else
                let sum = high
            #endif
            let inverse = one / wide_narrow(sum)
            return (inverse, wide_narrow(residual(vector_widen(inverse), sum, splatWide(1))) * inverse)
        #endif
    }
}

extension Stats {
    /// The inverse of the sum. An infinite maximum, or nothing but -inf: the slice is NaN.
    @inline(__always)
    var inverse: (high: Vector, low: Vector) {
        let max = wide_narrow(max)
        return sum.inverse(of: vector_if_equal(max - max, splat(0), splat(1), splat(.nan)))
    }

    /// The sum of the elements below the maximum was scaled by 2^-k, and not by exp(-max): what lies between is 1 + tail. In Double
    /// that is exp(max - k ln2), to divide the sum by; in Float its inverse, 1 + tail without the 1.
    @inline(__always)
    func factor(_ shift: Shift) -> ElementPair {
        let max = wide_narrow(max)
        let near = vector_if_equal(max - max, splat(0), max - shift.base, splat(0))
        #if SWIFTMAX_FLOAT64
            return Pair(sumOrdered: splatWide(1), wideExpTail(near, shift.k))
        #else
            let (leading, rest) = expTailParts(Single(repeating: -near), Single(repeating: -shift.k))
            return ElementPair(sumOrdered: leading, rest)
        #endif
    }

    /// The sum of exp(x - max) over the elements below the maximum, by the `factor` of the slices.
    @inline(__always)
    func others(_ factor: ElementPair) -> ElementPair {
        #if SWIFTMAX_FLOAT64
            // Scaled last, so that a subnormal result is rounded once.
            return quotient(sum, factor).scaled(by: splatWide(1 / spareScale))
        #else
            let tail = factor.parts
            let high = wide_narrow(sum.high)
            let low = wide_narrow(sum.high - vector_widen(high))
            let product = high * tail.high
            let lower = vector_fma(high, tail.low, vector_fma(low, tail.high, low))
            let error = lower + vector_product_error(high, tail.high, product)
            let total = ElementPair(
                sumOrdered: Single(repeating: high), Single(repeating: product))
            return ElementPair(
                high: total.high, low: Single(repeating: total.low.value + error)
            ).scaled(by: Element(1 / spareScale))
        #endif
    }
}

extension ElementLogArgument {
    /// That of log(count + others), for the `others` of stats and a count of at least 1.
    @inline(__always)
    init(others: ElementPair, and count: Wide) {
        #if SWIFTMAX_FLOAT64
            self.init(others, and: count)
        #else
            self.init(others, and: Single(repeating: wide_narrow(count)))
        #endif
    }
}

/// What gives the logsumexp of a slice, max + log(sum(exp(x - max))), and its log_softmax. The logarithm is that of 1 + the sum
/// of the others, where nothing cancels: it is right to its last bits next to 0 too.
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

    /// See `Stats.others`. Next to 0 the logarithm is that itself, as subnormal ones are not taken through its divisions.
    @inline(__always)
    init(max: Vector, others: ElementPair, log: ElementPair) {
        let (log, low) = log.parts
        #if SWIFTMAX_FLOAT64
            let small = wide_min(log, splatWide(0x1p-120))
            self.init(
                max: max, log: wide_if_equal(small, log, others.high, log),
                low: wide_if_equal(small, log, others.low, low))
        #else
            self.init(max: max, log: log, low: low)
        #endif
    }

    /// max + log, rounded, and what that was rounded by. Nothing is added to an infinite maximum.
    @inline(__always)
    var logsumexp: (high: Vector, low: Vector) {
        let (sum, error) = ElementPair(sum: max, log).parts
        return (sum, vector_if_equal(sum - sum, splat(0), error + logLow, splat(0)))
    }
}

/// What turns the elements of a slice into its log_softmax, x - logsumexp.
///
/// logsumexp is the sum of two numbers, `low` at most half a last place of `high`. x - high is exact within a factor of 2
/// (Sterbenz), so wherever the result is small beside them. What it is rounded by elsewhere is had exactly where |high| >= |x|
/// (Fast2Sum), and otherwise to half an ULP of the result.
struct LogSoftmaxResult {
    var high: Vector
    var low: Vector

    @inline(__always)
    init(high: Vector, low: Vector) {
        self.high = high
        self.low = low
    }

    /// One slice per lane. With an infinite maximum every log_softmax is NaN.
    @inline(__always)
    init(_ result: LogResult) {
        let (sum, rest) = result.logsumexp
        self.init(high: vector_if_equal(sum - sum, splat(0), sum, splat(.nan)), low: rest)
    }

    /// Some subtractions are FMAs with a factor of 1, as Zen adds on other units than it multiplies.
    @inline(__always)
    func callAsFunction(_ x: Vector) -> Vector {
        let one = vector_in_register(splat(1))
        let d = x - high
        let error = vector_fma(-one, d + high, x)
        // Not a number, or infinite, where d is infinite: a finite one leaves it so.
        let correction = vector_min(splat(.greatestFiniteMagnitude), error - low)
        return vector_fma(one, correction, d)
    }
}
