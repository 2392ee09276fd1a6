// Slices that lie side by side: vectors run across the slices, one lane each.

import CKernels
import CVector

/// The forward operation on `columns` slices, a tile at a time.
func forwardColumns(
    _ op: Operation, _ elements: Elements, _ x: UnsafeRawPointer, _ xStride: Int,
    _ out: UnsafeMutableRawPointer, _ outStride: Int, _ columns: Int, _ n: Int, _ scratch: Scratch,
    streaming: Bool, next: Asked
) {
    let table = scratch.table
    let columnBytes = min(n, block) &* vectorBytes
    // Exponentials are kept where a few vectors of them fit; else the elements are, in the room of both.
    let keeps = op == .softmax && n <= keptLength(xStride, streaming: streaming)
    let kept = scratch.exponentials
    let (panel, bytes) = keeps ? (kept.powers, panelBytes) : (kept.tails, 2 &* panelBytes)
    let width = min(SliceTable.capacity, bytes / columnBytes &* lanes)

    var first = 0
    while first < columns {
        let count = min(width, columns &- first)
        let address = x + first &* elements.stride
        let following = Asked(
            swiftmax_next(
                address: address + count &* elements.stride, row_stride: xStride,
                column_stride: elements.stride))
        let tile = Tile(
            address: address, elements: elements, stride: xStride, count: count, n: n,
            next: first &+ count == columns ? next : following)
        let areOrdinary = tileStats(
            op.sumKind, tile, panel, tails: keeps ? kept.tails : nil, known: nil, scratch, table)
        if n > block {
            sumAgainstKnownMax(op.sumKind, tile, scratch)
            table.setShifts(tile.count)
        } else if !areOrdinary && !keeps {
            // The elements as they were.
            copyToPanel(address, elements, xStride, count, n, panel, table)
        }
        table.setResults(op, tile.count)

        let out = out + first &* elements.resultBytes
        let source =
            n <= block
            ? ColumnSource(address: panel, stride: vectorBytes, step: columnBytes)
            : ColumnSource(address: address, stride: xStride, step: vectorBytes)
        if op == .logsumexp {
            writeLogsumexp(tile, source, out, table, scratch)
            first &+= count
            continue
        }
        var column = 0
        while column < count {
            let vectors = min(4, (count &- column) / lanes)
            let present = vectors == 0 ? count &- column : vectors &* lanes
            let target = TileResult(
                address: out + column &* elements.resultBytes, stride: outStride, present: present, n: n,
                streaming: streaming)
            let vector = column / lanes
            target.forEachPart(elements, room: scratch.row) { target, i in
                switch op {
                case .softmax where keeps:
                    let offset = vector &* columnBytes &+ i &* vectorBytes
                    writeSoftmax(kept.from(offset), columnBytes, target, table, column)
                case .softmax: writeSoftmax(source.from(i, vector), target, table, column)
                default: writeLogSoftmax(source.from(i, vector), target, table, column)
                }
            }
            column &+= present
        }
        first &+= count
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

    @inline(__always)
    func from(_ i: Int, _ vector: Int) -> ColumnSource {
        ColumnSource(address: element(i, vector), stride: stride, step: step)
    }

    /// The first element of a column.
    @inline(__always)
    func column(_ column: Int) -> UnsafeRawPointer {
        element(0, column / lanes).element(column & (lanes &- 1))
    }
}

/// Where the results of up to four vectors of columns go.
struct TileResult {
    let address: UnsafeMutableRawPointer
    let stride: Int
    /// Columns: four vectors, up to three, or less than one.
    let present: Int
    let n: Int
    let streaming: Bool

    /// Calls `write` with where the results from position i on go: all at once, or those of 16 bits some at a time, which
    /// are written in `room` as elements and brought from there.
    @inline(__always)
    func forEachPart(
        _ elements: Elements, room: UnsafeMutableRawPointer, _ write: (_ part: TileResult, _ i: Int) -> Void
    ) {
        let isNarrowed = elements.resultBytes < elementBytes
        let (target, rowBytes) = isNarrowed ? (room, present &* elementBytes) : (address, stride)
        let rows = isNarrowed ? 32 : n
        var i = 0
        while i < n {
            let part = TileResult(
                address: target, stride: rowBytes, present: present, n: min(rows, n &- i),
                streaming: streaming && !isNarrowed)
            write(part, i)
            #if SWIFTMAX_FLOAT32
                if case .halves(let format) = elements {
                    let streams = streaming && (Int(bitPattern: address) | stride) & 63 == 0
                    format.narrow(
                        room, address + i &* stride, stride, part.n, present, streaming: streams)
                }
            #endif
            i &+= rows
        }
    }

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
    _ tile: Tile, _ source: ColumnSource, _ out: UnsafeMutableRawPointer, _ table: SliceTable,
    _ scratch: Scratch
) {
    let target = TileResult(address: out, stride: 0, present: tile.count, n: 1, streaming: false)
    target.forEachPart(tile.elements, room: scratch.row) { target, _ in
        var slice = 0
        while slice < tile.count {
            store(
                target.address.element(slice), table.logsumexp(from: slice), min(lanes, tile.count &- slice))
            slice &+= lanes
        }
        if tile.n > 1 { refineLogsumexps(tile, source, target.address, table, scratch) }
    }
}
