import CKernels

/// The forward operations.
enum Operation {
    case softmax, logSoftmax, logsumexp

    init(_ op: Int32) {
        switch op {
        case Int32(SWIFTMAX_OP_SOFTMAX): self = .softmax
        case Int32(SWIFTMAX_OP_LOG_SOFTMAX): self = .logSoftmax
        default: self = .logsumexp
        }
    }

    var sumKind: SumKind { self == .softmax ? .all : .excludingMax }
}
