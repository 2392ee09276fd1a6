// Slices whose elements are contiguous: vectors run along the slice.

import CKernels
import CVector

/// The forward operation on `rows` slices, a batch at a time: first the stats of each, then the constants of
/// as many slices at once as a vector has lanes, then the results.
func forwardRows(
    _ op: Operation, _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer,
    _ outStride: Int, _ rows: Int, _ n: Int, _ scratch: UnsafeMutableRawPointer, streaming: Bool, far: Bool,
    next: Asked
) {
    let scratch = Scratch(address: scratch)
    if areTiny(op, n) { return forwardTinyRows(op, x, xStride, out, outStride, rows, n, scratch) }
    let table = scratch.table
    let streaming = streaming && (n > block || SharedLines.areStreamed(out, outStride, n))
    let areTailsApart = x == UnsafeRawPointer(out) || streaming || !tailsFitResults(n)
    // What goes past the caches leaves room in the first one, which tails in scratch should not leave.
    let areNear = streaming ? vectorBytes == lineBytes : elementBytes == 4 && op == .softmax && areTailsApart
    let step = n <= block ? rowBatch(n, areNear: areNear) : 1
    let paddedBytes = (n &+ lanes &- 1) / lanes &* vectorBytes
    let elementsAhead = n > block ? 2 &* block &* elementBytes : 2 &* step &* xStride
    let resultsAhead = n > block ? elementsAhead : step &* outStride

    var first = 0
    var areTaken = false
    while first < rows {
        let count = min(step, rows &- first)
        var batch = RowBatch(x: x + first &* xStride, stride: xStride, first: 0, count: count, n: n)
        let target = out + first &* outStride
        batch.asked = next
        if next.address == nil && far {
            let results = op == .logsumexp || streaming ? nil : target + resultsAhead
            batch.asked = Asked(batch.x + elementsAhead, rowStride: xStride, results: results)
        }
        if first &+ count < rows {
            batch.next = batch.row(count)
            batch.nextCount = min(count, rows &- (first &+ count))
        }
        if n > block {
            forwardLongRow(op, batch, target, areTaken: &areTaken, scratch, streaming: streaming)
            first &+= 1
            continue
        }
        let tails =
            areTailsApart
            ? RowTails(address: scratch.rowTails, stride: paddedBytes, isPadded: true)
            : RowTails(address: target, stride: outStride, isPadded: false)
        setMaxima(batch, areTaken: areTaken, scratch)
        areTaken = rowStats(op.sumKind, batch, scratch, tails)
        table.setResults(op, count)
        let shared = SharedLines(room: scratch.row, areBegun: first > 0, areContinued: first &+ count < rows)
        write(op, tails, batch, target, outStride, scratch, streaming: streaming, shared)
        first &+= count
    }
}

/// Rows that are taken through all phases together: with their results, they should stay in the second cache, or in the first if
/// `areNear`; and each phase should have much to do, as it takes long to begin and to end.
@inline(__always)
func rowBatch(_ n: Int, areNear: Bool) -> Int {
    min(SliceTable.batch, max(1, (areNear ? 12288 : 49152) / (n &* elementBytes)))
}

/// Whether the tails of rows are kept in the place of their results: not of short ones, where they would often be stores of a part
/// of a vector, or across lines.
@inline(__always)
func tailsFitResults(_ n: Int) -> Bool { n >= 512 || n >= 128 && n &* elementBytes % lineBytes == 0 }

/// The forward operation on the one row of a batch, of several blocks.
///
/// - Parameter areTaken: as of `longRowStats`.
private func forwardLongRow(
    _ op: Operation, _ row: RowBatch, _ out: UnsafeMutableRawPointer, areTaken: inout Bool,
    _ scratch: Scratch, streaming: Bool
) {
    let (table, n) = (scratch.table, row.n)
    let tails = op == .softmax ? longRowTails(row, out, scratch, streaming: streaming) : nil
    table.setResults(op, longRowStats(op.sumKind, row, .own, tails, areTaken: &areTaken, scratch))
    switch op {
    case .softmax:
        if let tails, blocksAreClose(n, table) {
            writeLongSoftmax(tails, row.x, out, n, table, streaming: streaming)
        } else {
            writeSoftmax(row.x, out, n, table, streaming: streaming)
        }
    case .logSoftmax: writeLogSoftmax(row, out, 0, table, streaming: streaming)
    case .logsumexp: writeLogsumexp(row, out, 0, table, scratch)
    }
}

// MARK: Results

