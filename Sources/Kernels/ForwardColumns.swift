// Slices that lie side by side: vectors run across the slices, one lane each.
//
// The arithmetic of a slice is that of ForwardRows.swift to the bit: the same groups, virtual lanes and tree,
// with a vector where that has one lane.

import CKernels
import CVector

/// As `sumRow`, for a vector of columns.
@inline(__always)
func sumColumns(
    _ n: Int, magic: Vector, _ laneSums: UnsafeMutableRawPointer, argument: (Int) -> Vector,
    term: (_ i: Int, _ e: Exponential) -> Exponential
) -> Pair {
    let pairs = laneSums.assumingMemoryBound(to: Pair.self)
    @inline(__always)
    func one(_ i: Int) -> Exponential {
        term(i, Exponential(argument(i), magic: magic))
    }
    @inline(__always)
    func four(_ i: Int, _ step: Int) -> ExponentialQuad {
        let (j, k, l) = (i &+ step, i &+ 2 &* step, i &+ 3 &* step)
        let e = ExponentialQuad(
            Quad(argument(i), argument(j), argument(k), argument(l)), magic: magic)
        return ExponentialQuad(term(i, e.a), term(j, e.b), term(k, e.c), term(l, e.d))
    }

    if n <= virtualLanes {
        var i = 0
        while i &+ 4 <= n {
            let e = four(i, 1)
            pairs[i] = pair(of: e.a)
            pairs[i &+ 1] = pair(of: e.b)
            pairs[i &+ 2] = pair(of: e.c)
            pairs[i &+ 3] = pair(of: e.d)
            i &+= 4
        }
        while i < n {
            pairs[i] = pair(of: one(i))
            i &+= 1
        }
        return sumOfLanes(pairs, n)
    }
    for lane in 0..<virtualLanes {
        var sum = CompensatedSum()
        var i = lane
        while i &+ 3 &* virtualLanes < n {
            sum.add(four(i, virtualLanes))
            i &+= groupElements
        }
        // What is left of the last group, never four.
        let second = i &+ virtualLanes
        let third = second &+ virtualLanes
        if third < n {
            sum.add(one(i), one(second), one(third))
        } else if second < n {
            sum.add(one(i), one(second))
        } else if i < n {
            sum.add(one(i))
        }
        pairs[lane] = sum.pair
    }
    return sumOfLanes(pairs, virtualLanes)
}

/// The tree of LaneSums.total over the first `used` virtual lanes; the others would add zeros.
@inline(__always)
func sumOfLanes(_ pairs: UnsafeMutablePointer<Pair>, _ used: Int) -> Pair {
    var half = virtualLanes / 2
    while half > 0 {
        var lane = 0
        while lane < half && lane &+ half < used {
            pairs[lane] = pairs[lane] + pairs[lane &+ half]
            lane &+= 1
        }
        half /= 2
    }
    return pairs[0]
}

/// As the `softmaxSum` of a row; the elements are taken from the panel and give way to their powers.
@inline(never)
func softmaxSum(
    _ panel: ExponentialPanel, _ n: Int, _ max: Vector, _ laneSums: UnsafeMutableRawPointer
) -> Pair {
    let shift = Shift(max: max)
    return sumColumns(n, magic: shift.magic, laneSums) { i in
        maximum(vector_load(panel.powers + i &* vectorBytes), shift.low)
    } term: { i, e in
        panel.store(e, at: i &* vectorBytes)
        return e
    }
}

/// As the `logSum` of a row; the elements are taken from the panel and left there.
@inline(never)
func logSum(
    _ x: UnsafeRawPointer, _ n: Int, _ max: Vector, _ count: inout Vector,
    _ laneSums: UnsafeMutableRawPointer
) -> Pair {
    let shift = Shift(max: max)
    let zero = splat(0)
    var equal = zero
    let total = sumColumns(n, magic: shift.magic, laneSums) { i in
        maximum(vector_load(x + i &* vectorBytes), shift.low)
    } term: { i, e in
        let value = vector_load(x + i &* vectorBytes)
        equal = vector_if_equal(value, max, equal + splat(1), equal)
        return Exponential(tail: e.tail, power: vector_if_equal(value, max, zero, e.power))
    }
    count = equal
    return total
}

