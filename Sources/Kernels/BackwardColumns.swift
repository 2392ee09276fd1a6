// Gradients of slices that lie side by side: vectors run across the slices, one lane each.
//
// The arithmetic of a slice is that of BackwardRows.swift to the bit: the same running sums and tree, with a vector
// where that has one lane.

import CKernels
import CVector

// MARK: The operation

/// How far away the inputs are; see `SWIFTMAX_NEAR`.
enum Distance: Int32 {
    case near, far, memory, soon, soonAside

    /// Whether vectors are asked for with their rows, as they are not found in the second cache.
    var isFar: Bool { self == .far || isAsMemory }
    var isAsMemory: Bool { self == .memory || self == .soonAside }

    /// How many rows on a tall panel is asked for: where rows share places in the first cache, of what a last cache answers soon
    /// so few that they are still there when they are read (measured on a Zen 5).
    func rowsAhead(_ stride: Int) -> Int {
        let isSoon = self == .soonAside || self == .soon
        return isSoon && stride & 1023 == 0 ? 2 : 12
    }
}

/// Whether a first cache of so many ways is that of a Zen 5, as the plan says of no other.
@inline(__always)
func isZen5(ways: Int) -> Bool { ways > 8 }

/// The columns before those that begin a vector in memory, if these are the same in all rows: vectors from there on lie
/// within a cache line each, where every one would cross into the next.
@inline(__always)
private func headOfColumns(_ g: Operand, _ y: Operand) -> Int {
    let apart = g.address - y.address
    return (apart | g.stride | y.stride) & (vectorBytes &- 1) == 0 ? headOfRow(g.address) : 0
}

/// Vectors whose sums are taken together: as many as the first cache holds those of the virtual lanes of, with room for
/// the elements.
@inline(__always) var tileVectors: Int { vectorBytes < 64 ? 16 : 8 }

/// As many as there is room for the sums of: of short columns, where longer rows are worth more.
private var mostTileVectors: Int { 32 }

/// The columns that there is room for the sums of.
private var mostSummedColumns: Int { Int(SWIFTMAX_LANE_SUM_BYTES) / (virtualLanes &* LaneSum.bytes) }

/// Rows of no more than 16 vectors are not divided, as memory does not like shorter ones.
private func isLong(_ stride: Int) -> Bool { stride > 16 &* vectorBytes }

/// Columns of slices so short that panels of many suit the caches, where a vector fills a line.
private var mostShortColumns: Int { 512 }

/// Whether a panel is two tiles, as the longer its rows, the faster they are read and written. Those of softmax, whose sums
/// read both inputs, only where the second cache holds them. Of Double it does not pay beyond tiles of eight vectors.
private func isWide(_ op: Operation, _ n: Int, stride: Int) -> Bool {
    isLong(stride) && n > virtualLanes && (op == .logSoftmax || n <= 256)
        && (elementBytes == 4 || tileVectors == 8)
}

/// Up to so many elements rows are put aside before they are written past the caches.
private var longestAside: Int { 128 }

/// Of larger panels the second cache does not hold both inputs, and the next of one.
private var tallBytes: Int { 256 &* 1024 }

/// The columns of a panel of as many as fit in `most` or less, so that one is as wide as the next that is asked for with it.
private func evenly(_ columns: Int, by most: Int) -> Int {
    let panels = (columns &+ most &- 1) / most
    return ((columns &+ panels &- 1) / panels &+ lineElements &- 1) & ~(lineElements &- 1)
}

