// Slices whose elements are contiguous: vectors run along the slice.

import CKernels
import CVector

/// The forward operation on `rows` slices, a batch at a time: first the stats of each, then the constants of
/// as many slices at once as a vector has lanes, then the results.
func forwardRows(
    _ op: Operation, _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer,
    _ outStride: Int, _ rows: Int, _ n: Int, _ scratch: UnsafeMutableRawPointer, streaming: Bool
) {
    let scratch = Scratch(address: scratch)
    let table = scratch.table
    let rowBytes = (n &+ lanes &- 1) / lanes &* vectorBytes
    let step = n <= block ? min(SliceTable.capacity, max(1, rowBatchBytes / rowBytes)) : 1

    var first = 0
    while first < rows {
        let count = min(step, rows &- first)
        let batch = RowBatch(x: x + first &* xStride, stride: xStride, first: 0, count: count, n: n)
        let target = out + first &* outStride
        var kept = LongRowPanel.none
        if n <= block {
            rowStats(op.sumKind, batch, scratch, scratch.exponentials)
        } else {
            if op == .softmax {
                kept = longRowPanel(batch.x, target, rowBytes, streaming: streaming)
            }
            table.set(0, longRowStats(op.sumKind, batch.x, n, kept, scratch))
        }
        table.setResults(op, count)
        switch op {
        case .softmax where n <= block:
            writeSoftmax(scratch.exponentials, batch, target, outStride, table, streaming: streaming)
        case .softmax: writeLongSoftmax(kept, batch.x, target, n, scratch, streaming: streaming)
        case .logSoftmax where n <= block:
            writeLogSoftmax(batch, target, outStride, table, streaming: streaming)
        case .logSoftmax: writeLogSoftmax(batch.x, target, n, table, streaming: streaming)
        case .logsumexp: writeLogsumexp(batch, target, outStride, table, scratch)
        }
        first &+= count
    }
}

/// Elements that are taken through all phases together: with their exponentials, they should stay in the first
/// cache.
@inline(__always) var rowBatchBytes: Int { 12288 }

// MARK: Results

/// By what the kept powers of a block are too large for the only slice in the table: they are relative to the
/// block's own maximum.
@inline(__always)
func blockScale(_ index: Int, _ table: SliceTable) -> Element {
    let (k, _) = wideExponent(max: table.stats(from: 0).max)
    let (own, _) = wideExponent(max: splatWide(Double(table.blockMax(index))))
    return Element(widePowerOfTwo(own - k)[0])
}

/// Where the exponentials of a softmax are kept, instead of computing them once more.
@inline(__always)
private func longRowPanel(
    _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ rowBytes: Int, streaming: Bool
) -> LongRowPanel {
    if rowBytes <= panelBytes { return .whole }
    // Exponentials of Float cost less than stores that go through the caches.
    let isWorthIt = elementBytes == 8 || !streaming
    return isWorthIt && rowBytes <= cachedRowBytes && x != UnsafeRawPointer(out) ? .tails(out) : .none
}

/// A row, and the tails in the place of its results, should still be in a cache when they are read again.
@inline(__always) private var cachedRowBytes: Int { 4 &* 1024 &* 1024 }

/// The softmax of the only row.
private func writeLongSoftmax(
    _ kept: LongRowPanel, _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
    _ scratch: Scratch, streaming: Bool
) {
    let table = scratch.table
    var start = 0
    if case .none = kept { start = n }
    if start == n || !blocksAreClose(n, table) {
        writeSoftmax(x, out, n, table, streaming: streaming)
        return
    }
    while start < n {
        let count = min(block, n &- start)
        let (index, target) = (start / block, out.element(start))
        let scale = blockScale(index, table)
        if case .tails = kept, count == block {
            writeSoftmaxOfTails(x.element(start), target, table, max: table.blockMax(index), scale: scale)
        } else {
            writeSoftmax(
                kept.panel(at: start, count, scratch.exponentials), target, count, table, scale: scale,
                streaming: streaming)
        }
        start &+= block
    }
}

/// Whether 1/sum, scaled to each block, stays a normal number.
@inline(__always)
func blocksAreClose(_ n: Int, _ table: SliceTable) -> Bool {
    var index = 0
    while index &* block < n {
        if blockScale(index, table) < 0x1p-16 { return false }
        index &+= 1
    }
    return true
}

/// The softmax of rows whose exponentials were kept.
@inline(never)
func writeSoftmax(
    _ kept: ExponentialPanel, _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ table: SliceTable, streaming: Bool
) {
    for r in 0..<rows.count {
        let softmax = table.softmaxResult(r)
        let kept = kept.from(r &* rows.rowBytes)
        writeRow(out + r &* outStride, rows.n, streaming: streaming) { i, _ in
            softmax(kept.load(at: i &* elementBytes))
        }
    }
}

/// The softmax of a block of the only row, whose exponentials were kept.
@inline(never)
func writeSoftmax(
    _ kept: ExponentialPanel, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable,
    scale: Element, streaming: Bool
) {
    var softmax = table.softmaxResult(0)
    softmax.inverse = softmax.inverse * splat(scale)
    softmax.inverseLow = softmax.inverseLow * splat(scale)
    writeRow(out, n, streaming: streaming) { i, _ in softmax(kept.load(at: i &* elementBytes)) }
}

/// The softmax of a block of the only row, in place of the tails of its exponentials.
@inline(never)
func writeSoftmaxOfTails(
    _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ table: SliceTable, max: Element,
    scale: Element
) {
    var softmax = table.softmaxResult(0)
    softmax.inverse = softmax.inverse * splat(scale)
    softmax.inverseLow = softmax.inverseLow * splat(scale)
    let shift = Shift(max: splat(max))
    writeRow(out, block, streaming: false) { i, _ in
        let tail = vector_load(out.element(i))
        return softmax(Exponential(tail: tail, power: shift.power(of: vector_load(x.element(i)))))
    }
}

/// The softmax of the only row, or of a part of it, whose exponentials are computed again.
@inline(never)
func writeSoftmax(
    _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable, streaming: Bool
) {
    let softmax = table.softmaxResult(0)
    writeRow(out, n, streaming: streaming) { i, count in softmax(load(x.element(i), count)) }
}

@inline(never)
func writeLogSoftmax(
    _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable, streaming: Bool
) {
    for r in 0..<rows.count {
        let logSoftmax = table.logSoftmaxResult(r)
        let x = rows.x + r &* rows.stride
        writeRow(out + r &* outStride, rows.n, streaming: streaming) { i, count in
            logSoftmax(load(x.element(i), count))
        }
    }
}

/// The log_softmax of the only row, or of a part of it.
@inline(never)
func writeLogSoftmax(
    _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable, streaming: Bool
) {
    let logSoftmax = table.logSoftmaxResult(0)
    writeRow(out, n, streaming: streaming) { i, count in logSoftmax(load(x.element(i), count)) }
}

func writeLogsumexp(
    _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
    _ scratch: Scratch
) {
    for r in 0..<rows.count {
        var value = table.logsumexp(r)
        if cancels(value, max: table.max(r)) && rows.n > 1 {
            let x = rows.x + r &* rows.stride
            value = Element(
                nearZeroLogsumexp(x, elementBytes, rows.n, max: Double(table.max(r)), scratch))
        }
        (out + r &* outStride).storeBytes(of: value, as: Element.self)
    }
}
