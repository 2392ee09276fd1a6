// Slices that lie side by side: vectors run across the slices, one lane each.

import CKernels
import CVector

/// The forward operation on `columns` slices in each of `groups`; with a mask in one, of at most one block.
func forwardColumns(
    _ op: Operation, _ elements: Elements, _ x: UnsafeRawPointer, _ xStride: Int, _ mask: Mask?,
    _ out: UnsafeMutableRawPointer, _ outStride: Int, _ columns: Int, _ groups: swiftmax_groups, _ n: Int,
    _ scratch: Scratch, streaming: Bool, next: Asked, recomputes: Bool
) {
    #if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
        if mask == nil {
            let isInPlace = UnsafeRawPointer(out) == x
            if areTinySoftmax(op, elements, columns, n, inPlace: isInPlace) {
                return tinySoftmaxColumns(x, xStride, out, outStride, columns, groups, n, scratch)
            }
            if areTinyLogSoftmax(op, elements, columns, n, inPlace: isInPlace, streaming: streaming) {
                return tinyLogSoftmaxColumns(x, xStride, out, outStride, columns, groups, n, scratch)
            }
        }
    #endif
    forwardTiles(
        op, elements, x, xStride, mask, out, outStride, columns, groups, n, scratch, streaming: streaming,
        next: next, recomputes: recomputes)
}

/// The same, a tile at a time: of small groups several.
@inline(never)
func forwardTiles(
    _ op: Operation, _ elements: Elements, _ x: UnsafeRawPointer, _ xStride: Int, _ mask: Mask?,
    _ out: UnsafeMutableRawPointer, _ outStride: Int, _ columns: Int, _ groups: swiftmax_groups, _ n: Int,
    _ scratch: Scratch, streaming: Bool, next: Asked, recomputes: Bool
) {
    let table = scratch.table
    let columnBytes = min(n, block) &* vectorBytes
    // Exponentials are kept where a few vectors of them fit; else the elements are: as much as the second cache likes, or four
    // lines of a row.
    let areSpread = !recomputes || keepsAsked(n, xStride)
    let keeps = op == .softmax && keepsExponentials(n, xStride, areSpread: areSpread, streaming: streaming)
    let kept = scratch.exponentials
    let panel = keeps ? kept.powers : scratch.tile
    // In fours, as they are copied and written.
    let vectors =
        keeps ? panelBytes / columnBytes : max(2 &* panelBytes / columnBytes, 4 &* lineBytes / vectorBytes)
    // Rows that share the sets of a cache are better read as far as they go.
    let isWide = streaming || !keeps && spacing(of: xStride, way: 4096) == 4096
    let most = isWide ? SliceTable.batch : swiftmax_tile_columns(n, elementBytes)
    let width = min(most, (vectors < 4 ? vectors : vectors & ~3) &* lanes)
    // Whole groups, as many as stay near. Results of reductions have no gaps.
    let filled = (columns &+ lanes &- 1) & ~(lanes &- 1)
    let isShared = op == .logsumexp || swiftmax_groups_share_vectors(columns, lanes)
    let groupColumns = isShared ? columns : filled
    let tileGroups = n <= block ? max(1, min(width, tileElements / n) / groupColumns) : 1

    // The places of results are asked for too, where they lie as the elements do, in rows so short that the CPU does not by itself.
    let areAlike =
        xStride == outStride && elements.stride == elements.resultBytes
        && groups.input_stride == groups.out_stride && xStride <= 2048
    let resultsAhead = areAlike && !streaming && op != .logsumexp ? UnsafeRawPointer(out) - x : nil

    var (group, first) = (0, 0)
    while group < groups.count {
        let count = min(width, columns &- first)
        let together = min(tileGroups, groups.count &- group)
        let address = x + (group &* groups.input_stride &+ first &* elements.stride)
        let mask = mask?.moved(by: first)
        let out = out + (group &* groups.out_stride &+ first &* elements.resultBytes)
        first &+= count
        let isEnd = first == columns
        if isEnd { (group, first) = (group &+ together, 0) }
        // Where groups end, what follows lies there without gaps, or is not worth asking for.
        let following = Asked(
            isEnd
                ? swiftmax_next(
                    address: x + group &* groups.input_stride, row_stride: lanes &* elements.stride,
                    column_stride: n &* elements.stride)
                : swiftmax_next(
                    address: address + count &* elements.stride, row_stride: xStride,
                    column_stride: elements.stride))
        let asked = group == groups.count ? next : following
        let tile = Tile(
            address: address, elements: elements, stride: xStride, mask: mask, columns: count,
            groups: together, groupColumns: groupColumns, groupStride: groups.input_stride,
            outGroupStride: groups.out_stride, n: n,
            next: resultsAhead.map(asked.with) ?? asked)
        setConstants(op, tile, panel, tails: keeps ? kept.tails : nil, scratch)
        let copied = ColumnSource(address: panel, stride: vectorBytes, step: columnBytes)
        let source = n <= block ? copied : ColumnSource(address: address, stride: xStride, step: vectorBytes)
        if op == .logsumexp {
            writeLogsumexp(tile, source, out, table, scratch)
        } else {
            writeResults(out, outStride, tile, streaming: streaming, room: scratch.row) { target, i, column in
                switch op {
                case .softmax where keeps:
                    writeSoftmax(kept.from(copied.offset(i, column)), columnBytes, target, table, column)
                case .softmax: writeSoftmax(source.from(i, column), target, table, column)
                default: writeLogSoftmax(source.from(i, column), target, table, column)
                }
            }
        }
    }
}

