// One reading of a row: its maximum, and the sum of its exponentials.

import CKernels
import CVector

/// The largest element of a block; NaN does not count, and -inf is the largest of none.
@inline(__always)
func rowMax(_ x: UnsafeRawPointer, _ n: Int) -> Element {
    var (a, b) = (Quad(repeating: splat(-.infinity)), Quad(repeating: splat(-.infinity)))
    var i = 0
    while i &+ 8 &* lanes <= n {
        a = a.map(loadQuad(x.element(i)), maximum)
        b = b.map(loadQuad(x.element(i &+ 4 &* lanes)), maximum)
        i &+= 8 &* lanes
    }
    if i &+ 4 &* lanes <= n {
        a = a.map(loadQuad(x.element(i)), maximum)
        i &+= 4 &* lanes
    }
    while i &+ lanes <= n {
        b.a = maximum(b.a, vector_load(x.element(i)))
        i &+= lanes
    }
    if i < n { b.b = maximum(b.b, load(x.element(i), n &- i, fill: -.infinity)) }
    let all = a.map(b, maximum)
    return vector_largest(maximum(maximum(all.a, all.b), maximum(all.c, all.d)))
}

@inline(__always)
func loadQuad(_ address: UnsafeRawPointer) -> Quad {
    Quad(
        vector_load(address), vector_load(address + vectorBytes),
        vector_load(address + 2 &* vectorBytes), vector_load(address + 3 &* vectorBytes))
}

/// Where the exponentials of a row are kept until its sum is known, in whole vectors.
struct ExponentialPanel {
    let tails: UnsafeMutableRawPointer
    let powers: UnsafeMutableRawPointer

    @inline(__always)
    func from(_ bytes: Int) -> ExponentialPanel {
        ExponentialPanel(tails: tails + bytes, powers: powers + bytes)
    }

    @inline(__always)
    func store(_ e: Exponential, at bytes: Int) {
        vector_store(tails + bytes, e.tail)
        vector_store(powers + bytes, e.power)
    }

    @inline(__always)
    func load(at bytes: Int) -> Exponential {
        Exponential(tail: vector_load(tails + bytes), power: vector_load(powers + bytes))
    }
}

/// Sums the exponentials of one block (n <= `block`) of a row, virtual lane by virtual lane.
///
/// - Parameters:
///   - argument: the arguments of exp of `present` elements from `first` on; the low of the shift in the lanes beyond.
///   - term: what is summed of the exponentials of `present` elements from `first` on.
@inline(__always)
func sumRow(
    _ n: Int, magic: Vector, _ laneSums: LaneSums, argument: (_ first: Int, _ present: Int) -> Vector,
    term: (_ first: Int, _ present: Int, _ e: Exponential) -> Exponential
) {
    /// The terms of a vector that may go beyond the end.
    @inline(__always)
    func last(_ first: Int) -> Exponential {
        let present = min(lanes, n &- first)
        return term(first, present, Exponential(argument(first, present), magic: magic))
    }
    // The members of a group are `virtualLanes` apart; a narrow vector takes some of the lanes at a time.
    var firstLane = 0
    while firstLane < virtualLanes {
        if n <= virtualLanes {
            laneSums.set(
                firstLane: firstLane, firstLane < n ? pair(of: last(firstLane)) : .zero)
            firstLane &+= lanes
            continue
        }
        var sum = CompensatedSum()
        var i = firstLane
        while i &+ 3 &* virtualLanes &+ lanes <= n {
            let (second, third) = (i &+ virtualLanes, i &+ 2 &* virtualLanes)
            let fourth = third &+ virtualLanes
            let e = ExponentialQuad(
                Quad(
                    argument(i, lanes), argument(second, lanes), argument(third, lanes),
                    argument(fourth, lanes)), magic: magic)
            sum.add(
                ExponentialQuad(
                    term(i, lanes, e.a), term(second, lanes, e.b), term(third, lanes, e.c),
                    term(fourth, lanes, e.d)))
            i &+= groupElements
        }
        // What is left of the last group.
        let (second, third) = (i &+ virtualLanes, i &+ 2 &* virtualLanes)
        let fourth = third &+ virtualLanes
        if fourth < n {
            let (a, b, c, d) = (last(i), last(second), last(third), last(fourth))
            sum.add(ExponentialQuad(a, b, c, d))
        } else if third < n {
            sum.add(last(i), last(second), last(third))
        } else if second < n {
            sum.add(last(i), last(second))
        } else if i < n {
            sum.add(last(i))
        }
        laneSums.set(firstLane: firstLane, sum.pair)
        firstLane &+= lanes
    }
}

