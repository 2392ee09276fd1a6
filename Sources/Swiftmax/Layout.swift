// Shapes and strides, reduced to what matters: which dimensions run over the slices of an operation, and which along a
// slice, with neighbors merged where all operands allow it.

import CSwiftmax

/// Up to three arrays of one shape and, as the last, a mask.
let operandLimit = 4

/// A list of dimensions, in order, in memory of its own: for each its size and its stride in each operand.
struct Dimensions {
    private let words: UnsafeMutablePointer<Int>
    private(set) var count = 0

    static var bytes: Int { Int(SWIFTMAX_MAX_RANK) &* (1 &+ operandLimit) &* 8 }

    init(_ memory: UnsafeMutableRawPointer) {
        words = memory.assumingMemoryBound(to: Int.self)
    }

    @inline(__always)
    func size(_ dimension: Int) -> Int { words[dimension &* (1 &+ operandLimit)] }

    @inline(__always)
    func stride(_ dimension: Int, _ operand: Int) -> Int {
        words[dimension &* (1 &+ operandLimit) &+ 1 &+ operand]
    }

    @inline(__always)
    private func set(_ dimension: Int, _ slot: Int, _ value: Int) {
        words[dimension &* (1 &+ operandLimit) &+ slot] = value
    }

    /// The product of the sizes.
    var elements: Int {
        var product = 1
        for dimension in 0..<count { product &*= size(dimension) }
        return product
    }

    /// Appends a dimension within all others, or merges it with the last where each operand's elements go on at
    /// the same distance. Dimensions of size 1 vanish.
    mutating func append(size: Int, operands: Int, stride: (Int) -> Int) {
        if size == 1 { return }
        if count > 0 {
            let last = count &- 1
            var merges = true
            for operand in 0..<operands where self.stride(last, operand) != size &* stride(operand) {
                merges = false
            }
            if merges {
                set(last, 0, self.size(last) &* size)
                for operand in 0..<operands { set(last, 1 &+ operand, stride(operand)) }
                return
            }
        }
        set(count, 0, size)
        for operand in 0..<operandLimit { set(count, 1 &+ operand, operand < operands ? stride(operand) : 0) }
        count &+= 1
    }

    /// Moves a dimension to the end.
    mutating func moveToEnd(_ dimension: Int) {
        var d = dimension
        while d &+ 1 < count {
            for slot in 0...operandLimit {
                let (a, b) = (d &* (1 &+ operandLimit) &+ slot, (d &+ 1) &* (1 &+ operandLimit) &+ slot)
                (words[a], words[b]) = (words[b], words[a])
            }
            d &+= 1
        }
    }

    /// Drops the last dimension.
    mutating func removeLast() { count &-= 1 }

    /// The offset in one operand of the element with this index, the last dimension running fastest.
    func offset(_ index: Int, _ operand: Int) -> Int {
        var (rest, offset) = (index, 0)
        var dimension = count &- 1
        while dimension >= 0 {
            let size = size(dimension)
            if dimension == 0 { return offset &+ rest &* stride(0, operand) }
            offset &+= rest % size &* stride(dimension, operand)
            rest /= size
            dimension &-= 1
        }
        return offset
    }

    /// How far the strides are those of a single dimension, from this index on: at least 1.
    @inline(__always)
    func run(from index: Int) -> Int {
        if count == 0 { return 1 }
        if count == 1 { return size(0) &- index }
        let last = size(count &- 1)
        return last &- index % last
    }
}