/// As the `blockStats` of a row. Leaves x - base in the panel where a base is taken off.
@inline(__always)
func blockStats(
    _ kind: SumKind, _ panel: ExponentialPanel, _ n: Int, _ max: Vector,
    _ laneSums: UnsafeMutableRawPointer
) -> Stats {
    let base = farBase(max)
    if vector_count_equal(base, splat(0)) != lanes {
        for i in 0..<n {
            let address = panel.powers + i &* vectorBytes
            vector_store(address, vector_load(address) - base)
        }
    }
    if vector_count_equal(max, splat(.infinity)) != 0 {
        for i in 0..<n {
            let address = panel.powers + i &* vectorBytes
            vector_store(address, withoutInfinity(vector_load(address)))
        }
    }
    var count = splat(0)
    let total =
        kind == .all
        ? softmaxSum(panel, n, max - base, laneSums)
        : logSum(panel.powers, n, max - base, &count, laneSums)
    return Stats(max: vector_widen(max), sum: total, count: vector_widen(count))
}

// MARK: Panels

/// Copies `count` columns (at most a table's) of `n` elements into a panel, where each vector of columns is
/// contiguous, and notes their maxima. Rows of a matrix are often a power of two apart and would evict each other
/// from the caches, were they to be read twice.
@inline(__always)
func copyToPanel(
    _ x: UnsafeRawPointer, _ stride: Int, _ count: Int, _ n: Int, _ panel: UnsafeMutableRawPointer,
    _ table: SliceTable
) {
    let columnBytes = n &* vectorBytes
    var column = 0
    var target = panel
    // Four vectors at a time read whole cache lines, and several of a row.
    while column &+ 4 &* lanes <= count {
        let none = splat(-.infinity)
        var (a, b, c, d) = (none, none, none, none)
        for i in 0..<n {
            let source = x.element(column) + i &* stride
            let values = (
                vector_load(source), vector_load(source + vectorBytes),
                vector_load(source + 2 &* vectorBytes), vector_load(source + 3 &* vectorBytes)
            )
            let destination = target + i &* vectorBytes
            vector_store(destination, values.0)
            vector_store(destination + columnBytes, values.1)
            vector_store(destination + 2 &* columnBytes, values.2)
            vector_store(destination + 3 &* columnBytes, values.3)
            a = maximum(a, values.0)
            b = maximum(b, values.1)
            c = maximum(c, values.2)
            d = maximum(d, values.3)
        }
        table.setPanelMax(a, from: column)
        table.setPanelMax(b, from: column &+ lanes)
        table.setPanelMax(c, from: column &+ 2 &* lanes)
        table.setPanelMax(d, from: column &+ 3 &* lanes)
        target += 4 &* columnBytes
        column &+= 4 &* lanes
    }
    while column < count {
        let present = min(lanes, count &- column)
        var largest = splat(-.infinity)
        for i in 0..<n {
            let value = load(x.element(column) + i &* stride, present)
            vector_store(target + i &* vectorBytes, value)
            largest = maximum(largest, value)
        }
        table.setPanelMax(largest, from: column)
        target += columnBytes
        column &+= lanes
    }
}

// MARK: The operation

/// Where a tile of columns lies: `count` slices of `n` elements each, `stride` bytes from one element to the next.
struct Tile {
    let address: UnsafeRawPointer
    let stride: Int
    let count: Int
    let n: Int
}

/// Leaves the stats of a tile's slices in `table`, and what `blockStats` leaves of the last block in the panel.
///
/// - Parameter known: where the maxima stand against which all blocks are summed; nil for each block's own.
func tileStats(
    _ kind: SumKind, _ tile: Tile, known: SliceTable?, _ scratch: Scratch, _ table: SliceTable
) {
    let panel = scratch.exponentials
    var start = 0
    while start < tile.n {
        let length = min(block, tile.n &- start)
        copyToPanel(
            tile.address + start &* tile.stride, tile.stride, tile.count, length, panel.powers, table)
        var column = 0
        while column < tile.count {
            let max = known.map { wide_narrow($0.stats(from: column).max) } ?? table.panelMax(from: column)
            let part = panel.from(column / lanes &* length &* vectorBytes)
            var stats = blockStats(kind, part, length, max, scratch.columnLaneSums)
            if start > 0 {
                var all = table.stats(from: column)
                all.append(stats, kind)
                stats = all
            }
            table.set(from: column, stats)
            column &+= lanes
        }
        start &+= block
    }
}

