// The C ABI: what Sources/CSwiftmax/include/swiftmax.h declares. Checks its arguments, and executes.

import CKernels
import CSwiftmax

private typealias Descriptor = UnsafePointer<swiftmax_array>

@_cdecl("swiftmax_softmax")
public func softmax(
    _ x: UnsafePointer<swiftmax_array>?, _ out: UnsafePointer<swiftmax_array>?,
    _ axes: UnsafePointer<Int32>?, _ axisCount: Int32, _ mask: UnsafePointer<swiftmax_array>?
) -> Int32 { forward(Int32(SWIFTMAX_OP_SOFTMAX), x, out, axes, axisCount, mask) }

@_cdecl("swiftmax_log_softmax")
public func logSoftmax(
    _ x: UnsafePointer<swiftmax_array>?, _ out: UnsafePointer<swiftmax_array>?,
    _ axes: UnsafePointer<Int32>?, _ axisCount: Int32, _ mask: UnsafePointer<swiftmax_array>?
) -> Int32 { forward(Int32(SWIFTMAX_OP_LOG_SOFTMAX), x, out, axes, axisCount, mask) }

@_cdecl("swiftmax_logsumexp")
public func logsumexp(
    _ x: UnsafePointer<swiftmax_array>?, _ out: UnsafePointer<swiftmax_array>?,
    _ axes: UnsafePointer<Int32>?, _ axisCount: Int32, _ mask: UnsafePointer<swiftmax_array>?
) -> Int32 { forward(Int32(SWIFTMAX_OP_LOGSUMEXP), x, out, axes, axisCount, mask) }

@_cdecl("swiftmax_softmax_backward")
public func softmaxBackward(
    _ gradOutput: UnsafePointer<swiftmax_array>?, _ output: UnsafePointer<swiftmax_array>?,
    _ gradInput: UnsafePointer<swiftmax_array>?, _ axes: UnsafePointer<Int32>?, _ axisCount: Int32
) -> Int32 {
    backward(Int32(SWIFTMAX_OP_SOFTMAX), gradOutput, output, gradInput, axes, axisCount)
}

@_cdecl("swiftmax_log_softmax_backward")
public func logSoftmaxBackward(
    _ gradOutput: UnsafePointer<swiftmax_array>?, _ output: UnsafePointer<swiftmax_array>?,
    _ gradInput: UnsafePointer<swiftmax_array>?, _ axes: UnsafePointer<Int32>?, _ axisCount: Int32
) -> Int32 {
    backward(Int32(SWIFTMAX_OP_LOG_SOFTMAX), gradOutput, output, gradInput, axes, axisCount)
}

private func forward(
    _ op: Int32, _ x: Descriptor?, _ out: Descriptor?, _ axes: UnsafePointer<Int32>?, _ axisCount: Int32,
    _ mask: Descriptor?
) -> Status {
    var (input, output, allowed) = (StridedArray.none, StridedArray.none, StridedArray.none)
    var axisSet: UInt64 = 0
    var status = checked(x, .elements, &input)
    if status == SWIFTMAX_OK { status = checked(out, .elements, &output) }
    if status == SWIFTMAX_OK && mask != nil { status = checked(mask, .mask, &allowed) }
    if status == SWIFTMAX_OK { status = checkedAxes(axes, axisCount, rank: input.rank, &axisSet) }
    if status != SWIFTMAX_OK { return status }
    if input.dtype != output.dtype { return Status(SWIFTMAX_DTYPE_MISMATCH) }
    let reduces = op == Int32(SWIFTMAX_OP_LOGSUMEXP)
    if !output.hasShape(of: input, except: reduces ? axisSet : 0)
        || mask != nil && !allowed.hasShape(of: input, except: 0)
    {
        return Status(SWIFTMAX_SHAPE_MISMATCH)
    }
    if output.count == 0 { return Status(SWIFTMAX_OK) }
    if input.count == 0 { return fillWithNothing(output) }
    if output.meets(input) && (reduces || !output.coincides(with: input))
        || mask != nil && output.meets(allowed)
    {
        return Status(SWIFTMAX_OVERLAP)
    }
    return execute(
        .forward, op, (input, output, allowed, StridedArray.none), inputs: 1, hasMask: mask != nil,
        axes: axisSet)
}

