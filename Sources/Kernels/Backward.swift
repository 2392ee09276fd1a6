// The gradients: grad_input = y * (g - sum(g * y)) of softmax, g - exp(y) * sum(g) of log_softmax, where g is
// grad_output and y the output of the forward operation.
//
// The sums are those of Ogita, Rump and Oishi, "Accurate sum and dot product" (2005): products and additions keep
// their rounding errors, which are summed apart, so that the result is as if computed in twice the precision. The
// partial sums are those of the forward operation, but for the four members of a group, which have one each.

import CKernels
import CVector

// MARK: Sums

/// Four running sums per lane with what their additions have lost.
struct TermSum {
    private var high = Quad(repeating: splat(0))
    private var low = Quad(repeating: splat(0))

    @inline(__always)
    init() {}

    /// Adds `term` + `rest` to each, |rest| far below |term|.
    @inline(__always)
    mutating func add(_ term: Quad, _ rest: Quad) {
        // Knuth's TwoSum.
        let sum = high.map(term) { $0 + $1 }
        let rounded = sum.map(high) { $0 - $1 }
        let error = high.map(sum.map(rounded) { $0 - $1 }) { $0 - $1 }
            .map(term.map(rounded) { $0 - $1 }) { $0 + $1 }
        high = sum
        low = low.map(error.map(rest) { $0 + $1 }) { $0 + $1 }
    }

    /// The sum per lane.
    @inline(__always)
    var pair: Pair {
        (pair(high.a, low.a) + pair(high.b, low.b)) + (pair(high.c, low.c) + pair(high.d, low.d))
    }

    @inline(__always)
    private func pair(_ high: Vector, _ low: Vector) -> Pair {
        #if SWIFTMAX_FLOAT64
            return Pair(sumOrdered: high, low)
        #else
            return Pair(high: vector_widen(high) + vector_widen(low), low: splatWide(0))
        #endif
    }
}

/// The terms of a gradient's sum, g * y or g, and what rounding has taken from them.
@inline(__always)
func terms(_ op: Operation, _ g: Quad, _ y: @autoclosure () -> Quad) -> (Quad, Quad) {
    if op != .softmax { return (g, Quad(repeating: splat(0))) }
    let y = y()
    let product = g.map(y) { $0 * $1 }
    let error = Quad(
        vector_product_error(g.a, y.a, product.a), vector_product_error(g.b, y.b, product.b),
        vector_product_error(g.c, y.c, product.c), vector_product_error(g.d, y.d, product.d))
    return (product, error)
}

/// The sum of one block (n <= `block`) of a row.
@inline(__always)
func blockSum(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) -> (high: Double, low: Double) {
    var firstLane = 0
    while firstLane < virtualLanes {
        var sum = TermSum()
        var i = firstLane
        while i < n {
            let (second, third) = (i &+ virtualLanes, i &+ 2 &* virtualLanes)
            let fourth = third &+ virtualLanes
            @inline(__always)
            func members(_ x: UnsafeRawPointer) -> Quad {
                if fourth &+ lanes <= n {
                    return Quad(
                        vector_load(x.element(i)), vector_load(x.element(second)),
                        vector_load(x.element(third)), vector_load(x.element(fourth)))
                }
                @inline(__always)
                func rest(_ first: Int) -> Vector {
                    first < n ? load(x.element(first), min(lanes, n &- first)) : splat(0)
                }
                return Quad(rest(i), rest(second), rest(third), rest(fourth))
            }
            let (term, error) = terms(op, members(g), members(y))
            sum.add(term, error)
            i &+= groupElements
        }
        laneSums.set(firstLane: firstLane, sum.pair)
        firstLane &+= lanes
    }
    return laneSums.total
}

/// sum(g * y) of a block.
@inline(never)
func softmaxBackwardSum(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) -> (high: Double, low: Double) { blockSum(.softmax, g, y, n, laneSums) }

