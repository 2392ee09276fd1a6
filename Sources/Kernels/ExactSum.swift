// logsumexp next to 0, where max and the logarithm cancel.
//
// With W the sum of all exponentials, logsumexp = log(1 + (W - 1)): where W is next to 1, W - 1 needs as many more bits
// as it is smaller. Here W is summed in fixed point with 192 bits after the point, so that its sum is exact and in any
// order; each term is right to 2^-180. A result next to 0 is thus right to half an ULP while it is above 2^-120.
//
// Below, the slice is one element m next to 0 and others whose exponentials are about as small as m: W - 1 =
// expm1(m) + their sum, all of which is then kept times a power of two that makes m a number of ordinary size.

import CKernels
import CVector

/// A number in two's complement with 192 bits after the point.
struct Fixed {
    /// From the least significant on.
    var limbs: (UInt64, UInt64, UInt64, UInt64)

    @inline(__always)
    init(_ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64) { limbs = (a, b, c, d) }

    @inline(__always)
    init(_ integer: UInt64) { self.init(0, 0, 0, integer) }

    /// |x| * 2^exponent, rounded down.
    init(magnitudeOf x: Double, exponent: Int = 0) {
        let bits = x.bitPattern
        let field = Int(truncatingIfNeeded: bits >> 52) & 0x7ff
        let fraction = bits & 0xf_ffff_ffff_ffff
        let mantissa = field == 0 ? fraction : fraction | 1 &<< 52
        // The mantissa is an integer times 2^-1074, or more.
        let shift = max(field, 1) &- 1075 &+ exponent
        self =
            shift < 0 ? Fixed(mantissa).shiftedRight(by: 0 &- shift) : Fixed(mantissa &<< UInt64(shift & 63))
    }

    var isNegative: Bool { Int64(bitPattern: limbs.3) < 0 }
    var isZero: Bool { limbs.0 | limbs.1 | limbs.2 | limbs.3 == 0 }

    static func + (a: Fixed, b: Fixed) -> Fixed {
        let (s0, c0) = a.limbs.0.addingReportingOverflow(b.limbs.0)
        let (s1, c1) = sum(a.limbs.1, b.limbs.1, c0 ? 1 : 0)
        let (s2, c2) = sum(a.limbs.2, b.limbs.2, c1)
        let (s3, _) = sum(a.limbs.3, b.limbs.3, c2)
        return Fixed(s0, s1, s2, s3)
    }

    static prefix func - (a: Fixed) -> Fixed {
        Fixed(~a.limbs.0, ~a.limbs.1, ~a.limbs.2, ~a.limbs.3) + Fixed(1, 0, 0, 0)
    }

    /// a + b + carry, and the carry.
    @inline(__always)
    private static func sum(_ a: UInt64, _ b: UInt64, _ carry: UInt64) -> (UInt64, UInt64) {
        let (first, carryOfFirst) = a.addingReportingOverflow(b)
        let (second, carryOfSecond) = first.addingReportingOverflow(carry)
        return (second, (carryOfFirst ? 1 : 0) &+ (carryOfSecond ? 1 : 0))
    }

    /// a * b + c + d, which two limbs hold.
    @inline(__always)
    private static func product(
        _ a: UInt64, _ b: UInt64, _ c: UInt64, _ d: UInt64
    ) -> (low: UInt64, high: UInt64) {
        let (high, low) = a.multipliedFullWidth(by: b)
        let (first, carry) = low.addingReportingOverflow(c)
        let (second, otherCarry) = first.addingReportingOverflow(d)
        return (second, high &+ (carry ? 1 : 0) &+ (otherCarry ? 1 : 0))
    }

    /// self + a * word, the limb beyond the last apart.
    @inline(__always)
    private func adding(_ a: Fixed, times word: UInt64) -> (Fixed, UInt64) {
        let r0 = Fixed.product(a.limbs.0, word, limbs.0, 0)
        let r1 = Fixed.product(a.limbs.1, word, limbs.1, r0.high)
        let r2 = Fixed.product(a.limbs.2, word, limbs.2, r1.high)
        let r3 = Fixed.product(a.limbs.3, word, limbs.3, r2.high)
        return (Fixed(r0.low, r1.low, r2.low, r3.low), r3.high)
    }