/// The elements of several groups in a tile: with their results they should hardly leave the first cache.
@inline(__always) private var tileElements: Int { 12288 }

/// Leaves the constants of a tile's slices in the first table, and the last block of its elements in `panel`.
///
/// - Parameter tails: where those of the exponentials are kept, whose powers then take the place of the elements.
@inline(__always)
private func setConstants(
    _ op: Operation, _ tile: Tile, _ panel: UnsafeMutableRawPointer, tails: UnsafeMutableRawPointer?,
    _ scratch: Scratch
) {
    let table = scratch.table
    if areTiny(op, tile.n) {
        copyToPanel(tile, from: 0, panel, table)
        setTinyResults(op, ColumnBatch(tile, from: 0, elements: panel), table)
        return
    }
    let areOrdinary = tileStats(
        op.sumKind, tile, panel, tails: tails, known: nil, scratch, table)
    if tile.n > block {
        sumAgainstKnownMax(op.sumKind, tile, scratch)
        table.setShifts(tile.count)
    } else if !areOrdinary && tails == nil {
        // The elements as they were.
        copyToPanel(tile, from: 0, panel, table)
    }
    table.setResults(op, tile.count)
}

/// Whether slices keep their exponentials, which makes tiles narrower: where four vectors of them fit. Longer ones where all are near
/// and, in Double, where they are not at multiples of a page and evict what was asked for; fewer where a vector of floats is a line,
/// of which a narrow tile would write parts past the caches.
///
/// - Parameter areSpread: false where a tile has so many lines in some sets of the second cache that they evict what is kept,
///   and this is slow.
@inline(__always)
private func keepsExponentials(_ n: Int, _ stride: Int, areSpread: Bool, streaming: Bool) -> Bool {
    let areLines = vectorBytes == lineBytes
    if elementBytes == 4 && areLines && streaming && stride & 63 != 0 { return n <= 512 }
    let longest = panelBytes / (4 &* vectorBytes)
    if n <= longest || n > block { return n <= longest }
    let areNear = n &* stride <= 4 &* 1024 &* 1024
    if elementBytes == 4 { return areNear && !(areLines && stride & 255 == 0) }
    return areSpread && stride & 4095 != 0 || areNear && stride & 1023 != 0
}

// MARK: Results

/// Where vectors of columns lie: `stride` bytes from one element to the next, `step` bytes from one vector to the next.
struct ColumnSource {
    let address: UnsafeRawPointer
    let stride: Int
    let step: Int

    @inline(__always)
    func element(_ i: Int, _ vector: Int) -> UnsafeRawPointer { address + (i &* stride &+ vector &* step) }

    /// Of element i of a column.
    @inline(__always)
    func offset(_ i: Int, _ column: Int) -> Int {
        i &* stride &+ column / lanes &* step &+ column & (lanes &- 1) &* elementBytes
    }

    @inline(__always)
    func from(_ i: Int, _ column: Int) -> ColumnSource {
        ColumnSource(address: address + offset(i, column), stride: stride, step: step)
    }
}

/// Where the results of up to four vectors of columns go.
struct TileResult {
    let address: UnsafeMutableRawPointer
    let stride: Int
    /// Columns: four vectors, up to three, or less than one.
    let present: Int
    let n: Int
    /// Past the caches: all of them fill whole lines.
    let streaming: Bool

