// Slices that lie side by side: vectors run across the slices, one lane each.

import CKernels
import CVector

/// The forward operation on `columns` slices, a tile at a time.
func forwardColumns(
    _ op: Operation, _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer,
    _ outStride: Int, _ columns: Int, _ n: Int, _ scratch: UnsafeMutableRawPointer, streaming: Bool,
    next: Asked
) {
    let scratch = Scratch(address: scratch)
    let table = scratch.table
    let columnBytes = min(n, block) &* vectorBytes
    // Exponentials are kept where a few vectors of them fit; else the elements are, in the room of both.
    let keeps = op == .softmax && n <= keptLength(xStride, streaming: streaming)
    let panel = scratch.exponentials
    let (elements, bytes) = keeps ? (panel.powers, panelBytes) : (panel.tails, 2 &* panelBytes)
    let width = min(SliceTable.capacity, bytes / columnBytes &* lanes)

    var first = 0
    while first < columns {
        let count = min(width, columns &- first)
        let isLast = first &+ count == columns
        let following = Asked(x.element(first &+ count), rowStride: xStride, results: nil)
        let tile = Tile(
            address: x.element(first), stride: xStride, count: count, n: n, next: isLast ? next : following)
        let areOrdinary = tileStats(
            op.sumKind, tile, elements, tails: keeps ? panel.tails : nil, known: nil, scratch, table)
        if n > block {
            sumAgainstKnownMax(op.sumKind, tile, scratch)
            table.setShifts(tile.count)
        }
        table.setResults(op, tile.count)

        if op == .logsumexp {
            writeLogsumexp(tile, out.element(first), table, scratch)
        } else {
            var column = 0
            while column < tile.count {
                let vectors = min(4, (tile.count &- column) / lanes)
                let present = vectors == 0 ? tile.count &- column : vectors &* lanes
                let target = TileResult(
                    address: out.element(first &+ column), stride: outStride, present: present, n: n,
                    streaming: streaming)
                let offset = column / lanes &* columnBytes
                let source =
                    areOrdinary && n <= block
                    ? ColumnSource(address: elements + offset, stride: vectorBytes, step: columnBytes)
                    : ColumnSource(
                        address: tile.address.element(column), stride: xStride, step: vectorBytes)
                switch op {
                case .softmax where keeps:
                    writeSoftmax(panel.from(offset), columnBytes, target, table, column)
                case .softmax: writeSoftmax(source, target, table, column)
                default: writeLogSoftmax(source, target, table, column)
                }
                column &+= present
            }
        }
        first &+= tile.count
    }
}

/// Slices up to this long keep their exponentials, which makes tiles narrower. In Double a few columns at a time are worth
/// it, but where they lie at multiples of a page and evict what was asked for; in Float not where a run of a narrow tile
/// would be written past the caches in parts of lines.
@inline(__always)
private func keptLength(_ stride: Int, streaming: Bool) -> Int {
    if elementBytes == 8 { return stride & 4095 != 0 ? block : 1024 }
    return streaming && stride & 63 != 0 ? 512 : 1024
}

// MARK: Results

/// Where vectors of columns lie: `stride` bytes from one element to the next, `step` bytes from one vector to the next.
struct ColumnSource {
    let address: UnsafeRawPointer
    let stride: Int
    let step: Int

    @inline(__always)
    func element(_ i: Int, _ vector: Int) -> UnsafeRawPointer { address + (i &* stride &+ vector &* step) }
}

/// Where the results of up to four vectors of columns go.
struct TileResult {
    let address: UnsafeMutableRawPointer
    let stride: Int
    /// Columns: four vectors, up to three, or less than one.
    let present: Int
    let n: Int
    let streaming: Bool

    /// Stores what `body(i, v, count)` returns as the `count` results of vector v at position i, for all positions
    /// and vectors. Several vectors of a row are written one after another, as memory likes it.
    @inline(__always)
    func write(_ body: (_ i: Int, _ v: Int, _ count: Int) -> Vector) {
        let streams = streaming && (Int(bitPattern: address) | stride) & (vectorBytes &- 1) == 0
        if present == 4 &* lanes && streams {
            for i in 0..<n {
                let row = address + i &* stride
                vector_stream(row, body(i, 0, lanes))
                vector_stream(row + vectorBytes, body(i, 1, lanes))
                vector_stream(row + 2 &* vectorBytes, body(i, 2, lanes))
                vector_stream(row + 3 &* vectorBytes, body(i, 3, lanes))
            }
        } else if present == 4 &* lanes {
            for i in 0..<n {
                let row = address + i &* stride
                vector_store(row, body(i, 0, lanes))
                vector_store(row + vectorBytes, body(i, 1, lanes))
                vector_store(row + 2 &* vectorBytes, body(i, 2, lanes))
                vector_store(row + 3 &* vectorBytes, body(i, 3, lanes))
            }
        } else if present >= lanes {
            for v in 0..<present / lanes {
                for i in 0..<n {
                    let (target, result) = (address + (i &* stride &+ v &* vectorBytes), body(i, v, lanes))
                    if streams { vector_stream(target, result) } else { vector_store(target, result) }
                }
            }
        } else {
            for i in 0..<n { vector_store_partial(address + i &* stride, body(i, 0, present), present) }
        }
    }
}

/// The constants of up to four vectors of slices.
struct Four<Result> {
    let a: Result
    let b: Result
    let c: Result
    let d: Result

    /// Vectors beyond the last repeat the first.
    @inline(__always)
    init(_ present: Int, _ result: (_ vector: Int) -> Result) {
        let vectors = present / lanes
        a = result(0)
        b = result(vectors > 1 ? 1 : 0)
        c = result(vectors > 2 ? 2 : 0)
        d = result(vectors > 3 ? 3 : 0)
    }

    @inline(__always)
    subscript(_ vector: Int) -> Result {
        switch vector {
        case 0: a
        case 1: b
        case 2: c
        default: d
        }
    }
}

/// The softmax of columns whose exponentials were kept.
@inline(never)
func writeSoftmax(
    _ kept: ExponentialPanel, _ columnBytes: Int, _ target: TileResult, _ table: SliceTable, _ slice: Int
) {
    let softmax = Four(target.present) { table.softmaxResult(from: slice &+ $0 &* lanes) }
    target.write { i, v, _ in
        softmax[v](kept.load(at: v &* columnBytes &+ i &* vectorBytes))
    }
}

/// The softmax of columns whose exponentials are computed again.
@inline(never)
func writeSoftmax(_ source: ColumnSource, _ target: TileResult, _ table: SliceTable, _ slice: Int) {
    let softmax = Four(target.present) { table.softmaxResult(from: slice &+ $0 &* lanes) }
    target.write { i, v, count in
        softmax[v](load(source.element(i, v), count))
    }
}

@inline(never)
func writeLogSoftmax(_ source: ColumnSource, _ target: TileResult, _ table: SliceTable, _ slice: Int) {
    let logSoftmax = Four(target.present) { table.logSoftmaxResult(from: slice &+ $0 &* lanes) }
    target.write { i, v, count in
        logSoftmax[v](load(source.element(i, v), count))
    }
}

/// The results of a reduction, side by side.
func writeLogsumexp(
    _ tile: Tile, _ out: UnsafeMutableRawPointer, _ table: SliceTable, _ scratch: Scratch
) {
    var slice = 0
    while slice < tile.count {
        store(out.element(slice), table.logsumexp(from: slice), min(lanes, tile.count &- slice))
        slice &+= lanes
    }
    if tile.n > 1 { refineLogsumexps(tile, out, table, scratch) }
}