    /// The product of two numbers that are not negative, with an error of less than 2^-191.
    static func * (a: Fixed, b: Fixed) -> Fixed {
        var result = Fixed(0)
        @inline(__always)
        func addAndShift(_ word: UInt64) {
            let (sum, top) = result.adding(a, times: word)
            result = Fixed(sum.limbs.1, sum.limbs.2, sum.limbs.3, top)
        }
        addAndShift(b.limbs.0)
        addAndShift(b.limbs.1)
        addAndShift(b.limbs.2)
        return b.limbs.3 == 0 ? result : result.adding(a, times: b.limbs.3).0
    }

    static func * (a: Fixed, word: UInt64) -> Fixed { Fixed(0).adding(a, times: word).0 }

    /// self / 2^count of a number that is not negative.
    func shiftedRight(by count: Int) -> Fixed {
        if count >= 256 { return Fixed(0) }
        var result = self
        var count = count
        while count >= 64 {
            result = Fixed(result.limbs.1, result.limbs.2, result.limbs.3, 0)
            count &-= 64
        }
        if count == 0 { return result }
        let (right, left) = (UInt64(truncatingIfNeeded: count), UInt64(truncatingIfNeeded: 64 &- count))
        return Fixed(
            result.limbs.0 &>> right | result.limbs.1 &<< left,
            result.limbs.1 &>> right | result.limbs.2 &<< left,
            result.limbs.2 &>> right | result.limbs.3 &<< left, result.limbs.3 &>> right)
    }

    /// self * 2^exponent as a pair of doubles, in every lane; 2^exponent may be as small as a double is.
    func pair(exponent: Int) -> Pair {
        if isZero { return Pair(high: splatWide(0), low: splatWide(0)) }
        var magnitude = isNegative ? -self : self
        var scale = exponent
        while magnitude.limbs.3 == 0 {
            magnitude = Fixed(0, magnitude.limbs.0, magnitude.limbs.1, magnitude.limbs.2)
            scale &-= 64
        }
        let zeros = magnitude.limbs.3.leadingZeroBitCount
        magnitude = magnitude * (1 &<< UInt64(truncatingIfNeeded: zeros))
        scale &-= zeros
        let sign: Double = isNegative ? -1 : 1
        let (upper, lower) = (magnitude.limbs.3, magnitude.limbs.2)
        // 53 bits each.
        let high = Double(upper &>> 11) * 0x1p11
        let low = Double((upper & 0x7ff) &<< 42 | lower &>> 22) * 0x1p-42
        let sum = Pair(sumOrdered: splatWide(sign * high), splatWide(sign * low))
        // In two steps, as neither 2^scale nor its inverse need be a normal number.
        let half = scale / 2
        return sum.scaled(by: splatWide(power(half))).scaled(by: splatWide(power(scale &- half)))
    }

    @inline(__always)
    private func power(_ n: Int) -> Double {
        Double(bitPattern: UInt64(truncatingIfNeeded: 1023 &+ n) &<< 52)
    }
}

// MARK: Exponentials

/// log(2)
@inline(__always)
private var fixedLn2: Fixed {
    Fixed(0x40f3_4326_7298_b62e, 0xc9e3_b398_03f2_f6af, 0xb172_17f7_d1cf_79ab, 0)
}

/// Terms of the series, whose common denominator is 19!.
@inline(__always)
private var seriesTerms: UInt64 { 19 }

/// p / 19!
private func dividedByDenominator(_ p: Fixed) -> Fixed {
    // 2^56 / 19!
    let factor = Fixed(0x5ba0_d031_43c6_bf7c, 0x50f6_1dbd_cb3a_5abf, 0x97a4_da34_0a0a_b926, 0)
    return (p * factor).shiftedRight(by: 56)
}

