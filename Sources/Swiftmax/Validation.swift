// What must hold before a single element is read. The first thing wrong is reported as a status.

import CSwiftmax

typealias Status = Int32

/// A descriptor whose rank, shape and dtype have been checked.
struct StridedArray {
    let data: UnsafeMutableRawPointer?
    let shape: UnsafePointer<Int64>?
    let strides: UnsafePointer<Int64>?
    let rank: Int
    let dtype: Int32

    @inline(__always)
    func size(_ dimension: Int) -> Int { Int(shape.unsafelyUnwrapped[dimension]) }

    @inline(__always)
    func stride(_ dimension: Int) -> Int { Int(strides.unsafelyUnwrapped[dimension]) }

    var elementBytes: Int {
        switch dtype {
        case Int32(SWIFTMAX_FLOAT64): 8
        case Int32(SWIFTMAX_FLOAT32): 4
        case Int32(SWIFTMAX_BOOL): 1
        default: 2
        }
    }

    /// The number of elements.
    var count: Int {
        var count = 1
        for dimension in 0..<rank { count &*= size(dimension) }
        return count
    }

    /// The addresses its elements lie at, as a half-open range; empty without elements.
    var addresses: (start: Int, end: Int) {
        var (low, high) = (0, 0)
        for dimension in 0..<rank {
            let length = size(dimension)
            if length == 0 { return (0, 0) }
            let extent = (length &- 1) &* stride(dimension)
            if extent < 0 { low &+= extent } else { high &+= extent }
        }
        let origin = Int(bitPattern: data)
        return (origin &+ low, origin &+ high &+ elementBytes)
    }

    static var none: StridedArray {
        StridedArray(data: nil, shape: nil, strides: nil, rank: 0, dtype: 0)
    }

    /// Whether the shapes agree, but for a 1 along each axis of `reduced`.
    func hasShape(of other: StridedArray, except reduced: UInt64) -> Bool {
        if rank != other.rank { return false }
        for dimension in 0..<rank {
            let expected = reduced &>> UInt64(dimension) & 1 == 1 ? 1 : other.size(dimension)
            if size(dimension) != expected { return false }
        }
        return true
    }

    /// Whether each element lies where that of `other` with the same indices does.
    func coincides(with other: StridedArray) -> Bool {
        if data != other.data || dtype != other.dtype { return false }
        for dimension in 0..<rank where size(dimension) > 1 {
            if stride(dimension) != other.stride(dimension) { return false }
        }
        return true
    }

    func meets(_ other: StridedArray) -> Bool {
        let (a, b) = (addresses, other.addresses)
        return a.start < b.end && b.start < a.end
    }
}

enum Role { case elements, mask }

/// Checks one descriptor by itself.
func checked(_ descriptor: UnsafePointer<swiftmax_array>?, _ role: Role, _ array: inout StridedArray)
    -> Status
{
    guard let descriptor = descriptor?.pointee else { return Status(SWIFTMAX_NULL_POINTER) }
    let isMask = descriptor.dtype == Int32(SWIFTMAX_BOOL)
    if descriptor.dtype < Int32(SWIFTMAX_FLOAT32) || descriptor.dtype > Int32(SWIFTMAX_BOOL)
        || isMask != (role == .mask)
    {
        return Status(SWIFTMAX_BAD_DTYPE)
    }
    let rank = Int(descriptor.ndim)
    if rank < 0 || rank > Int(SWIFTMAX_MAX_RANK) { return Status(SWIFTMAX_BAD_RANK) }
    if rank > 0 && (descriptor.shape == nil || descriptor.strides == nil) {
        return Status(SWIFTMAX_NULL_POINTER)
    }
    array = StridedArray(
        data: descriptor.data, shape: descriptor.shape, strides: descriptor.strides, rank: rank,
        dtype: descriptor.dtype)
    var isEmpty = false
    for dimension in 0..<rank {
        if array.size(dimension) < 0 { return Status(SWIFTMAX_NEGATIVE_SIZE) }
        if array.size(dimension) == 0 { isEmpty = true }
    }
    if isEmpty { return Status(SWIFTMAX_OK) }
    if descriptor.data == nil { return Status(SWIFTMAX_NULL_POINTER) }
    // Neither the count of elements nor the distance between any two may overflow.
    var (count, extent) = (array.elementBytes, array.elementBytes)
    for dimension in 0..<rank {
        let (bytes, a) = count.multipliedReportingOverflow(by: array.size(dimension))
        let stride = array.stride(dimension)
        let magnitude = stride < 0 ? 0 &- stride : stride
        let (step, b) = magnitude.multipliedReportingOverflow(by: array.size(dimension) &- 1)
        let (reach, c) = extent.addingReportingOverflow(step)
        if a || b || c || magnitude < 0 { return Status(SWIFTMAX_TOO_LARGE) }
        (count, extent) = (bytes, reach)
    }
    return Status(SWIFTMAX_OK)
}

/// The reduced axes as a set of bits.
func checkedAxes(
    _ axes: UnsafePointer<Int32>?, _ count: Int32, rank: Int, _ set: inout UInt64
) -> Status {
    if count == SWIFTMAX_ALL_AXES {
        set = rank == 64 ? .max : (1 &<< UInt64(rank)) &- 1
        return Status(SWIFTMAX_OK)
    }
    if count < 0 { return Status(SWIFTMAX_BAD_AXIS) }
    if count == 0 { return Status(SWIFTMAX_OK) }
    guard let axes else { return Status(SWIFTMAX_NULL_POINTER) }
    for index in 0..<Int(count) {
        let axis = Int(axes[index])
        if axis < 0 &- rank || axis >= rank { return Status(SWIFTMAX_BAD_AXIS) }
        let bit: UInt64 = 1 &<< UInt64(axis < 0 ? axis &+ rank : axis)
        if set & bit != 0 { return Status(SWIFTMAX_REPEATED_AXIS) }
        set |= bit
    }
    return Status(SWIFTMAX_OK)
}