/// sum(g) of a block.
@inline(never)
func logSoftmaxBackwardSum(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) -> (high: Double, low: Double) { blockSum(.logSoftmax, g, y, n, laneSums) }

/// The sum of one block of a row, as the high and low of its stats.
func rowSum(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) -> swiftmax_stats {
    let total =
        op == .softmax
        ? softmaxBackwardSum(g, y, n, laneSums) : logSoftmaxBackwardSum(g, y, n, laneSums)
    return swiftmax_stats(max: 0, high: total.high, low: total.low, count: 0)
}

/// The sums of two blocks of a row put together.
func merged(_ a: swiftmax_stats, _ b: swiftmax_stats) -> swiftmax_stats {
    Stats(
        max: splatWide(0), sum: Stats(a).sum + Stats(b).sum, count: splatWide(0)
    ).first
}

// MARK: Results

/// What turns the elements of a slice into its gradient.
struct BackwardResult {
    let sum: Vector
    let sumLow: Vector

    /// One slice per lane.
    @inline(__always)
    init(_ total: Pair) {
        sum = wide_narrow(total.high)
        #if SWIFTMAX_FLOAT64
            let low = total.low
        #else
            let low = wide_narrow(total.high - vector_widen(sum))
        #endif
        // Not a number where the sum is infinite.
        sumLow = splat(0).replacing(with: low, where: low .== low)
    }

    @inline(__always)
    func softmax(_ g: Vector, _ y: Vector) -> Vector { y * ((g - sum) - sumLow) }

    /// exp(y) = (1 + tail) * 2^n is put together from two powers, as n has more than their range.
    @inline(__always)
    func logSoftmax(_ g: Vector, _ y: Vector) -> Vector {
        // At the lower bound the second power is 0; at the upper the product of both overflows.
        let lowest = splat((1 - 2 * exponentBias) * ln2)
        let highest = splat((exponentBias + 2) * ln2)
        let clamped = maximum(y, lowest)
        let d = clamped.replacing(with: highest, where: clamped .> highest)
        let n = rounded(d)
        let tail = expTail(reduced(d, n))
        let magic = splat(roundingMagic)
        let half = vector_fma(n, splat(0.5), magic) - magic
        let biased = splat(roundingMagic + exponentBias)
        let power = vector_exponent_from_mantissa(half + biased)
        let otherPower = vector_exponent_from_mantissa((n - half) + biased)
        let scaled = sum * power
        return g - vector_fma(tail, scaled, scaled) * otherPower
    }

    @inline(__always)
    func callAsFunction(_ op: Operation, _ g: Vector, _ y: Vector) -> Vector {
        op == .softmax ? softmax(g, y) : logSoftmax(g, y)
    }
}

@inline(never)
func writeSoftmaxBackward(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
    _ stats: swiftmax_stats, streaming: Bool
) {
    let result = BackwardResult(Stats(stats).sum)
    writeRow(out, n, streaming: streaming) { i, count in
        result.softmax(load(g.element(i), count), load(y.element(i), count))
    }
}

@inline(never)
func writeLogSoftmaxBackward(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
    _ stats: swiftmax_stats, streaming: Bool
) {
    let result = BackwardResult(Stats(stats).sum)
    writeRow(out, n, streaming: streaming) { i, count in
        result.logSoftmax(load(g.element(i), count), load(y.element(i), count))
    }
}

/// The gradient of a row, or of a part of it, given the sum over the whole.
func writeBackward(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
    _ n: Int, _ stats: swiftmax_stats, streaming: Bool
) {
    if op == .softmax {
        writeSoftmaxBackward(g, y, out, n, stats, streaming: streaming)
    } else {
        writeLogSoftmaxBackward(g, y, out, n, stats, streaming: streaming)
    }
}

// MARK: Rows

/// One of the arrays of a backward operation.
struct Operand {
    let address: UnsafeRawPointer
    /// From one row, or one element of a column, to the next, in bytes.
    let stride: Int
}