/// exp(-a) * 2^exponent for a >= 0, exponent at most the k of exp(-a) = 2^-k exp(r).
private func expOfMinus(_ a: Double, exponent: Int) -> Fixed {
    let turns = a * 0x1.71547652b82fep+0
    // Below what shows, and beyond the integers.
    if !(turns < 2048) { return Fixed(0) }
    var k = UInt64(turns) &+ 1
    var r = fixedLn2 * k + -Fixed(magnitudeOf: a)
    if r.isNegative {
        k &+= 1
        r = r + fixedLn2
    }
    // The series for r / 2^8, then eight squarings.
    let u = r.shiftedRight(by: 8)
    var p = Fixed(1)
    var coefficient: UInt64 = 1
    var j = seriesTerms
    while j > 0 {
        coefficient &*= j
        p = u * p + Fixed(coefficient)
        j &-= 1
    }
    p = dividedByDenominator(p)
    for _ in 0..<8 { p = p * p }
    return p.shiftedRight(by: max(0, Int(truncatingIfNeeded: k) &- exponent))
}

/// expm1(-a) * 2^exponent for 0 < a < 2^-16, a * 2^exponent below 1.
private func expm1OfMinus(_ a: Double, exponent: Int) -> Fixed {
    // a times the series of (1 - exp(-a)) / a.
    let u = Fixed(magnitudeOf: a)
    var p = Fixed(1)
    var coefficient: UInt64 = 1
    var j = seriesTerms
    while j > 1 {
        coefficient &*= j
        p = Fixed(coefficient) + -(u * p)
        j &-= 1
    }
    return -(Fixed(magnitudeOf: a, exponent: exponent) * dividedByDenominator(p))
}

/// By which power of two the sum is kept too large: 0 if the largest element is not next to 0.
private func sumExponent(max: Double) -> Int {
    let field = Int(truncatingIfNeeded: max.bitPattern &>> 52) & 0x7ff
    // The exponent of the largest element, and room for the others.
    return field < 1023 - 16 ? 1023 - 8 &- field : 0
}

// MARK: Slices

/// Adds the exponentials of `n` elements, `stride` bytes apart, to a sum that starts from zeros.
///
/// - Parameter max: the largest element of the slice, which is negative. Elements may be -inf, but not NaN.
@inline(never)
func addExact(
    _ x: UnsafeRawPointer, _ stride: Int, _ n: Int, max: Double,
    _ sum: UnsafeMutablePointer<swiftmax_exact_sum>
) {
    let exponent = sumExponent(max: max)
    let limbs = sum.pointee.limbs
    var total = Fixed(limbs.0, limbs.1, limbs.2, limbs.3)
    for i in 0..<n {
        let value = Double((x + i &* stride).loadUnaligned(as: Element.self))
        // Next to 0 exp is 1, which the sum then does without.
        let isNextTo0 = exponent > 0 && value > -0x1p-16
        total =
            total
            + (isNextTo0
                ? expm1OfMinus(-value, exponent: exponent) : expOfMinus(-value, exponent: exponent))
    }
    sum.pointee.limbs = total.limbs
}

/// The logarithm of a sum of exponentials, whose largest element is `max`.
@inline(never)
func logOfExact(_ sum: swiftmax_exact_sum, max: Double) -> Double {
    let exponent = sumExponent(max: max)
    var excess = Fixed(sum.limbs.0, sum.limbs.1, sum.limbs.2, sum.limbs.3)
    if exponent == 0 { excess = excess + -Fixed(1) }
    let v = excess.pair(exponent: 0 &- exponent)
    // log(1 + v) = v - v^2 / 2 + ..., where a pair for 1 + v would not hold all of v.
    if v.high[0].magnitude < 0x1p-30 { return v.high[0] + (v.low[0] - 0.5 * v.high[0] * v.high[0]) }
    if v.high[0] > 0 { return log1p(v).high[0] }
    // log(1 + v) = -log(1 - v / (1 + v)).
    let negated = v.scaled(by: splatWide(-1))
    var w = Pair(sum: splatWide(1), v.high)
    w.low += v.low
    return -log1p(quotient(negated, w)).high[0]
}
