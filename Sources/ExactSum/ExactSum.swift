// logsumexp next to 0, where max and the logarithm cancel.
//
// With W the sum of all exponentials, logsumexp = log(1 + (W - 1)): where W is next to 1, W - 1 needs as many more bits
// as it is smaller. Here W is summed in fixed point with 192 bits after the point, so that its sum is exact and in any
// order; each term is right to 2^-180. A result next to 0 is thus right to half an ULP while it is above 2^-120.
//
// Below, the slice is one element m next to 0 and others whose exponentials are about as small as m: W - 1 =
// expm1(m) + their sum, all of which is then kept times a power of two that makes m a number of ordinary size.

import CKernels

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

/// Adds the exponentials of elements to a sum: see kernels.h.
@_cdecl("swiftmax_add_exact")
public func addExact(
    _ x: UnsafeRawPointer, _ elementBytes: Int, _ stride: Int, _ n: Int, _ max: Double,
    _ sum: UnsafeMutablePointer<swiftmax_exact_sum>
) {
    let exponent = sumExponent(max: max)
    let limbs = sum.pointee.limbs
    var total = Fixed(limbs.0, limbs.1, limbs.2, limbs.3)
    for i in 0..<n {
        let address = x + i &* stride
        let value =
            elementBytes == 8
            ? address.loadUnaligned(as: Double.self) : Double(address.loadUnaligned(as: Float.self))
        // Next to 0 exp is 1, which the sum then does without.
        let isNextTo0 = exponent > 0 && value > -0x1p-16
        total =
            total
            + (isNextTo0
                ? expm1OfMinus(-value, exponent: exponent) : expOfMinus(-value, exponent: exponent))
    }
    sum.pointee.limbs = total.limbs
}

/// The sum less 1, of which next to 0 more is left than a double has digits: see kernels.h.
@_cdecl("swiftmax_exact_excess")
public func exactExcess(
    _ sum: UnsafePointer<swiftmax_exact_sum>, _ max: Double, _ high: UnsafeMutablePointer<Double>,
    _ low: UnsafeMutablePointer<Double>
) {
    let exponent = sumExponent(max: max)
    let limbs = sum.pointee.limbs
    var excess = Fixed(limbs.0, limbs.1, limbs.2, limbs.3)
    if exponent == 0 { excess = excess + -Fixed(1) }
    (high.pointee, low.pointee) = excess.parts(exponent: 0 &- exponent)
}