/// The backward operation on `columns` slices in each of `groups`, a panel at a time.
@inline(never)
func backwardColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ columns: Int, _ groups: swiftmax_groups, _ n: Int, next: Int, _ scratch: Scratch, streaming: Bool,
    _ distance: Distance, ways: Int
) {
    let table = scratch.table
    let far = distance.isFar
    // Rows that share lines with others are worth it where they are long, and a vector is a line or the op softmax. So are those
    // of softmax that follow each other without a gap, and then are taken as a whole.
    let outRowBytes = columns &* elementBytes
    let isAligned = (Int(bitPattern: out) | outStride | groups.out_stride) & (lineBytes &- 1) == 0
    let areLong = outRowBytes >= 512 && (vectorBytes == lineBytes || op == .softmax && n > virtualLanes)
    let isRun =
        !isAligned && op == .softmax && outStride == outRowBytes && columns <= SliceTable.capacity
        && !areTinyGradients(n) && columns >= (n > virtualLanes ? 2 : 4) &* lanes
    let streaming = canStream && streaming && (isAligned || areLong || isRun)
    let takesRows = streaming && isRun
    // With AVX-512 the longer ones go through registers, and gain by not asking for what is near.
    let isInRegisters = n > longestFromMemory && elementBytes == 4 && vectorBytes == 64
    let isWideTile = isInRegisters && n <= longestOfTwoToALane && !far
    let tileColumns = (isWideTile ? mostTileVectors : isLong(g.stride) ? tileVectors : 16) &* lanes
    let areShort = vectorBytes == lineBytes && n <= virtualLanes || isWideTile
    let mostColumns =
        areShort ? mostShortColumns : isWide(op, n, stride: g.stride) ? 2 &* tileColumns : tileColumns
    let panelColumns = takesRows ? columns : op == .softmax ? evenly(columns, by: mostColumns) : mostColumns
    let fused = FusedColumns(
        g: g, y: y, out: out, outStride: outStride, columns: columns, groups: groups, n: n,
        asksForAll: isZen5(ways: ways))
    if !streaming && fused.areFused(op, distance, ways: ways) {
        // What is near is not asked for.
        let nextGroup = groups.count > 1 ? groups.input_stride : next
        let isWhole = columns <= panelColumns && nextGroup != 0
        let count = fused.asksForAll ? groupsAhead(max(1, Int(nextGroup.magnitude))) : 1
        let ahead =
            !far ? 0 : isWhole ? count &* nextGroup : min(columns, panelColumns) &* elementBytes
        return fused.write(op, ahead: ahead, scratch)
    }
    let asks = op == .logSoftmax || far || !isInRegisters
    for group in 0..<groups.count {
        let moved = group &* groups.input_stride
        let (g, y) = (g.moved(by: moved), y.moved(by: group &* groups.other_input_stride))
        let out = out + group &* groups.out_stride
        let areAlike = groups.input_stride == groups.other_input_stride
        let nextGroup = areAlike ? groups.input_stride : 0
        let next = group &+ 1 < groups.count ? nextGroup : next != 0 ? next &- moved : 0
        let head = streaming || columns < 16 &* lanes ? 0 : headOfColumns(g, y)
        var first = 0
        while first < columns {
            let start = first &* elementBytes
            let left = columns &- first
            let whole = left / lanes &* lanes
            let present =
                first < head ? head : left < lanes || takesRows ? left : min(panelColumns, whole)
            let rowBytes = min(present, panelColumns) &* elementBytes
            let isTall = n &* rowBytes > tallBytes && g.stride == y.stride
            let isLast = left &- present < lanes && present <= panelColumns
            let ahead =
                isTall
                ? distance.rowsAhead(g.stride) &* g.stride : isLast && next != 0 ? next &- start : rowBytes
            let panel = GradientTile(
                g: g.moved(by: start), y: y.moved(by: start), present: present, n: n,
                ahead: asks ? ahead : 0, far: far,
                asksForBoth: isTall || streaming, asksLate: takesRows && columns > 2 &* tileColumns)
            let out = out.element(first)
            first &+= present
            if !setBackwardResults(
                op, panel, takesRows && isTall ? mostSummedColumns : tileColumns, table, scratch)
            {
                writeUnusualBackward(op, panel, out, outStride, table, scratch)
            } else if op == .softmax {
                writeSoftmaxBackward(panel, out, outStride, table, scratch.spare, streaming: streaming)
            } else {
                writeLogSoftmaxBackward(panel, out, outStride, table, streaming: streaming)
            }
        }
    }
}

