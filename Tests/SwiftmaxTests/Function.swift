import CSwiftmax

/// The five functions, called through the C header.
enum Function: CaseIterable {
    case softmax, logSoftmax, logsumexp, softmaxBackward, logSoftmaxBackward

    static let forward: [Function] = [.softmax, .logSoftmax, .logsumexp]
    static let backward: [Function] = [.softmaxBackward, .logSoftmaxBackward]

    var isBackward: Bool { Function.backward.contains(self) }
    var inputCount: Int { isBackward ? 2 : 1 }

    /// What an element that `mask` leaves out gives, and a slice with none left.
    var valueOfNothing: Double { self == .softmax ? 0 : -.infinity }

    /// The call itself. Descriptors are pointers, so that a test may pass anything.
    func callAsFunction(
        _ inputs: [UnsafePointer<swiftmax_array>?], _ out: UnsafePointer<swiftmax_array>?,
        _ axes: UnsafePointer<Int32>?, _ axisCount: Int32, _ mask: UnsafePointer<swiftmax_array>? = nil
    ) -> Int32 {
        switch self {
        case .softmax: swiftmax_softmax(inputs[0], out, axes, axisCount, mask)
        case .logSoftmax: swiftmax_log_softmax(inputs[0], out, axes, axisCount, mask)
        case .logsumexp: swiftmax_logsumexp(inputs[0], out, axes, axisCount, mask)
        case .softmaxBackward: swiftmax_softmax_backward(inputs[0], inputs[1], out, axes, axisCount)
        case .logSoftmaxBackward:
            swiftmax_log_softmax_backward(inputs[0], inputs[1], out, axes, axisCount)
        }
    }

    /// The call on arrays; `axes` nil for all.
    func callAsFunction(
        _ inputs: [StridedArray], into out: StridedArray, axes: [Int]?, mask: StridedArray? = nil
    ) -> Int32 {
        withExtendedLifetime((inputs, out, mask)) {
            let axes32 = axes?.map { Int32($0) } ?? []
            return self(
                inputs.map { UnsafePointer($0.descriptor) }, out.descriptor, axes32,
                axes == nil ? Int32(SWIFTMAX_ALL_AXES) : Int32(axes32.count),
                mask.map { UnsafePointer($0.descriptor) })
        }
    }

    /// The shape of the result of a call on `shape`.
    func resultShape(_ shape: [Int], axes: [Int]?) -> [Int] {
        if self != .logsumexp { return shape }
        let reduced = Set((axes ?? Array(shape.indices)).map { $0 < 0 ? $0 + shape.count : $0 })
        return shape.indices.map { reduced.contains($0) ? 1 : shape[$0] }
    }
}
