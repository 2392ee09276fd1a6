// Gradients of slices whose elements are contiguous.

import CKernels
import CVector

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

    @inline(__always)
    func moved(by bytes: Int) -> Operand { Operand(address: address + bytes, stride: stride) }
}

// MARK: Sums

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512
    /// Leaves the lane sums of the first block of each row, `rows` of them with `n` elements.
    @inline(__always)
    private func blockSums<Part: RowSumPart>(
        _ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ n: Int, _ laneSums: LaneSums,
        as: RowSum<Part>.Type
    ) {
        for r in 0..<rows {
            let (g, y) = (g.from(r).address, y.from(r).address)
            #if SWIFTMAX_FLOAT64 && SWIFTMAX_AVX512
                if op == .softmax && n >= 8 &* lanes && headOfRow(g) > 0 && headOfRow(y) > 0 {
                    setAlignedSums(g, y, n, laneSums.row(r))
                    continue
                }
            #endif
            var sum = RowSum<Part>()
            var i = 0
            while i &+ virtualLanes <= n {
                sum.add(op, g.element(i), y.element(i))
                i &+= virtualLanes
            }
            if i < n { sum.add(op, g.element(i), y.element(i), n &- i) }
            sum.leave(in: laneSums.row(r))
        }
    }
#endif

#if SWIFTMAX_FLOAT64 && SWIFTMAX_AVX512
    /// The softmax lane sums of a row by cache lines of g: vectors that go across lines take longer to come from the last cache (measured
    /// on a Zen 5). What is before the first line goes to the last lanes, so that each lane has the elements of a virtual lane in
    /// order, and then they are rotated.
    @inline(__always)
    private func setAlignedSums(_ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums)
    {
        var sum = LaneSum()
        var i = headOfRow(g)
        let distance = lanes &- i
        sum.add(
            .softmax, vector_load_last(g.element(i &- lanes), distance),
            vector_load_last(y.element(i &- lanes), distance))
        while i &+ lanes <= n {
            sum.add(.softmax, vector_load(g.element(i)), vector_load(y.element(i)))
            i &+= lanes
        }
        if i < n { sum.add(.softmax, load(g.element(i), n &- i), load(y.element(i), n &- i)) }
        let (high, low) = (sum.pair.high, sum.pair.low)
        laneSums.set(
            firstLane: 0, Pair(high: vector_rotated(high, distance), low: vector_rotated(low, distance)))
    }
#endif

/// The same, eight elements at a time if `eights`, where a kernel can.
@inline(__always)
func blockSums(
    _ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ n: Int, _ laneSums: LaneSums, eights: Bool
) {
    #if SWIFTMAX_AVX2 || SWIFTMAX_AVX512
        #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
            if eights { return blockSums(op, g, y, rows, n, laneSums, as: RowSum<EightSums>.self) }
        #endif
        blockSums(op, g, y, rows, n, laneSums, as: RowSum<OwnSums>.self)
    #else
        for r in 0..<rows {
            let (g, y) = (g.from(r).address, y.from(r).address)
            var firstLane = 0
            while firstLane < virtualLanes {
                var sum = LaneSum()
                var i = firstLane
                while i &+ lanes <= n {
                    sum.add(op, vector_load(g.element(i)), vector_load(y.element(i)))
                    i &+= virtualLanes
                }
                if i < n { sum.add(op, load(g.element(i), n &- i), load(y.element(i), n &- i)) }
                laneSums.row(r).set(firstLane: firstLane, sum.pair)
                firstLane &+= lanes
            }
        }
    #endif
}

/// As `blockSums`, for rows that one vector holds.
@inline(__always)
func shortSums(_ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ n: Int, _ laneSums: LaneSums) {
    for r in 0..<rows {
        let (g, y) = (g.from(r).address, y.from(r).address)
        // Loads of a part of a vector do not make the CPU read ahead by itself.
        if n < lanes {
            vector_prefetch(g + gradientBatchBytes)
            vector_prefetch(y + gradientBatchBytes)
        }
        // The results of log_softmax alone need y.
        if op == .logSoftmax { vector_prefetch(y) }
        laneSums.row(r).set(firstLane: 0, LaneSum(op, load(g, n), load(y, n)).pair)
        var firstLane = lanes
        while firstLane < virtualLanes {
            laneSums.row(r).set(firstLane: firstLane, .zero)
            firstLane &+= lanes
        }
    }
}