/// Sums a block's exponentials, and keeps them; `magic` and `low` are of its shift.
///
/// - Parameter ahead: how many bytes on the elements lie that are read next. They are asked for here, where memory has
///   nothing else to do.
@inline(never)
func softmaxSum(
    _ x: UnsafeRawPointer, _ n: Int, magic: Element, low: Element, ahead: Int,
    _ panel: ExponentialPanel, _ laneSums: LaneSums
) {
    sumRow(n, magic: splat(magic), laneSums) { i, present in
        vector_prefetch(x.element(i) + ahead)
        return maximum(load(x.element(i), present, fill: -.infinity), splat(low))
    } term: { i, _, e in
        panel.store(e, at: i &* elementBytes)
        return e
    }
}

/// As `softmaxSum`, without the elements equal to `max`; returns their number.
@inline(never)
func logSum(
    _ x: UnsafeRawPointer, _ n: Int, magic: Element, low: Element, max: Element, ahead: Int,
    _ laneSums: LaneSums
) -> Double {
    var equal = splat(0)
    sumRow(n, magic: splat(magic), laneSums) { i, present in
        vector_prefetch(x.element(i) + ahead)
        return maximum(load(x.element(i), present, fill: -.infinity), splat(low))
    } term: { i, present, e in
        let value = load(x.element(i), present, fill: -.infinity)
        equal = vector_if_equal(value, splat(max), equal + splat(1), equal)
        return Exponential(
            tail: e.tail, power: vector_if_equal(value, splat(max), splat(0), e.power))
    }
    return Double(vector_sum(equal))
}

/// -inf for every number, so that the sum beside an infinite maximum tells whether there is a NaN.
@inline(__always)
func onlyNaN(_ x: Vector) -> Vector { vector_if_equal(x, x, splat(-.infinity), x) }

/// Leaves the lane sums of one block of a row, relative to `max`: its own maximum, or that of the slice. Returns
/// the count of the stats.
///
/// - Parameter spare: room for a block.
@inline(__always)
func blockSum(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ n: Int, max: Element, magic: Element, low: Element,
    ahead: Int, _ panel: ExponentialPanel, _ laneSums: LaneSums, spare: UnsafeMutableRawPointer
) -> Double {
    var (source, top) = (x, max)
    if isFar(max) {
        writeRow(spare, n, streaming: false) { i, count in load(x.element(i), count) - splat(max) }
        (source, top) = (UnsafeRawPointer(spare), 0)
    } else if max == .infinity {
        writeRow(spare, n, streaming: false) { i, count in
            onlyNaN(load(x.element(i), count))
        }
        source = UnsafeRawPointer(spare)
    }
    switch kind {
    case .all:
        softmaxSum(source, n, magic: magic, low: low, ahead: ahead, panel, laneSums)
        return 0
    case .excludingMax:
        return logSum(source, n, magic: magic, low: low, max: top, ahead: ahead, laneSums)
    }
}

/// The stats of one block.
func blockStats(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ n: Int, _ max: Element, _ panel: ExponentialPanel,
    _ scratch: Scratch
) -> swiftmax_stats {
    let shift = Shift(max: splat(max))
    let count = blockSum(
        kind, x, n, max: max, magic: shift.magic[0], low: shift.low[0], ahead: n &* elementBytes, panel,
        scratch.laneSums, spare: scratch.spare)
    scratch.table.setTotals(1, scratch.laneSums)
    let total = scratch.table.total(0)
    return swiftmax_stats(max: Double(max), high: total.high, low: total.low, count: count)
}

/// The stats of rows of one block each, in the table, in phases: each is short for a row, so that the CPU works on
/// several rows at a time.
func shortRowStats(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ xStride: Int, _ rows: Int, _ n: Int, rowBytes: Int,
    _ scratch: Scratch
) {
    let table = scratch.table
    for r in 0..<rows { table.setMax(r, rowMax(x + r &* xStride, n)) }
    table.setShifts(rows)
    for r in 0..<rows {
        let count = blockSum(
            kind, x + r &* xStride, n, max: table.max(r), magic: table.magic(r), low: table.low(r),
            ahead: rows &* xStride,
            scratch.exponentials.from(r &* rowBytes), scratch.laneSums.row(r), spare: scratch.spare)
        table.setCount(r, count)
    }
    table.setTotals(rows, scratch.laneSums)
}

/// The stats of a row of several blocks. Leaves the maxima against which its blocks were summed in the table.
///
/// - Parameter step: from where the exponentials of one block are kept to where those of the next are, in bytes: 0
///   overwrites them.
@inline(never)
func rowStats(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ n: Int, _ kept: ExponentialPanel, step: Int,
    _ scratch: Scratch
) -> swiftmax_stats {
    let table = scratch.table
    var known: Element?
    while true {
        var stats = Stats.none
        var (first, bytes) = (0, 0)
        while first < n {
            let (start, count) = (x.element(first), min(block, n &- first))
            let max = known ?? rowMax(start, count)
            let next = blockStats(kind, start, count, max, kept.from(bytes), scratch)
            stats.append(Stats(next), kind)
            if step > 0 { table.setBlockMax(first / block, max) }
            first &+= block
            bytes &+= step
        }
        if known != nil || stats.needsKnownMax[0] == 0 { return stats.first }
        known = Element(stats.max[0])
    }
}