/// Replaces the stats of those slices that need it; see `Stats.needsKnownMax`.
func sumAgainstKnownMax(_ kind: SumKind, _ tile: Tile, _ scratch: Scratch) {
    let table = scratch.table
    let again = scratch.secondTable
    var isNeeded = false
    for slice in 0..<tile.count where table.stats(from: slice).needsKnownMax[0] != 0 { isNeeded = true }
    if !isNeeded { return }
    tileStats(kind, tile, known: table, scratch, again)
    var column = 0
    while column < tile.count {
        let stats = table.stats(from: column)
        let flag = stats.needsKnownMax
        table.set(from: column, stats.replacing(with: again.stats(from: column), where: flag))
        column &+= lanes
    }
}

/// The forward operation on `columns` slices, a tile at a time.
func forwardColumns(
    _ op: Operation, _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer,
    _ outStride: Int, _ columns: Int, _ n: Int, _ scratch: UnsafeMutableRawPointer, streaming: Bool
) {
    let scratch = Scratch(address: scratch)
    let table = scratch.table
    let panel = scratch.exponentials
    let columnBytes = min(n, block) &* vectorBytes
    let width = min(SliceTable.capacity, panelBytes / columnBytes &* lanes)

    var first = 0
    while first < columns {
        let tile = Tile(
            address: x.element(first), stride: xStride, count: min(width, columns &- first), n: n)
        tileStats(op.sumKind, tile, known: nil, scratch, table)
        if n > block { sumAgainstKnownMax(op.sumKind, tile, scratch) }
        table.setResults(op, tile.count)

        var column = 0
        while column < tile.count {
            let source = tile.address.element(column)
            let target = out.element(first &+ column)
            let present = min(lanes, tile.count &- column)
            switch op {
            case .softmax where n <= block:
                let kept = panel.from(column / lanes &* columnBytes)
                writeSoftmax(kept, target, outStride, present, n, table, column, streaming: streaming)
            case .softmax:
                writeSoftmax(
                    source, xStride, target, outStride, present, n, table, column, streaming: streaming)
            case .logSoftmax:
                writeLogSoftmax(
                    source, xStride, target, outStride, present, n, table, column, streaming: streaming)
            case .logsumexp:
                store(target, table.logsumexp(from: column), present)
            }
            column &+= lanes
        }
        first &+= tile.count
    }
}

// MARK: Results

/// The softmax of a vector of columns whose exponentials were kept.
@inline(never)
func writeSoftmax(
    _ kept: ExponentialPanel, _ out: UnsafeMutableRawPointer, _ stride: Int, _ present: Int, _ n: Int,
    _ table: SliceTable, _ slice: Int, streaming: Bool
) {
    let softmax = table.softmaxResult(from: slice)
    writeColumns(out, stride, present, n, streaming: streaming) { i, _ in
        softmax(kept.load(at: i &* vectorBytes))
    }
}

/// The softmax of a vector of columns whose exponentials are computed again.
@inline(never)
func writeSoftmax(
    _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer, _ stride: Int,
    _ present: Int, _ n: Int, _ table: SliceTable, _ slice: Int, streaming: Bool
) {
    let softmax = table.softmaxResult(from: slice)
    writeColumns(out, stride, present, n, streaming: streaming) { i, count in
        softmax(load(x + i &* xStride, count))
    }
}

@inline(never)
func writeLogSoftmax(
    _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer, _ stride: Int,
    _ present: Int, _ n: Int, _ table: SliceTable, _ slice: Int, streaming: Bool
) {
    let logSoftmax = table.logSoftmaxResult(from: slice)
    writeColumns(out, stride, present, n, streaming: streaming) { i, count in
        logSoftmax(load(x + i &* xStride, count))
    }
}

/// Stores `body(i, count)` as element i of `present` columns, for i < n.
@inline(__always)
func writeColumns(
    _ out: UnsafeMutableRawPointer, _ stride: Int, _ present: Int, _ n: Int, streaming: Bool,
    _ body: (Int, Int) -> Vector
) {
    if present < lanes {
        for i in 0..<n { vector_store_partial(out + i &* stride, body(i, present), present) }
    } else if streaming && (Int(bitPattern: out) | stride) & (vectorBytes &- 1) == 0 {
        for i in 0..<n { vector_stream(out + i &* stride, body(i, lanes)) }
        vector_stream_fence()
    } else {
        for i in 0..<n { vector_store(out + i &* stride, body(i, lanes)) }
    }
}