private func backward(
    _ op: Int32, _ gradOutput: Descriptor?, _ output: Descriptor?, _ gradInput: Descriptor?,
    _ axes: UnsafePointer<Int32>?, _ axisCount: Int32
) -> Status {
    var (g, y, result) = (StridedArray.none, StridedArray.none, StridedArray.none)
    var axisSet: UInt64 = 0
    var status = checked(gradOutput, .elements, &g)
    if status == SWIFTMAX_OK { status = checked(output, .elements, &y) }
    if status == SWIFTMAX_OK { status = checked(gradInput, .elements, &result) }
    if status == SWIFTMAX_OK { status = checkedAxes(axes, axisCount, rank: g.rank, &axisSet) }
    if status != SWIFTMAX_OK { return status }
    if g.dtype != y.dtype || g.dtype != result.dtype { return Status(SWIFTMAX_DTYPE_MISMATCH) }
    if !y.hasShape(of: g, except: 0) || !result.hasShape(of: g, except: 0) {
        return Status(SWIFTMAX_SHAPE_MISMATCH)
    }
    if g.count == 0 { return Status(SWIFTMAX_OK) }
    if result.meets(g) && !result.coincides(with: g) || result.meets(y) && !result.coincides(with: y) {
        return Status(SWIFTMAX_OVERLAP)
    }
    return execute(
        .backward, op, (g, y, result, StridedArray.none), inputs: 2, hasMask: false, axes: axisSet)
}

/// The logsumexp of slices without elements: -inf.
@_optimize(size)
private func fillWithNothing(_ output: StridedArray) -> Status {
    var indices = output.count
    while indices > 0 {
        indices &-= 1
        var (rest, offset) = (indices, 0)
        for dimension in 0..<output.rank {
            let size = output.size(dimension)
            offset &+= rest % size &* output.stride(dimension)
            rest /= size
        }
        let address = output.data.unsafelyUnwrapped + offset
        switch output.dtype {
        case Int32(SWIFTMAX_FLOAT64): address.storeBytes(of: -Double.infinity, as: Double.self)
        case Int32(SWIFTMAX_FLOAT32): address.storeBytes(of: -Float.infinity, as: Float.self)
        case Int32(SWIFTMAX_FLOAT16): address.storeBytes(of: 0xfc00, as: UInt16.self)
        default: address.storeBytes(of: 0xff80, as: UInt16.self)
        }
    }
    return Status(SWIFTMAX_OK)
}

// MARK: About the library

@_cdecl("swiftmax_status_message")
public func statusMessage(_ status: Int32) -> UnsafePointer<CChar> {
    let message: StaticString =
        switch Int(status) {
        case SWIFTMAX_OK: "success"
        case SWIFTMAX_NULL_POINTER: "a required pointer is null"
        case SWIFTMAX_BAD_DTYPE: "a dtype is unknown or not allowed for this argument"
        case SWIFTMAX_BAD_RANK: "the number of dimensions is negative or above 64"
        case SWIFTMAX_NEGATIVE_SIZE: "a shape has a negative entry"
        case SWIFTMAX_TOO_LARGE: "an array's extent in bytes does not fit in 63 bits"
        case SWIFTMAX_BAD_AXIS: "an axis is out of range"
        case SWIFTMAX_REPEATED_AXIS: "an axis is named twice"
        case SWIFTMAX_SHAPE_MISMATCH: "two arrays that must agree in shape do not"
        case SWIFTMAX_DTYPE_MISMATCH: "two arrays that must agree in dtype do not"
        case SWIFTMAX_OVERLAP: "the output shares memory with an input in another layout"
        case SWIFTMAX_OUT_OF_MEMORY: "no memory for scratch"
        default: "unknown status"
        }
    return cString(message)
}

@_cdecl("swiftmax_get_num_threads")
public func getNumThreads() -> Int32 { Int32(truncatingIfNeeded: threadLimit()) }

@_cdecl("swiftmax_set_num_threads")
public func setNumThreads(_ count: Int32) { setThreadLimit(count) }

@_cdecl("swiftmax_version")
public func version() -> UnsafePointer<CChar> { cString("0.1.0") }