@inline(never)
func softmaxBackwardSums(
    _ g: Operand, _ y: Operand, _ rows: Int, _ n: Int, _ laneSums: LaneSums, eights: Bool
) {
    if n < lanes {
        shortSums(.softmax, g, y, rows, n, laneSums)
    } else {
        blockSums(.softmax, g, y, rows, n, laneSums, eights: eights)
    }
}

@inline(never)
func logSoftmaxBackwardSums(
    _ g: Operand, _ y: Operand, _ rows: Int, _ n: Int, _ laneSums: LaneSums, eights: Bool
) {
    if n < lanes {
        shortSums(.logSoftmax, g, y, rows, n, laneSums)
    } else {
        blockSums(.logSoftmax, g, g, rows, n, laneSums, eights: eights)
    }
}

@inline(__always)
func backwardSums(
    _ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ n: Int, _ laneSums: LaneSums, eights: Bool
) {
    if op == .softmax {
        softmaxBackwardSums(g, y, rows, n, laneSums, eights: eights)
    } else {
        logSoftmaxBackwardSums(g, y, rows, n, laneSums, eights: eights)
    }
}

/// The sum of one block of a row; see `GradientSum`.
@inline(never)
func rowSum(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ n: Int, scale: Double,
    _ scratch: Scratch, eights: Bool
) -> GradientSum {
    var source = g
    var plain = 0.0
    if scale != 1 {
        writeRow(scratch.spare, n, streaming: false) { i, count in
            load(g.element(i), count) * splat(Element(scale))
        }
        source = UnsafeRawPointer(scratch.spare)
        for i in 0..<n {
            let term = source.element(i).loadUnaligned(as: Element.self)
            plain += Double(op == .softmax ? term * y.element(i).loadUnaligned(as: Element.self) : term)
        }
    }
    backwardSums(
        op, Operand(address: source, stride: 0), Operand(address: y, stride: 0), 1, n, scratch.laneSums,
        eights: eights)
    scratch.table.setTotals(1, scratch.laneSums)
    let total = scratch.table.total(0)
    return GradientSum(
        swiftmax_stats(max: scale, high: total.high, low: total.low, count: plain))
}

// MARK: Results

/// The softmax gradients of rows whose constants are in the table.
@inline(never)
func writeSoftmaxBackward(
    _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
    _ table: SliceTable, streaming: Bool
) {
    if n <= lanes {
        for r in 0..<rows {
            let (g, y) = (
                vector_load_partial(g.from(r).address, n, splat(0)),
                vector_load_partial(y.from(r).address, n, splat(0))
            )
            store(out + r &* outStride, table.backwardResult(r)(.softmax, g, y), n)
        }
        return
    }
    @inline(__always)
    func write(streaming: Bool, aligning: Bool) {
        for r in 0..<rows {
            let result = table.backwardResult(r)
            let (g, y) = (g.from(r).address, y.from(r).address)
            writeRow(out + r &* outStride, n, streaming: streaming, aligning: aligning ? g : nil) {
                i, count in
                result(.softmax, load(g.element(i), count), load(y.element(i), count))
            }
        }
    }
    // Loops of their own, as the shorter rows would suffer from the questions alone.
    if n >= 8 &* lanes {
        // After a part of a vector the others lie within a cache line each, where every one would cross into the next.
        write(streaming: streaming, aligning: vectorBytes == 64)
    } else {
        write(streaming: false, aligning: false)
    }
}