/// The backward operation on `rows` slices.
func backwardRows(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    let laneSums = scratch.laneSums(0)
    for row in 0..<rows {
        let (g, y) = (g.address + row &* g.stride, y.address + row &* y.stride)
        var stats = rowSum(op, g, y, min(n, block), laneSums)
        var first = block
        while first < n {
            let next = rowSum(
                op, g.element(first), y.element(first), min(block, n &- first), laneSums)
            stats = merged(stats, next)
            first &+= block
        }
        writeBackward(op, g, y, out + row &* outStride, n, stats, streaming: streaming)
    }
}

// MARK: Columns

/// The sum of one block of a vector of columns, `present` of them.
@inline(__always)
func blockSum(
    _ op: Operation, _ g: Operand, _ y: Operand, _ n: Int, _ present: Int,
    _ laneSums: UnsafeMutableRawPointer
) -> Pair {
    let pairs = laneSums.assumingMemoryBound(to: Pair.self)
    let used = min(virtualLanes, n)
    for lane in 0..<used {
        var sum = TermSum()
        var i = lane
        while i < n {
            @inline(__always)
            func members(_ x: Operand) -> Quad {
                @inline(__always)
                func member(_ j: Int) -> Vector {
                    let index = i &+ j &* virtualLanes
                    return index < n ? load(x.address + index &* x.stride, present) : splat(0)
                }
                return Quad(member(0), member(1), member(2), member(3))
            }
            let (term, error) = terms(op, members(g), members(y))
            sum.add(term, error)
            i &+= groupElements
        }
        pairs[lane] = sum.pair
    }
    return sumOfLanes(pairs, used)
}

/// The backward operation on one vector of columns, `present` of them.
@inline(__always)
func backwardColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ present: Int, _ n: Int, _ laneSums: UnsafeMutableRawPointer, streaming: Bool
) {
    var total = Pair(high: splatWide(0), low: splatWide(0))
    var first = 0
    while first < n {
        let next = blockSum(
            op, Operand(address: g.address + first &* g.stride, stride: g.stride),
            Operand(address: y.address + first &* y.stride, stride: y.stride), min(block, n &- first),
            present, laneSums)
        total = first == 0 ? next : total + next
        first &+= block
    }
    let result = BackwardResult(total)
    writeColumns(out, outStride, present, n, streaming: streaming) { i, count in
        result(
            op, load(g.address + i &* g.stride, count), load(y.address + i &* y.stride, count))
    }
}

/// A whole vector of columns; `present` is a constant here, so that it costs nothing.
@inline(never)
func backwardWholeColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ n: Int, _ laneSums: UnsafeMutableRawPointer, streaming: Bool
) {
    switch op {
    case .softmax:
        backwardColumns(.softmax, g, y, out, outStride, lanes, n, laneSums, streaming: streaming)
    default:
        backwardColumns(.logSoftmax, g, y, out, outStride, lanes, n, laneSums, streaming: streaming)
    }
}

/// The last columns, fewer than a vector.
@inline(never)
func backwardPartialColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ present: Int, _ n: Int, _ laneSums: UnsafeMutableRawPointer
) { backwardColumns(op, g, y, out, outStride, present, n, laneSums, streaming: false) }

/// The backward operation on `columns` slices.
func backwardColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ columns: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    let laneSums = scratch.columnLaneSums
    var column = 0
    while column < columns {
        let present = min(lanes, columns &- column)
        let g = Operand(address: g.address.element(column), stride: g.stride)
        let y = Operand(address: y.address.element(column), stride: y.stride)
        if present == lanes {
            backwardWholeColumns(
                op, g, y, out.element(column), outStride, n, laneSums, streaming: streaming)
        } else {
            backwardPartialColumns(op, g, y, out.element(column), outStride, present, n, laneSums)
        }
        column &+= lanes
    }
}
