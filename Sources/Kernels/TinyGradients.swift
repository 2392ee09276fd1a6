// Gradients of slices of two to four elements.
//
// Sums of so few floats take less time than it takes to get them out of double. So they are pairs of floats from the start:
// products and additions keep their rounding errors, as the sums of longer slices of doubles do (GradientSum.swift), and are
// right to about 2^-46 of the largest product. A slice whose sum is too large for that is summed in double, as longer ones are.
// Those of doubles are the same as of longer slices, but for what is added to nothing.

import CKernels
import CVector

/// Whether slices of `n` elements are taken this way. Longer columns would gain too, but not the rows that go with them.
@inline(__always)
func areTinyGradients(_ n: Int) -> Bool {
    #if SWIFTMAX_FLOAT64 && SWIFTMAX_BASELINE && arch(x86_64)
        // For a CPU as old as that it is not worth the size.
        return false
    #else
        return n > 1 && n <= 4
    #endif
}

#if SWIFTMAX_FLOAT32
    /// The running sum of g * y, or of g alone, of one slice per lane.
    private struct TinySum {
        private var high: Vector
        private var low: Vector

        /// Of the first element.
        @inline(__always)
        init(_ op: Operation, _ g: Vector, _ y: Vector) {
            high = op == .softmax ? g * y : g
            low = op == .softmax ? vector_product_error(g, y, high) : splat(0)
        }

        @inline(__always)
        mutating func add(_ op: Operation, _ g: Vector, _ y: Vector) {
            let next = TinySum(op, g, y)
            let (sum, error) = ElementPair(sum: high, next.high).parts
            low += error
            if op == .softmax { low += next.low }
            high = sum
        }

        @inline(__always) var result: BackwardResult { BackwardResult(sum: high, sumLow: low) }
    }
#endif

/// What gives the gradients of a vector of slices.
///
/// - Parameter element: g and y at position i.
@inline(__always)
func tinyBackwardResult(
    _ op: Operation, _ n: Int, _ element: (_ i: Int) -> (g: Vector, y: Vector)
) -> BackwardResult {
    #if SWIFTMAX_FLOAT64
        // The tree of `sumOfLanes`, without the virtual lanes that are not there.
        @inline(__always)
        func term(_ i: Int) -> Pair {
            let (g, y) = element(i)
            return LaneSum(op, g, y).pair
        }
        let (even, odd) = (n > 2 ? term(0) + term(2) : term(0), n > 3 ? term(1) + term(3) : term(1))
        return BackwardResult((even + odd).normalized)
    #else
        let (g, y) = element(0)
        var sum = TinySum(op, g, y)
        for i in 1..<n {
            let (g, y) = element(i)
            sum.add(op, g, y)
        }
        return sum.result
    #endif
}

/// Sets what gives the gradients of `vectors` vectors of slices in `table`. False where one needs care.
///
/// - Parameter element: g and y of vector v at position i.
@inline(__always)
func setTinyBackwardResults(
    _ op: Operation, _ n: Int, _ vectors: Int, _ table: SliceTable,
    _ element: (_ v: Int, _ i: Int) -> (g: Vector, y: Vector)
) -> Bool {
    var areOrdinary = true
    for v in 0..<vectors {
        let result = tinyBackwardResult(op, n) { element(v, $0) }
        table.setBackwardResult(from: v &* lanes, result)
        if !result.isOrdinary { areOrdinary = false }
    }
    return areOrdinary
}

extension GradientTile {
    /// g and y of vector v at position i, and the next ones asked for.
    @inline(__always)
    fileprivate func element(_ v: Int, _ i: Int) -> (g: Vector, y: Vector) {
        let (g, y) = (g.from(i).address + v &* vectorBytes, y.from(i).address + v &* vectorBytes)
        vector_prefetch(g + ahead)
        return (vector_load(g), vector_load(y))
    }

    /// What gives the gradients of its first vector, which may be a part of one.
    @inline(__always)
    func tinyResult(_ op: Operation) -> BackwardResult {
        let count = min(lanes, present)
        return tinyBackwardResult(op, n) {
            (load(g.from($0).address, count), load(y.from($0).address, count))
        }
    }
}

/// Sets what gives the gradients of a tile. False where one needs care.
@inline(never)
func setTinyBackwardResults(_ op: Operation, _ tile: GradientTile, _ table: SliceTable) -> Bool {
    if tile.present < lanes {
        let result = tile.tinyResult(op)
        table.setBackwardResult(from: 0, result)
        return result.isOrdinary
    }
    return op == .softmax
        ? setTinyBackwardResults(.softmax, tile.n, tile.vectors, table, tile.element)
        : setTinyBackwardResults(.logSoftmax, tile.n, tile.vectors, table, tile.element)
}

/// Writes the softmax gradients of a vector of slices from registers. False where one needs care.
@inline(__always)
func writeTinySoftmaxBackward(
    _ n: Int, _ tile: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int
) -> Bool {
    let none = (g: splat(0), y: splat(0))
    let (a, b) = (tile.element(0, 0), tile.element(0, 1))
    let (c, d) = (n > 2 ? tile.element(0, 2) : none, n > 3 ? tile.element(0, 3) : none)
    let result = tinyBackwardResult(.softmax, n) { $0 == 0 ? a : $0 == 1 ? b : $0 == 2 ? c : d }
    if !result.isOrdinary { return false }
    vector_store(out, result(.softmax, a.g, a.y))
    vector_store(out + outStride, result(.softmax, b.g, b.y))
    if n > 2 { vector_store(out + 2 &* outStride, result(.softmax, c.g, c.y)) }
    if n > 3 { vector_store(out + 3 &* outStride, result(.softmax, d.g, d.y)) }
    return true
}

/// The backward operation on rows, which are turned into columns for it.
@inline(never)
func backwardTinyRows(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ n: Int, _ scratch: Scratch
) {
    let most = 64
    let stride = most &* elementBytes
    let columns = (g: scratch.spare, y: scratch.spare + n &* stride)
    var first = 0
    while first < rows {
        let count = min(most, rows &- first)
        transpose(g.from(first).address, g.stride, columns.g, stride, count, n)
        transpose(y.from(first).address, y.stride, columns.y, stride, count, n)
        backwardColumns(
            op, Operand(address: columns.g, stride: stride), Operand(address: columns.y, stride: stride),
            columns.g, stride, count, swiftmax_single_group(), n, next: 0, scratch, streaming: false,
            .near, ways: 8)
        transpose(columns.g, stride, out + first &* outStride, outStride, n, count)
        first &+= most
    }
}
