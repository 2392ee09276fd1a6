import CSwiftmax

/// An element type of the C ABI, seen from outside: its elements are read and written as Double, which holds
/// every value of each.
enum ElementType: Int32, CaseIterable {
    case float32 = 1
    case float64 = 2
    case float16 = 3
    case bfloat16 = 4

    var bytes: Int {
        switch self {
        case .float32: 4
        case .float64: 8
        case .float16, .bfloat16: 2
        }
    }

    /// The bits of the significand, with the first.
    var precision: Int {
        switch self {
        case .float32: 24
        case .float64: 53
        case .float16: 11
        case .bfloat16: 8
        }
    }

    /// The exponent of the smallest normal number.
    var minExponent: Int {
        switch self {
        case .float32, .bfloat16: -126
        case .float64: -1022
        case .float16: -14
        }
    }

    /// The largest error promised, in ULP; the 16-bit types are computed in float32 and rounded once.
    var errorLimit: Double { bytes == 2 ? 0.51 : 2 }

    func read(_ address: UnsafeRawPointer) -> Double {
        switch self {
        case .float32: return Double(address.loadUnaligned(as: Float.self))
        case .float64: return address.loadUnaligned(as: Double.self)
        case .float16: return value(ofHalf: address.loadUnaligned(as: UInt16.self))
        case .bfloat16: return Double(Float(bitPattern: UInt32(address.loadUnaligned(as: UInt16.self)) << 16))
        }
    }

    /// `value` must be one of this type's: see `rounded`.
    func write(_ value: Double, to address: UnsafeMutableRawPointer) {
        switch self {
        case .float32: address.storeBytes(of: Float(value), as: Float.self)
        case .float64: address.storeBytes(of: value, as: Double.self)
        case .float16: address.storeBytes(of: half(of: value), as: UInt16.self)
        case .bfloat16: address.storeBytes(of: UInt16(Float(value).bitPattern >> 16), as: UInt16.self)
        }
    }

    /// The value of this type next to `value`, which must not be beyond the largest.
    func rounded(_ value: Double) -> Double {
        guard value.isFinite && value != 0 else { return value }
        let step =
            Double(sign: .plus, exponent: max(value.exponent, Double.Exponent(minExponent)), significand: 1)
            * Double(sign: .plus, exponent: 1 - precision, significand: 1)
        return (value / step).rounded(.toNearestOrEven) * step
    }

    /// The distance of neighbors at `value`.
    func ulp(_ value: Exact) -> Exact {
        let exponent = value == 0 ? minExponent : max(Int(value.exponent), minExponent)
        return Exact(sign: .plus, exponent: Exact.Exponent(exponent + 1 - precision), significand: 1)
    }
}

// Swift's own Float16 is missing on some platforms.

private func value(ofHalf bits: UInt16) -> Double {
    let sign = bits & 0x8000 == 0 ? 1.0 : -1.0
    let (exponent, fraction) = (Int(bits >> 10 & 0x1f), Double(bits & 0x3ff))
    switch exponent {
    case 0: return sign * fraction * 0x1p-24
    case 31: return fraction == 0 ? sign * .infinity : .nan
    default: return sign * (1024 + fraction) * Double(sign: .plus, exponent: exponent - 25, significand: 1)
    }
}

private func half(of value: Double) -> UInt16 {
    let sign: UInt16 = value.sign == .minus ? 0x8000 : 0
    let magnitude = value.magnitude
    if value.isNaN { return 0x7e00 }
    if magnitude >= 65536 { return sign | 0x7c00 }
    if magnitude < 0x1p-14 { return sign | UInt16(magnitude * 0x1p24) }
    let fraction = UInt16(magnitude.significand * 1024) & 0x3ff
    return sign | UInt16(magnitude.exponent + 15) << 10 | fraction
}
