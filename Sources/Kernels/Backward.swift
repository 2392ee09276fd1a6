// The gradients: grad_input = y * (g - sum(g * y)) of softmax, g - exp(y) * sum(g) of log_softmax, where g is
// grad_output and y the output of the forward operation.
//
// The sums are those of Ogita, Rump and Oishi, "Accurate sum and dot product" (2005): products and additions keep
// their rounding errors, which are summed apart, so that the result is as if computed in twice the precision. The
// partial sums are those of the forward operation, but for the four members of a group, which have one each.
//
// A sum that is not finite is taken again from gradients scaled down, as it may overflow where the result does not.

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
        (TermSum.pair(high.a, low.a) + TermSum.pair(high.b, low.b))
            + (TermSum.pair(high.c, low.c) + TermSum.pair(high.d, low.d))
    }

    @inline(__always)
    static func pair(_ high: Vector, _ low: Vector) -> Pair {
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

/// Leaves the lane sums of one block (n <= `block`) of a row.
@inline(__always)
func blockSum(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) {
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
}

/// sum(g * y) of a block.
@inline(never)
func softmaxBackwardSum(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) { blockSum(.softmax, g, y, n, laneSums) }

/// sum(g) of a block.
@inline(never)
func logSoftmaxBackwardSum(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) { blockSum(.logSoftmax, g, y, n, laneSums) }

@inline(__always)
func backwardSum(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums
) {
    if op == .softmax {
        softmaxBackwardSum(g, y, n, laneSums)
    } else {
        logSoftmaxBackwardSum(g, y, n, laneSums)
    }
}

/// The sum of one block of a row; see `GradientSum`.
///
/// - Parameter spare: room for a block.
func rowSum(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, scale: Double,
    _ laneSums: LaneSums, spare: UnsafeMutableRawPointer
) -> GradientSum {
    var source = g
    var plain = 0.0
    if scale != 1 {
        writeRow(spare, n, streaming: false) { i, count in
            load(g.element(i), count) * splat(Element(scale))
        }
        source = UnsafeRawPointer(spare)
        for i in 0..<n {
            let term = source.element(i).loadUnaligned(as: Element.self)
            plain += Double(op == .softmax ? term * y.element(i).loadUnaligned(as: Element.self) : term)
        }
    }
    backwardSum(op, source, y, n, laneSums)
    let total = laneSums.total
    return GradientSum(
        swiftmax_stats(max: scale, high: total.high, low: total.low, count: plain))
}

/// The sum of one slice per lane, or of a block of it.
struct GradientSum {
    /// What g was multiplied by before: 1 or `downScale`.
    var scale: Wide
    var sum: Pair
    /// The sum in plain arithmetic, which infinities pass unharmed; 0 where scale is 1.
    var plain: Wide

    @inline(__always)
    init(scale: Wide, sum: Pair, plain: Wide) {
        self.scale = scale
        self.sum = sum
        self.plain = plain
    }

    /// The same slice in every lane.
    @inline(__always)
    init(_ stats: swiftmax_stats) {
        let all = Stats(stats)
        (scale, sum, plain) = (all.max, all.sum, all.count)
    }

    /// The slice of the first lane.
    @inline(__always)
    var first: swiftmax_stats { Stats(max: scale, sum: sum, count: plain).first }

    /// This and the next block together.
    @inline(__always)
    static func + (a: GradientSum, b: GradientSum) -> GradientSum {
        GradientSum(scale: a.scale, sum: a.sum + b.sum, plain: a.plain + b.plain)
    }

    /// 1 where the sum must be taken again with `downScale`, else 0.
    @inline(__always)
    var needsScale: Wide { isTooLarge(sum) }

    /// From the sums taken with `downScale`: without it where the sum then is finite, and where it is not for any
    /// scale.
    @inline(__always)
    var settled: GradientSum {
        let unscaled = sum.scaled(by: splatWide(1 / downScale))
        let result = replacing(
            with: GradientSum(scale: splatWide(1), sum: unscaled, plain: plain),
            where: splatWide(1) - isTooLarge(unscaled))
        return result.replacing(
            with: GradientSum(
                scale: splatWide(1), sum: Pair(high: plain, low: splatWide(0)), plain: plain),
            where: isTooLarge(sum))
    }

    /// These sums, with those of `other` in the lanes where `flag` is 1.
    @inline(__always)
    func replacing(with other: GradientSum, where flag: Wide) -> GradientSum {
        @inline(__always)
        func chosen(_ a: Wide, _ b: Wide) -> Wide { wide_if_equal(flag, splatWide(1), b, a) }
        return GradientSum(
            scale: chosen(scale, other.scale),
            sum: Pair(high: chosen(sum.high, other.sum.high), low: chosen(sum.low, other.sum.low)),
            plain: chosen(plain, other.plain))
    }
}

/// Scales the largest gradients so that 2^63 of them can be summed.
@inline(__always) var downExponent: Element { 64 }
@inline(__always) var downScale: Double { 0x1p-64 }

/// 1 where a sum is NaN, or as an element so close to infinity that its multiples by less than 4 may be infinite; else 0.
@inline(__always)
func isTooLarge(_ sum: Pair) -> Wide {
    let element = vector_widen(wide_narrow(sum.high * splatWide(4)))
    return wide_if_equal(element - element, splatWide(0), splatWide(0), splatWide(1))
}

// MARK: Results

/// What turns the elements of a slice into its gradient.
struct BackwardResult {
    let sum: Vector
    let sumLow: Vector
    /// The scale of the sum; see `GradientSum`.
    let scale: Vector

    /// Of slices with ordinary sums.
    @inline(__always)
    init(sum: Vector, sumLow: Vector) {
        self.sum = sum
        self.sumLow = sumLow
        scale = splat(1)
    }

    /// One slice per lane.
    @inline(__always)
    init(_ total: GradientSum) {
        sum = wide_narrow(total.sum.high)
        #if SWIFTMAX_FLOAT64
            let low = total.sum.low
        #else
            let low = wide_narrow(total.sum.high - vector_widen(sum))
        #endif
        // Not a number where the sum is infinite.
        sumLow = vector_if_equal(low, low, low, splat(0))
        scale = wide_narrow(total.scale)
    }

    /// Whether every slice's sum is finite and not scaled.
    @inline(__always)
    var isOrdinary: Bool {
        let ordinary = vector_if_equal(sum - sum, splat(0), scale, splat(0))
        return vector_count_equal(ordinary, splat(1)) == lanes
    }

    @inline(__always)
    private var isInfinite: SIMDMask<Vector.MaskStorage> {
        (sum .== splat(.infinity)) .| (sum .== splat(-.infinity))
    }

    /// The gradient where `isOrdinary`.
    @inline(__always)
    func callAsFunction(_ op: Operation, _ g: Vector, _ y: Vector) -> Vector {
        op == .softmax ? softmax(g, y) : logSoftmax(g, y, exponent: splat(0))
    }

    /// The gradient anywhere: the same where `isOrdinary`.
    @inline(__always)
    func general(_ op: Operation, _ g: Vector, _ y: Vector) -> Vector {
        if op == .softmax { return softmax(g * scale, y) * (splat(1) / scale) }
        let zero = splat(0)
        let one = splat(1)
        let isScaled = scale .!= one
        // What is taken from g may overflow where the difference does not: both are quartered.
        let isQuartered = isScaled .& ((g .> one) .| (g .< -one))
        let quarter = one.replacing(with: splat(0.25), where: isQuartered)
        let exponent = zero.replacing(with: splat(downExponent), where: isScaled)
            .replacing(with: splat(downExponent - 2), where: isQuartered)
        let scaled = logSoftmax(g * quarter, y, exponent: exponent) * (one / quarter)
        // exp(y) times infinity is infinite, but NaN where exp(y) is 0 or NaN.
        let t = y.replacing(with: zero, where: y .> zero)
        return scaled.replacing(with: g - (sum + (t - t)), where: isInfinite)
    }

    @inline(__always)
    private func softmax(_ g: Vector, _ y: Vector) -> Vector {
        vector_fma(y, g, -vector_fma(y, sum, y * sumLow))
    }

    /// exp(y) * 2^exponent = (1 + tail) * 2^n is put together from two powers, as n has more than their range.
    @inline(__always)
    private func logSoftmax(_ g: Vector, _ y: Vector, exponent: Vector) -> Vector {
        // At the lower bound the second power is 0; at the upper the product of both overflows.
        let lowest = (splat(1 - 2 * exponentBias) - exponent) * splat(ln2)
        let highest = (splat(exponentBias + 2) - exponent) * splat(ln2)
        let clamped = maximum(y, lowest)
        let d = vector_min(clamped, highest)
        let n = rounded(d)
        let tail = expTail(reduced(d, n))
        let magic = splat(roundingMagic)
        let half = vector_fma(n, splat(0.5), magic + splat(0.5) * exponent) - magic
        let biased = splat(roundingMagic + exponentBias)
        let power = vector_exponent_from_mantissa(half + biased)
        let otherPower = vector_exponent_from_mantissa((n - half) + (biased + exponent))
        let scaled = sum + vector_fma(tail, sum, vector_fma(tail, sumLow, sumLow))
        return vector_fma(-(scaled * power), otherPower, g)
    }
}

@inline(never)
func writeSoftmaxBackward(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
    _ result: BackwardResult, streaming: Bool
) {
    writeRow(out, n, streaming: streaming) { i, count in
        result(.softmax, load(g.element(i), count), load(y.element(i), count))
    }
}

@inline(never)
func writeLogSoftmaxBackward(
    _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
    _ result: BackwardResult, streaming: Bool
) {
    writeRow(out, n, streaming: streaming) { i, count in
        result(.logSoftmax, load(g.element(i), count), load(y.element(i), count))
    }
}

@inline(never)
func writeUnusualBackward(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
    _ n: Int, _ result: BackwardResult, streaming: Bool
) {
    writeRow(out, n, streaming: streaming) { i, count in
        result.general(op, load(g.element(i), count), load(y.element(i), count))
    }
}

/// The gradient of a row, or of a part of it, given the sum over the whole.
func writeBackward(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
    _ n: Int, _ sum: GradientSum, streaming: Bool
) {
    let result = BackwardResult(sum)
    if !result.isOrdinary {
        writeUnusualBackward(op, g, y, out, n, result, streaming: streaming)
    } else {
        writeOrdinaryBackward(op, g, y, out, n, result, streaming: streaming)
    }
}

@inline(__always)
func writeOrdinaryBackward(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
    _ n: Int, _ result: BackwardResult, streaming: Bool
) {
    if op == .softmax {
        writeSoftmaxBackward(g, y, out, n, result, streaming: streaming)
    } else {
        writeLogSoftmaxBackward(g, y, out, n, result, streaming: streaming)
    }
}

// MARK: Rows

/// One of the arrays of a backward operation.
struct Operand {
    let address: UnsafeRawPointer
    /// From one row, or one element of a column, to the next, in bytes.
    let stride: Int

    /// The rows, or the elements of a column, from `index` on.
    @inline(__always)
    func from(_ index: Int) -> Operand {
        Operand(address: address + index &* stride, stride: stride)
    }
}

/// The backward operation on `rows` slices.
func backwardRows(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    if n > block {
        backwardLongRows(op, g, y, out, outStride, 0, rows, n, scratch, streaming: streaming)
        return
    }
    // Short rows in phases, as in `shortRowStats`.
    let table = scratch.table
    let batch = min(SliceTable.capacity, max(1, rowBatchBytes / (n &* elementBytes)))
    var first = 0
    while first < rows {
        let count = min(batch, rows &- first)
        for r in 0..<count {
            backwardSum(op, g.from(first &+ r).address, y.from(first &+ r).address, n, scratch.laneSums(r))
        }
        for r in 0..<count { table.setTotal(r, scratch.laneSums(r).total) }
        if !table.setBackwardResults(count) {
            backwardLongRows(op, g, y, out, outStride, first, count, n, scratch, streaming: streaming)
        } else {
            for r in 0..<count {
                let row = first &+ r
                writeOrdinaryBackward(
                    op, g.from(row).address, y.from(row).address, out + row &* outStride, n,
                    table.backwardResult(r), streaming: streaming)
            }
        }
        first &+= count
    }
}

/// The backward operation on `count` rows from `first` on, one after another: long ones, and any whose sums need care.
func backwardLongRows(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ first: Int, _ count: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    for row in first..<first &+ count {
        let (g, y) = (g.from(row).address, y.from(row).address)
        @inline(__always)
        func total(scale: Double) -> GradientSum {
            @inline(__always)
            func blockSum(_ first: Int) -> GradientSum {
                rowSum(
                    op, g.element(first), y.element(first), min(block, n &- first), scale: scale,
                    scratch.laneSums(0), spare: scratch.spare)
            }
            var sum = blockSum(0)
            var first = block
            while first < n {
                sum = sum + blockSum(first)
                first &+= block
            }
            return sum
        }
        var sum = total(scale: 1)
        if sum.needsScale[0] != 0 { sum = total(scale: downScale).settled }
        writeBackward(op, g, y, out + row &* outStride, n, sum, streaming: streaming)
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
    if n <= virtualLanes {
        // One term for each virtual lane: what TermSum would make of it.
        for i in 0..<n {
            let (term, error) = terms(
                op, Quad(repeating: load(g.from(i).address, present)),
                Quad(repeating: load(y.from(i).address, present)))
            pairs[i] = TermSum.pair(term.a, error.a)
        }
        return sumOfLanes(pairs, used)
    }
    for lane in 0..<used {
        var sum = TermSum()
        var i = lane
        while i < n {
            @inline(__always)
            func members(_ x: Operand) -> Quad {
                @inline(__always)
                func member(_ j: Int) -> Vector {
                    let index = i &+ j &* virtualLanes
                    return index < n ? load(x.from(index).address, present) : splat(0)
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

/// The sums of a vector of columns, taken with `downScale`.
///
/// - Parameter scaled: room for a block of vectors.
@inline(never)
func scaledSum(
    _ op: Operation, _ g: Operand, _ y: Operand, _ present: Int, _ n: Int,
    _ laneSums: UnsafeMutableRawPointer, _ scaled: UnsafeMutableRawPointer
) -> GradientSum {
    let zero = splatWide(0)
    var total = GradientSum(scale: splatWide(downScale), sum: Pair(high: zero, low: zero), plain: zero)
    var first = 0
    while first < n {
        let count = min(block, n &- first)
        let (g, y) = (g.from(first), y.from(first))
        for i in 0..<count {
            let term = load(g.from(i).address, present) * splat(Element(downScale))
            vector_store(scaled + i &* vectorBytes, term)
            total.plain +=
                vector_widen(op == .softmax ? term * load(y.from(i).address, present) : term)
        }
        let next = blockSum(
            op, Operand(address: scaled, stride: vectorBytes), y, count, present, laneSums)
        total.sum = first == 0 ? next : total.sum + next
        first &+= block
    }
    return total
}

/// The backward operation on one vector of columns, `present` of them.
@inline(__always)
func backwardVector(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ present: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    let zero = splatWide(0)
    var total = GradientSum(scale: splatWide(1), sum: Pair(high: zero, low: zero), plain: zero)
    var first = 0
    while first < n {
        let next = blockSum(
            op, g.from(first), y.from(first), min(block, n &- first), present,
            scratch.columnLaneSums)
        total.sum = first == 0 ? next : total.sum + next
        first &+= block
    }
    let needsScale = total.needsScale
    if vector_sum(wide_narrow(needsScale)) > 0 {
        let again = scaledSum(
            op, g, y, present, n, scratch.columnLaneSums, scratch.exponentials.tails)
        total = total.replacing(with: again.settled, where: needsScale)
    }
    let result = BackwardResult(total)
    if result.isOrdinary {
        writeColumns(out, outStride, present, n, streaming: streaming) { i, count in
            result(op, load(g.from(i).address, count), load(y.from(i).address, count))
        }
    } else {
        writeUnusualBackward(op, g, y, out, outStride, present, n, result)
    }
}

@inline(never)
func writeUnusualBackward(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ present: Int, _ n: Int, _ result: BackwardResult
) {
    writeColumns(out, outStride, present, n, streaming: false) { i, count in
        result.general(op, load(g.from(i).address, count), load(y.from(i).address, count))
    }
}

/// A whole vector of columns; `present` is a constant here, so that it costs nothing.
@inline(never)
func backwardWholeColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    switch op {
    case .softmax:
        backwardVector(.softmax, g, y, out, outStride, lanes, n, scratch, streaming: streaming)
    default:
        backwardVector(.logSoftmax, g, y, out, outStride, lanes, n, scratch, streaming: streaming)
    }
}

/// The last columns, fewer than a vector.
@inline(never)
func backwardPartialColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ present: Int, _ n: Int, _ scratch: Scratch
) { backwardVector(op, g, y, out, outStride, present, n, scratch, streaming: false) }

/// The backward operation on `columns` slices.
func backwardColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ columns: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    var column = 0
    while column < columns {
        let present = min(lanes, columns &- column)
        let g = Operand(address: g.address.element(column), stride: g.stride)
        let y = Operand(address: y.address.element(column), stride: y.stride)
        if present == lanes {
            backwardWholeColumns(
                op, g, y, out.element(column), outStride, n, scratch, streaming: streaming)
        } else {
            backwardPartialColumns(op, g, y, out.element(column), outStride, present, n, scratch)
        }
        column &+= lanes
    }
}
