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
    // The exponentials of a softmax are kept where they fit; else they are computed once more.
    let rowBytes = (n &+ lanes &- 1) / lanes &* vectorBytes
    let keeps = rowBytes <= panelBytes
    let step = keeps ? block &* elementBytes : 0
    let batch = n <= block ? min(SliceTable.capacity, max(1, rowBatchBytes / rowBytes)) : 1

    var first = 0
    while first < rows {
        let count = min(batch, rows &- first)
        if n <= block {
            shortRowStats(
                op.sumKind, x + first &* xStride, xStride, count, n, rowBytes: rowBytes, scratch)
        } else {
            table.set(
                0,
                rowStats(
                    op.sumKind, x + first &* xStride, n, scratch.exponentials, step: step, scratch))
        }
        table.setResults(op, count)
        for r in 0..<count {
            let row = x + (first &+ r) &* xStride
            let result = out + (first &+ r) &* outStride
            switch op {
            case .softmax where n <= block:
                let kept = scratch.exponentials.from(r &* rowBytes)
                writeSoftmax(kept, result, n, table, r, 1, streaming: streaming)
            case .softmax where keeps && blocksAreClose(n, table):
                var start = 0
                while start < n {
                    let kept = scratch.exponentials.from(start &* elementBytes)
                    let scale = blockScale(start / block, table)
                    writeSoftmax(
                        kept, result.element(start), min(block, n &- start), table, r, scale,
                        streaming: streaming)
                    start &+= block
                }
            case .softmax:
                writeSoftmax(row, result, n, table, r, streaming: streaming)
            case .logSoftmax:
                writeLogSoftmax(row, result, n, table, r, streaming: streaming)
            case .logsumexp:
                var value = table.logsumexp(r)
                if cancels(value, max: table.max(r)) && n > 1 {
                    value = Element(nearZeroLogsumexp(row, elementBytes, n, max: Double(table.max(r))))
                }
                result.storeBytes(of: value, as: Element.self)
            }
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

/// The softmax of a row, or of a block of it, whose exponentials were kept.
@inline(never)
func writeSoftmax(
    _ kept: ExponentialPanel, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable,
    _ slice: Int, _ scale: Element, streaming: Bool
) {
    var softmax = table.softmaxResult(slice)
    softmax.inverse = softmax.inverse * splat(scale)
    softmax.inverseLow = softmax.inverseLow * splat(scale)
    writeRow(out, n, streaming: streaming) { i, _ in softmax(kept.load(at: i &* elementBytes)) }
}

/// The softmax of a row whose exponentials are computed again.
@inline(never)
func writeSoftmax(
    _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable, _ slice: Int,
    streaming: Bool
) {
    let softmax = table.softmaxResult(slice)
    writeRow(out, n, streaming: streaming) { i, count in softmax(load(x.element(i), count)) }
}

@inline(never)
func writeLogSoftmax(
    _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable, _ slice: Int,
    streaming: Bool
) {
    let logSoftmax = table.logSoftmaxResult(slice)
    writeRow(out, n, streaming: streaming) { i, count in logSoftmax(load(x.element(i), count)) }
}