/// The same of log_softmax. Four vectors are computed side by side, as each step of an exponential waits for the one before:
/// first four of a row, as often as it has as many, and then one of each of four rows.
@inline(never)
func writeLogSoftmaxBackward(
    _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
    _ table: SliceTable, streaming: Bool
) {
    let step = 4 &* lanes
    let streams = canStream && streaming && hasLines(out, n)
    let head = streams ? headOfRow(out, lineBytes) : 0
    let whole = (n &- head) / step &* step
    if whole > 0 {
        for r in 0..<rows {
            let result = table.backwardResult(r)
            let (g, y) = (g.from(r).address.element(head), y.from(r).address.element(head))
            let out = (out + r &* outStride).element(head)
            for i in stride(from: 0, to: whole, by: step) {
                for v in 0..<4 { vector_prefetch(y.element(i) + (4096 &+ v &* vectorBytes)) }
                let four = result.logSoftmax(loadQuad(g.element(i)), loadQuad(y.element(i)))
                if streams {
                    streamQuad(out.element(i), four)
                } else {
                    storeQuad(out.element(i), four)
                }
            }
        }
    }
    var i = head > 0 ? 0 : whole
    while i < n {
        let present = min(lanes, (i < head ? head : n) &- i)
        @inline(__always)
        func elements(_ operand: Operand, _ row: Int) -> Vector {
            let address = operand.from(row).address.element(i)
            // Zen 3 by itself does not read ahead of rows this short.
            vector_prefetch(address + 4096)
            return vector_load_partial(address, present, splat(0))
        }
        @inline(__always)
        func write(_ row: Int, _ result: Vector) {
            let target = (out + row &* outStride).element(i)
            // Of rows without a whole step the CPU by itself does not ask for where the results go (measured on a Zen 5).
            if whole == 0 { vector_prefetch(target + 4096) }
            vector_store_partial(target, result, present)
        }
        var r = 0
        while r &+ 4 <= rows {
            let four = BackwardResult.logSoftmax(
                Quad { elements(g, r &+ $0) }, Quad { elements(y, r &+ $0) },
                sum: Quad { table.backwardResult(r &+ $0).sum },
                sumLow: Quad { table.backwardResult(r &+ $0).sumLow })
            four.forEach(four, four) { v, result, _, _ in write(r &+ v, result) }
            r &+= 4
        }
        while r < rows {
            write(r, table.backwardResult(r)(.logSoftmax, elements(g, r), elements(y, r)))
            r &+= 1
        }
        i &+= present
        if i == head { i &+= whole }
    }
}

@inline(__always)
private func writeBackward(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ n: Int, _ table: SliceTable, streaming: Bool
) {
    if op == .softmax {
        writeSoftmaxBackward(g, y, out, outStride, rows, n, table, streaming: streaming)
    } else {
        writeLogSoftmaxBackward(g, y, out, outStride, rows, n, table, streaming: streaming)
    }
}

#if SWIFTMAX_AVX512
    /// The softmax gradients of rows that share lines.
    @inline(never)
    private func writeSharing(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
        _ table: SliceTable, _ shared: SharedLines
    ) {
        for r in 0..<rows {
            let result = table.backwardResult(r)
            let (g, y) = (g.from(r).address, y.from(r).address)
            shared.writeRow(r, of: rows, out + r &* outStride, n) { i, count in
                result(.softmax, load(g.element(i), count), load(y.element(i), count))
            }
        }
    }
#endif

@inline(never)
func writeUnusualBackward(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
    _ n: Int, _ result: BackwardResult
) {
    // So rare that one body serves whole vectors and the last.
    var i = 0
    while i < n {
        let count = min(lanes, n &- i)
        let (g, y) = (
            vector_load_partial(g.element(i), count, splat(0)),
            vector_load_partial(y.element(i), count, splat(0))
        )
        vector_store_partial(out.element(i), result.general(op, g, y), count)
        i &+= lanes
    }
}

