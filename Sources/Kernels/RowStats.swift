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
    return largest(maximum(maximum(all.a, all.b), maximum(all.c, all.d)))
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
    func load(at bytes: Int) -> Exponential {
        Exponential(tail: vector_load(tails + bytes), power: vector_load(powers + bytes))
    }
}

/// Sums the exponentials of one block (n <= `block`) of a row, virtual lane by virtual lane.
///
/// - Parameters:
///   - argument: the arguments of exp of `present` elements from `first` on; `low` in the lanes beyond.
///   - keep: takes the tail and power of the elements from `first` on.
@inline(__always)
func sumRow(
    _ n: Int, _ shift: Shift, _ laneSums: LaneSums, argument: (_ first: Int, _ present: Int) -> Vector,
    keep: (_ first: Int, Vector, Vector) -> Void
) -> (high: Double, low: Double) {
    // The members of a group are `virtualLanes` apart; a narrow vector takes some of the lanes at a time.
    var firstLane = 0
    while firstLane < virtualLanes {
        var sum = CompensatedSum()
        var i = firstLane
        while i &+ 3 &* virtualLanes &+ lanes <= n {
            let (second, third) = (i &+ virtualLanes, i &+ 2 &* virtualLanes)
            let fourth = third &+ virtualLanes
            let e = ExponentialQuad(
                Quad(
                    argument(i, lanes), argument(second, lanes), argument(third, lanes),
                    argument(fourth, lanes)), magic: shift.magic)
            keep(i, e.tail.a, e.power.a)
            keep(second, e.tail.b, e.power.b)
            keep(third, e.tail.c, e.power.c)
            keep(fourth, e.tail.d, e.power.d)
            sum.add(e)
            i &+= groupElements
        }
        // What is left of the last group.
        if i < n {
            let (second, third) = (i &+ virtualLanes, i &+ 2 &* virtualLanes)
            let fourth = third &+ virtualLanes
            @inline(__always)
            func rest(_ first: Int) -> Vector {
                first < n ? argument(first, min(lanes, n &- first)) : shift.low
            }
            let e = ExponentialQuad(
                Quad(rest(i), rest(second), rest(third), rest(fourth)), magic: shift.magic)
            keep(i, e.tail.a, e.power.a)
            if second < n { keep(second, e.tail.b, e.power.b) }
            if third < n { keep(third, e.tail.c, e.power.c) }
            if fourth < n { keep(fourth, e.tail.d, e.power.d) }
            sum.add(e)
        }
        laneSums.set(firstLane: firstLane, sum.pair)
        firstLane &+= lanes
    }
    return laneSums.total
}

/// Sums a block's exponentials relative to `max`, and keeps them.
@inline(never)
func softmaxSum(
    _ x: UnsafeRawPointer, _ n: Int, _ max: Element, _ kept: ExponentialPanel, _ laneSums: LaneSums
) -> (high: Double, low: Double) {
    let shift = Shift(max: splat(max))
    return sumRow(n, shift, laneSums) { i, present in
        maximum(load(x.element(i), present, fill: -.infinity), shift.low)
    } keep: { i, tail, power in
        vector_store(kept.tails.element(i), tail)
        vector_store(kept.powers.element(i), power)
    }
}

/// As `softmaxSum`, without the elements equal to `max`; `count` becomes their number.
@inline(never)
func logSum(
    _ x: UnsafeRawPointer, _ n: Int, _ max: Element, _ count: inout Double, _ laneSums: LaneSums
) -> (high: Double, low: Double) {
    let shift = Shift(max: splat(max))
    var equal = 0
    let total = sumRow(n, shift, laneSums) { i, present in
        let value = load(x.element(i), present, fill: -.infinity)
        equal &+= Int(vector_count_equal(value, splat(max)))
        return maximum(value, shift.low).replacing(with: shift.low, where: value .== splat(max))
    } keep: { _, _, _ in
    }
    count = Double(equal)
    return total
}

/// The stats of one block of a row, relative to `max`: its own maximum, or that of the slice.
///
/// - Parameter spare: room for a block.
@inline(__always)
func blockStats(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ n: Int, _ max: Element, _ kept: ExponentialPanel,
    _ laneSums: LaneSums, spare: UnsafeMutableRawPointer
) -> swiftmax_stats {
    var (source, top) = (x, max)
    if isFar(max) {
        writeRow(spare, n, streaming: false) { i, count in load(x.element(i), count) - splat(max) }
        (source, top) = (UnsafeRawPointer(spare), 0)
    }
    var count = 0.0
    let total =
        kind == .all
        ? softmaxSum(source, n, top, kept, laneSums) : logSum(source, n, top, &count, laneSums)
    return swiftmax_stats(max: Double(max), high: total.high, low: total.low, count: count)
}

/// The stats of a whole row. Leaves the maxima against which its blocks were summed in the table.
///
/// - Parameter step: from where the exponentials of one block are kept to where those of the next are, in bytes: 0
///   overwrites them.
@inline(never)
func rowStats(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ n: Int, _ kept: ExponentialPanel, step: Int,
    _ scratch: Scratch
) -> swiftmax_stats {
    let table = scratch.table
    if n <= block {
        return blockStats(
            kind, x, n, rowMax(x, n), kept, table.laneSums, spare: scratch.spare)
    }
    var known: Element?
    while true {
        var stats = Stats.none
        var (first, bytes) = (0, 0)
        while first < n {
            let (start, count) = (x.element(first), min(block, n &- first))
            let max = known ?? rowMax(start, count)
            let next = blockStats(
                kind, start, count, max, kept.from(bytes), table.laneSums, spare: scratch.spare)
            stats.append(Stats(next), kind)
            if step > 0 { table.setBlockMax(first / block, max) }
            first &+= block
            bytes &+= step
        }
        if known != nil || !stats.needsKnownMax[0] { return stats.first }
        known = Element(stats.max[0])
    }
}