/// Sets what gives the gradients of a panel, a tile at a time. False where one needs care; the sums then are in the table.
@inline(never)
private func setBackwardResults(
    _ op: Operation, _ panel: GradientTile, _ tileColumns: Int, _ table: SliceTable, _ scratch: Scratch
) -> Bool {
    if areTinyGradients(panel.n) && setTinyBackwardResults(op, panel, table) { return true }
    var column = 0
    while column < panel.present {
        // Of several vectors the last may begin in the one before.
        let first = panel.present < lanes ? column : min(column, panel.present &- lanes)
        let left = panel.present &- first
        let count = min(tileColumns, left < lanes ? left : left / lanes &* lanes)
        setSums(op, panel.columns(first, count), table, first, scratch)
        column = first &+ count
    }
    return !areTinyGradients(panel.n) && table.setBackwardResults(panel.present)
}

// MARK: Results

extension GradientTile {
    /// The softmax gradients of `count` columns at position i, with the next panel's y asked for.
    @inline(__always)
    fileprivate func softmaxResult(_ i: Int, _ column: Int, _ count: Int, _ table: SliceTable) -> Vector {
        let y = y.from(i).address.element(column)
        let g = g.from(i).address.element(column)
        vector_prefetch(y + ahead)
        if asksForBoth { vector_prefetch(g + ahead) }
        return table.backwardResult(from: column)(.softmax, load(g, count), load(y, count))
    }
}

@inline(never)
func writeSoftmaxBackward(
    _ panel: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
    _ spare: UnsafeMutableRawPointer, streaming: Bool
) {
    if panel.present < lanes {
        for i in 0..<panel.n {
            let value = panel.softmaxResult(i, 0, panel.present, table)
            vector_store_partial(out + i &* outStride, value, panel.present)
        }
        return
    }
    let streams = canStream && streaming && panel.n > longestAside && panel.hasLines(out, outStride)
    if canStream && streaming && !streams {
        writeSoftmaxBackwardAside(panel, out, outStride, table, spare)
        return
    }
    for i in 0..<panel.n {
        let row = out + i &* outStride
        for v in 0..<panel.vectors {
            let (target, value) = (row + v &* vectorBytes, panel.softmaxResult(i, v &* lanes, lanes, table))
            if streams { vector_stream(target, value) } else { vector_store(target, value) }
        }
    }
}

/// The same, past the caches. These stores want to follow each other closely: rows are put aside first, as many as follow each other
/// without a gap, and written after the next ones are computed, as by then their parts can be loaded from the cache.
@inline(never)
private func writeSoftmaxBackwardAside(
    _ panel: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
    _ spare: UnsafeMutableRawPointer
) {
    let (n, whole) = (panel.n, panel.vectors &* lanes)
    let rowBytes = panel.present &* elementBytes
    let run = outStride == rowBytes ? max(1, 4096 / rowBytes) : 1
    @inline(__always)
    func aside(_ first: Int) -> UnsafeMutableRawPointer { spare + (first / run & 1) &* 16384 }
    var first = 0
    while first < n &+ run {
        var row = aside(first)
        for i in first..<max(first, min(first &+ run, n)) {
            for v in 0..<panel.vectors {
                vector_store(row + v &* vectorBytes, panel.softmaxResult(i, v &* lanes, lanes, table))
            }
            // Beyond the row, where the next one will be.
            let rest = panel.present &- whole
            if rest > 0 { vector_store(row.element(whole), panel.softmaxResult(i, whole, rest, table)) }
            row += rowBytes
        }
        let previous = first &- run
        if previous >= 0 {
            stream(aside(previous), out + previous &* outStride, min(run, n &- previous) &* panel.present)
        }
        first &+= run
    }
}

extension GradientTile {
    /// Whether its results fill whole lines, and nothing else does a part of them.
    @inline(__always)
    fileprivate func hasLines(_ out: UnsafeRawPointer, _ outStride: Int) -> Bool {
        (Int(bitPattern: out) | outStride | present &* elementBytes) & (lineBytes &- 1) == 0
    }
}