/// The gradient of a row, or of a part of it, given the sum over the whole. Its constants take the table's first place.
func writeBackward(
    _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
    _ n: Int, _ sum: GradientSum, _ table: SliceTable, streaming: Bool
) {
    let result = BackwardResult(sum)
    if result.isOrdinary {
        table.setBackwardResult(0, result)
        let (g, y) = (Operand(address: g, stride: 0), Operand(address: y, stride: 0))
        writeBackward(op, g, y, out, 0, 1, n, table, streaming: streaming)
    } else {
        writeUnusualBackward(op, g, y, out, n, result)
    }
}

// MARK: The operation

/// The backward operation on `rows` slices.
func backwardRows(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ n: Int, _ scratch: Scratch, streaming: Bool, far: Bool, eights: Bool
) {
    if elementBytes == 4 && areTinyGradients(n) {
        return backwardTinyRows(op, g, y, out, outStride, rows, n, scratch)
    }
    if n > block {
        backwardLongRows(
            op, g, y, out, outStride, rows, n, scratch, streaming: streaming, eights: eights)
        return
    }
    // Short rows in phases, as in `forwardRows`.
    let table = scratch.table
    let streaming = streaming && SharedLines.areStreamed(out, outStride, n)
    #if SWIFTMAX_AVX512
        let areSharing = streaming && op == .softmax && SharedLines.areThere(out, outStride, n)
        var areBegun = false
    #endif
    let rowBytes = n &* elementBytes
    let batch = wholeOctets(min(gradientBatch, max(1, batchBytes(op, rowBytes, far: far) / rowBytes)))
    var first = 0
    while first < rows {
        let count = min(batch, rows &- first)
        let (g, y, out) = (g.from(first), y.from(first), out + first &* outStride)
        backwardSums(op, g, y, count, n, scratch.laneSums, eights: eights)
        table.setTotals(count, scratch.laneSums)
        let areOrdinary = table.setBackwardResults(count)
        first &+= count
        #if SWIFTMAX_AVX512
            if areSharing && areOrdinary {
                let shared = SharedLines(
                    room: scratch.row, areBegun: areBegun, areContinued: first < rows)
                writeSharing(g, y, out, outStride, count, n, table, shared)
                areBegun = true
                continue
            }
            if areBegun { SharedLines.end(before: out, room: scratch.row) }
            areBegun = false
        #endif
        if areOrdinary {
            writeBackward(op, g, y, out, outStride, count, n, table, streaming: streaming)
        } else {
            backwardLongRows(
                op, g, y, out, outStride, count, n, scratch, streaming: false, eights: eights)
        }
    }
}

/// Rows whose gradients are taken through all phases together: few, so that they stay in the first cache.
@inline(__always) var gradientBatch: Int { 64 }
@inline(__always) var gradientBatchBytes: Int { 8704 }

/// A part of them where they lie in memory, to read and write that in turns too short for it to notice; but up to half of
/// them where these are eight rows.
@inline(__always)
private func batchBytes(_ op: Operation, _ rowBytes: Int, far: Bool) -> Int {
    if !far { return gradientBatchBytes }
    let half = gradientBatchBytes / 2
    return op == .softmax ? max(half / 2, 8 &* rowBytes <= half ? 8 &* rowBytes : 0) : half
}

/// So many rows, or a few less: the sums of eight are put together at once.
@inline(__always)
func wholeOctets(_ rows: Int) -> Int { rows < 8 ? rows : rows & ~7 }

/// The backward operation on `rows` slices one after another: long ones, and any whose sums need care.
@inline(never)
func backwardLongRows(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ n: Int, _ scratch: Scratch, streaming: Bool, eights: Bool
) {
    for row in 0..<rows {
        let (g, y) = (g.from(row).address, y.from(row).address)
        @inline(__always)
        func total(scale: Double) -> GradientSum {
            @inline(__always)
            func blockSum(_ first: Int) -> GradientSum {
                rowSum(
                    op, g.element(first), y.element(first), min(block, n &- first), scale: scale, scratch,
                    eights: eights)
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
        writeBackward(op, g, y, out + row &* outStride, n, sum, scratch.table, streaming: streaming)
    }
}
