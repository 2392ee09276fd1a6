import CKernels

/// How the elements of a row, or of columns side by side, lie: see `SWIFTMAX_ELEMENTS_OWN`.
enum Elements {
    case own, alternate, reversed
    #if SWIFTMAX_FLOAT32
        case halves(HalfFormat), reversedHalves(HalfFormat)
    #endif

    @inline(__always)
    init(_ elements: Int32) {
        switch Int(elements) {
        #if SWIFTMAX_FLOAT32
            case SWIFTMAX_ELEMENTS_FLOAT16: self = .halves(.float16)
            case SWIFTMAX_ELEMENTS_BFLOAT16: self = .halves(.bfloat16)
            case SWIFTMAX_ELEMENTS_REVERSED_FLOAT16: self = .reversedHalves(.float16)
            case SWIFTMAX_ELEMENTS_REVERSED_BFLOAT16: self = .reversedHalves(.bfloat16)
        #endif
        case SWIFTMAX_ELEMENTS_ALTERNATE: self = .alternate
        case SWIFTMAX_ELEMENTS_REVERSED: self = .reversed
        default: self = .own
        }
    }

    /// From one element to the next.
    @inline(__always)
    var stride: Int {
        switch self {
        case .own: elementBytes
        case .alternate: 2 &* elementBytes
        case .reversed: 0 &- elementBytes
        #if SWIFTMAX_FLOAT32
            case .halves: 2
            case .reversedHalves: -2
        #endif
        }
    }

    /// Of what is computed from them, in order.
    @inline(__always)
    var resultBytes: Int {
        #if SWIFTMAX_FLOAT32
            switch self {
            case .halves, .reversedHalves: return 2
            default: break
            }
        #endif
        return elementBytes
    }
}
