import CSwiftmax

/// Memory with an array in it, and its descriptor. Views share the memory.
final class StridedArray {
    let descriptor: UnsafeMutablePointer<swiftmax_array>
    let shape: [Int]
    /// In bytes.
    let strides: [Int]
    let dtype: Int32
    private let memory: Memory
    /// The descriptor's shape and strides.
    private let sizes: UnsafeMutablePointer<Int64>

    /// What no element of a test has in all of its bytes, to see what was written.
    static let untouched: UInt8 = 0xa5

    final class Memory {
        let bytes: UnsafeMutableRawBufferPointer

        init(_ count: Int) {
            bytes = .allocate(byteCount: count, alignment: 64)
            bytes.initializeMemory(as: UInt8.self, repeating: StridedArray.untouched)
        }

        deinit { bytes.deallocate() }
    }

    private init(
        _ memory: Memory, _ data: UnsafeMutableRawPointer, _ dtype: Int32, _ shape: [Int], _ strides: [Int]
    ) {
        self.memory = memory
        (self.dtype, self.shape, self.strides) = (dtype, shape, strides)
        sizes = .allocate(capacity: 2 * shape.count + 1)
        for (i, (size, stride)) in zip(shape, strides).enumerated() {
            sizes[i] = Int64(size)
            sizes[shape.count + i] = Int64(stride)
        }
        descriptor = .allocate(capacity: 1)
        descriptor.initialize(
            to: swiftmax_array(
                data: data, shape: sizes, strides: sizes + shape.count, ndim: Int32(shape.count), dtype: dtype
            ))
    }

    deinit {
        sizes.deallocate()
        descriptor.deallocate()
    }

    /// An array in C order, `offset` bytes off alignment.
    convenience init(_ type: ElementType, _ shape: [Int], offset: Int = 0) {
        self.init(elementBytes: type.bytes, dtype: type.rawValue, shape, offset: offset)
    }

    convenience init(_ type: ElementType, _ shape: [Int], _ values: [Double]) {
        self.init(type, shape)
        assign(values)
    }

    /// A mask.
    convenience init(_ shape: [Int], _ mask: [Bool]) {
        self.init(elementBytes: 1, dtype: Int32(SWIFTMAX_BOOL), shape, offset: 0)
        for (address, isSet) in zip(addresses, mask) { address.storeBytes(of: isSet ? 1 : 0, as: UInt8.self) }
    }

    private convenience init(elementBytes: Int, dtype: Int32, _ shape: [Int], offset: Int) {
        var strides = [Int](repeating: 0, count: shape.count)
        var bytes = elementBytes
        for i in shape.indices.reversed() {
            strides[i] = bytes
            bytes *= shape[i]
        }
        let memory = Memory(bytes + offset)
        self.init(memory, memory.bytes.baseAddress! + offset, dtype, shape, strides)
    }

    // MARK: Views

    func transposed(_ order: [Int]) -> StridedArray {
        StridedArray(memory, data, dtype, order.map { shape[$0] }, order.map { strides[$0] })
    }

    /// Every `step`th along an axis; from the end if `step` is negative.
    func every(_ step: Int, along axis: Int) -> StridedArray {
        var (sizes, steps) = (shape, strides)
        let start = step < 0 ? (sizes[axis] - 1) * steps[axis] : 0
        sizes[axis] = (sizes[axis] + abs(step) - 1) / abs(step)
        steps[axis] *= step
        return StridedArray(memory, data + start, dtype, sizes, steps)
    }

    /// Without the first `count` along an axis.
    func dropping(_ count: Int, along axis: Int) -> StridedArray {
        var sizes = shape
        sizes[axis] -= count
        return StridedArray(memory, data + count * strides[axis], dtype, sizes, strides)
    }

    /// The first along an axis, `size` times.
    func repeated(_ size: Int, along axis: Int) -> StridedArray {
        var (sizes, steps) = (shape, strides)
        (sizes[axis], steps[axis]) = (size, 0)
        return StridedArray(memory, data, dtype, sizes, steps)
    }

    // MARK: Contents

    private var data: UnsafeMutableRawPointer { descriptor.pointee.data }

    var type: ElementType { ElementType(rawValue: dtype)! }

    /// Of the elements, in C order of the indices.
    var addresses: [UnsafeMutableRawPointer] {
        var offsets = [0]
        for (size, stride) in zip(shape, strides) {
            offsets = offsets.flatMap { offset in (0..<size).map { offset + $0 * stride } }
        }
        return offsets.map { data + $0 }
    }

    var values: [Double] { addresses.map { type.read($0) } }

    /// The elements' bytes, to compare results by.
    var bytes: [UInt8] {
        addresses.flatMap { address in
            (0..<type.bytes).map { address.load(fromByteOffset: $0, as: UInt8.self) }
        }
    }

    func assign(_ values: [Double]) {
        for (address, value) in zip(addresses, values) { type.write(value, to: address) }
    }

    /// The number of bytes of the memory that are outside the elements and have been written to.
    var strayBytes: Int {
        let elements = Set(addresses.flatMap { address in (0..<type.bytes).map { address + $0 } })
        return memory.bytes.indices.count { i in
            memory.bytes[i] != StridedArray.untouched && !elements.contains(memory.bytes.baseAddress! + i)
        }
    }

    /// Whether no byte of the memory has been written to.
    var isUntouched: Bool { memory.bytes.allSatisfy { $0 == StridedArray.untouched } }
}
