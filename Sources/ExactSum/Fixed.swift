// Numbers in fixed point, wide enough for sums of exponentials that lose nothing.

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

    /// self * 2^exponent to twice the precision of a double; 2^exponent may be as small as a double is.
    func parts(exponent: Int) -> (high: Double, low: Double) {
        if isZero { return (0, 0) }
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
        let sum = sign * high + sign * low
        let rest = sign * low - (sum - sign * high)
        // In two steps, as neither 2^scale nor its inverse need be a normal number.
        let half = scale / 2
        let (first, second) = (power(half), power(scale &- half))
        return (sum * first * second, rest * first * second)
    }

    @inline(__always)
    private func power(_ n: Int) -> Double {
        Double(bitPattern: UInt64(truncatingIfNeeded: 1023 &+ n) &<< 52)
    }
}