/// The results of a batch of rows whose constants are in the table.
@inline(never)
func write(
    _ op: Operation, _ tails: RowTails, _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ scratch: Scratch, streaming: Bool, _ shared: SharedLines
) {
    let table = scratch.table
    #if SWIFTMAX_AVX512 && SWIFTMAX_FLOAT32
        if streaming && op != .logsumexp && SharedLines.areThere(out, outStride, rows.n) {
            return writeSharing(op, tails, rows, out, outStride, table, shared)
        }
    #endif
    switch op {
    case .softmax: writeSoftmax(tails, rows, out, outStride, table, streaming: streaming)
    case .logSoftmax: writeLogSoftmax(rows, out, outStride, table, streaming: streaming)
    case .logsumexp: writeLogsumexp(rows, out, outStride, table, scratch)
    }
}

#if SWIFTMAX_AVX512 && SWIFTMAX_FLOAT32
    /// The softmax or log_softmax of rows that share lines.
    @inline(never)
    private func writeSharing(
        _ op: Operation, _ tails: RowTails, _ rows: RowBatch, _ out: UnsafeMutableRawPointer,
        _ outStride: Int, _ table: SliceTable, _ shared: SharedLines
    ) {
        for r in 0..<rows.count {
            let (x, out) = (rows.x + r &* rows.stride, out + r &* outStride)
            if op == .softmax {
                let (softmax, tails) = (table.softmaxResult(r), tails.row(r))
                shared.writeRow(r, of: rows.count, out, rows.n) { i, count in
                    let power = softmax.shift.power(of: load(x.element(i), count))
                    return softmax(Exponential(tail: load(tails.element(i), count), power: power))
                }
            } else {
                let logSoftmax = table.logSoftmaxResult(r)
                shared.writeRow(r, of: rows.count, out, rows.n) { i, count in
                    logSoftmax(load(x.element(i), count))
                }
            }
        }
    }
#endif

/// By what the kept powers of a block are too large for the only slice in the table: they are relative to the
/// block's own maximum.
@inline(__always)
func blockScale(_ index: Int, _ table: SliceTable) -> Element {
    let (k, _) = wideExponent(max: table.stats(from: 0).max)
    let (own, _) = wideExponent(max: splatWide(Double(table.blockMax(index))))
    return Element(widePowerOfTwo(own - k)[0])
}

/// Where the tails of the exponentials of a long row are kept, if they are not to be computed once more.
@inline(__always)
private func longRowTails(
    _ row: RowBatch, _ out: UnsafeMutableRawPointer, _ scratch: Scratch, streaming: Bool
) -> UnsafeMutableRawPointer? {
    let rowBytes = row.n &* elementBytes
    let isInPlace = row.x == UnsafeRawPointer(out)
    if rowBytes <= panelBytes { return isInPlace || streaming ? scratch.rowTails : out }
    // Exponentials of Float cost less than stores that go through the caches.
    let isWorthIt = elementBytes == 8 || !streaming
    return isWorthIt && rowBytes <= cachedRowBytes && !isInPlace ? out : nil
}

/// A row, and the tails in the place of its results, should still be in a cache when they are read again.
@inline(__always) private var cachedRowBytes: Int { 4 &* 1024 &* 1024 }

/// The softmax of the only row, block by block.
private func writeLongSoftmax(
    _ tails: UnsafeMutableRawPointer, _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
    _ table: SliceTable, streaming: Bool
) {
    // The constants of the row are those of slice 0; those of a block, whose powers are relative to its own maximum, take
    // the next place.
    let slice = 1
    var start = 0
    while start < n {
        let index = start / block
        table.setSoftmaxResult(slice, max: table.blockMax(index), scale: blockScale(index, table))
        let x = x.element(start)
        let rows = RowBatch(x: x, stride: 0, first: slice, count: 1, n: min(block, n &- start))
        writeSoftmax(
            RowTails(address: tails.element(start), stride: 0, isPadded: false), rows, out.element(start), 0,
            table, streaming: streaming && tails != out)
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

/// The softmax of rows, from the tails of their exponentials.
@inline(never)
func writeSoftmax(
    _ tails: RowTails, _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ table: SliceTable, streaming: Bool
) {
    for r in 0..<rows.count {
        let softmax = table.softmaxResult(rows.first &+ r)
        let (x, tails, out) = (rows.x + r &* rows.stride, tails.row(r), out + r &* outStride)
        writeRow(out, rows.n, streaming: streaming) { i, count in
            let power = softmax.shift.power(of: load(x.element(i), count))
            return softmax(Exponential(tail: load(tails.element(i), count), power: power))
        }
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

/// The log_softmax of rows.
@inline(never)
func writeLogSoftmax(
    _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable, streaming: Bool
) {
    for r in 0..<rows.count {
        let logSoftmax = table.logSoftmaxResult(r)
        let (x, out) = (rows.x + r &* rows.stride, out + r &* outStride)
        writeRow(out, rows.n, streaming: streaming) { i, count in logSoftmax(load(x.element(i), count)) }
    }
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