    /// Stores what `body(i, v, count)` returns as the `count` results of vector v at position i, for all positions
    /// and vectors. Several vectors of a row are written one after another, as memory likes it.
    @inline(__always)
    func write(_ body: (_ i: Int, _ v: Int, _ count: Int) -> Vector) {
        @inline(__always)
        func put(_ i: Int, _ v: Int) {
            let (target, result) = (address + (i &* stride &+ v &* vectorBytes), body(i, v, lanes))
            if canStream && streaming { vector_stream(target, result) } else { vector_store(target, result) }
        }
        if present == 4 &* lanes {
            for i in 0..<n {
                put(i, 0)
                put(i, 1)
                put(i, 2)
                put(i, 3)
            }
        } else if present >= lanes {
            for v in 0..<present / lanes {
                for i in 0..<n { put(i, v) }
            }
        } else {
            for i in 0..<n { vector_store_partial(address + i &* stride, body(i, 0, present), present) }
        }
    }
}

/// Calls `write` for the results of a tile's columns, up to four vectors of them at a time, from position `i` on.
///
/// Those of 16 bits are first written in `room`, as elements, and so are rows that are to go past the caches but do not begin
/// with a cache line: some at a time, as whole rows of the tile have fewer parts of lines at their ends. So are rows far from
/// each other where four vectors are but two lines, too few to go to one place in memory and then to the next.
@inline(__always)
private func writeResults(
    _ out: UnsafeMutableRawPointer, _ outStride: Int, _ tile: Tile, streaming: Bool,
    room: UnsafeMutableRawPointer, _ write: (_ target: TileResult, _ i: Int, _ column: Int) -> Void
) {
    let streaming = canStream && streaming
    let rowBytes = tile.columns &* elementBytes
    let isAligned = (Int(bitPattern: out) | outStride | tile.outGroupStride) & (lineBytes &- 1) == 0
    let isNarrowed = tile.elements.resultBytes < elementBytes
    let areApart = vectorBytes < lineBytes && outStride > rowBytes
    let isAside = isNarrowed || streaming && (areApart || !isAligned) && rowBytes >= 256
    // At multiples of a page a few rows at a time, as more would share the sets of a cache.
    let mostRows = spacing(of: outStride, way: 4096) == 4096 ? 8 : tile.n
    let rows = isAside ? max(1, 16384 / rowBytes) : mostRows
    for group in 0..<tile.groups {
        let (out, first) = (out + group &* tile.outGroupStride, group &* tile.groupColumns)
        var i = 0
        while i < tile.n {
            let part = min(rows, tile.n &- i)
            let (address, stride) = isAside ? (room, rowBytes) : (out + i &* outStride, outStride)
            var column = 0
            while column < tile.columns {
                let left = tile.columns &- column
                let head = headColumns(first &+ column, left)
                let vectors = min(4, left / lanes)
                let present = head > 0 ? head : vectors == 0 ? left : vectors &* lanes
                // Fewer vectors are written one after another, of which each is to fill its lines.
                let hasLines = isAligned && (present == 4 &* lanes || vectorBytes == lineBytes)
                let target = TileResult(
                    address: address.element(column), stride: stride, present: present, n: part,
                    streaming: streaming && hasLines && !isAside)
                write(target, i, first &+ column)
                column &+= present
            }
            if isAside {
                bring(
                    room, tile.elements, out + i &* outStride, outStride, part, tile.columns,
                    streaming: streaming)
            }
            i &+= rows
        }
    }
}

/// Brings `rows` rows of `count` results to where they go.
@inline(never)
private func bring(
    _ room: UnsafeRawPointer, _ elements: Elements, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ rows: Int, _ count: Int, streaming: Bool
) {
    #if SWIFTMAX_FLOAT32
        if case .halves(let format) = elements {
            format.narrow(room, out, outStride, rows, count, streaming: streaming)
            return
        }
    #endif
    for r in 0..<rows { stream(room.element(r &* count), out + r &* outStride, count) }
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
    let isNarrowed = tile.elements.resultBytes < elementBytes
    let results = isNarrowed ? scratch.row : out
    var slice = 0
    while slice < tile.count {
        store(results.element(slice), table.logsumexp(from: slice), min(lanes, tile.count &- slice))
        slice &+= lanes
    }
    if tile.n > 1 { refineLogsumexps(tile, source, results, table, scratch) }
    if isNarrowed { bring(results, tile.elements, out, 0, 1, tile.count, streaming: false) }
}