@inline(never)
func writeLogSoftmaxBackward(
    _ panel: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
    streaming: Bool
) {
    if panel.present < lanes {
        let (result, count) = (table.backwardResult(from: 0), panel.present)
        for i in 0..<panel.n {
            let value = result(
                .logSoftmax, load(panel.g.from(i).address, count), load(panel.y.from(i).address, count))
            vector_store_partial(out + i &* outStride, value, count)
        }
        return
    }
    let areElements = (Int(bitPattern: out) | outStride) & (elementBytes &- 1) == 0
    let streams =
        canStream && streaming && (vectorBytes == lineBytes ? areElements : panel.hasLines(out, outStride))
    for i in 0..<panel.n {
        let (g, y, row) = (panel.g.from(i).address, panel.y.from(i).address, out + i &* outStride)
        // Elements up to the first line, alone; then four vectors at a time, and what is left.
        let head = streams ? headOfRow(row, lineBytes) : 0
        var column = 0
        while column < panel.present {
            let left = panel.present &- column
            if left >= 4 &* lanes && column >= head {
                let y = y.element(column)
                for v in 0..<4 { vector_prefetch(y + panel.ahead + v &* vectorBytes) }
                if panel.asksForBoth {
                    for v in 0..<4 { vector_prefetch(g.element(column) + panel.ahead + v &* vectorBytes) }
                }
                let four = table.logSoftmaxBackward(from: column, loadQuad(g.element(column)), loadQuad(y))
                if streams {
                    streamQuad(row.element(column), four)
                } else {
                    storeQuad(row.element(column), four)
                }
                column &+= 4 &* lanes
            } else {
                let count = column < head ? head : min(lanes, left)
                vector_prefetch(y.element(column) + panel.ahead)
                let value = table.backwardResult(from: column)(
                    .logSoftmax, load(g.element(column), count), load(y.element(column), count))
                if streams && count == lanes {
                    vector_stream(row.element(column), value)
                } else {
                    store(row.element(column), value, count)
                }
                column &+= count
            }
        }
    }
}

/// The gradients of a panel of which some need care.
@inline(never)
func writeUnusualBackward(
    _ op: Operation, _ panel: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ table: SliceTable, _ scratch: Scratch
) {
    var slice = 0
    while slice < panel.present {
        let count = min(lanes, panel.present &- slice)
        let part = panel.columns(slice, count)
        var total = GradientSum(
            scale: splatWide(1), sum: table.sum(from: slice), plain: splatWide(0))
        let needsScale = total.needsScale
        if vector_sum(wide_narrow(needsScale)) > 0 {
            let again = scaledSum(op, part, scratch.secondTable, scratch)
            total = total.replacing(with: again.settled, where: needsScale)
        }
        var result = BackwardResult(total)
        if areTinyGradients(panel.n) { result = part.tinyResult(op).replacingUnusual(with: result) }
        for i in 0..<panel.n {
            let (g, y) = (
                vector_load_partial(part.g.from(i).address, count, splat(0)),
                vector_load_partial(part.y.from(i).address, count, splat(0))
            )
            vector_store_partial((out + i &* outStride).element(slice), result.general(op, g, y), count)
        }
        slice &+= lanes
    }
}

/// The sums of a vector of columns, taken with `downScale`.
func scaledSum(
    _ op: Operation, _ tile: GradientTile, _ table: SliceTable, _ scratch: Scratch
) -> GradientSum {
    let panels = scratch.exponentials
    let scaled = Operand(address: panels.tails, stride: vectorBytes)
    var plain = splatWide(0)
    var first = 0
    while first < tile.n {
        let part = tile.from(first)
        for i in 0..<min(block, part.n) {
            let g = vector_load_partial(part.g.from(i).address, tile.present, splat(0))
            let y = vector_load_partial(part.y.from(i).address, tile.present, splat(0))
            let term = g * splat(Element(downScale))
            vector_store(panels.tails + i &* vectorBytes, term)
            plain += vector_widen(op == .softmax ? term * y : term)
        }
        addBlock(
            op,
            GradientTile(
                g: scaled, y: part.y, present: tile.present, n: part.n, ahead: part.ahead, far: part.far,
                asksForBoth: false, asksLate: false),
            isFirst: first == 0, table, 0, scratch)
        first &+= block
    }
    return GradientSum(scale: splatWide(downScale), sum: table.sum(from: 0), plain: plain)
}
