// One reading of a tile of columns: their maxima, and the sums of their exponentials.
//
// The arithmetic of a slice is that of RowStats.swift to the bit: the same groups, virtual lanes and tree, with a
// vector where that has one lane.

import CKernels
import CVector

/// Where a tile of columns lies: slices of `n` elements each, `stride` bytes from one element to the next; `columns` of them
/// side by side, in each of some groups.
struct Tile {
    let address: UnsafeRawPointer
    let elements: Elements
    let stride: Int
    let mask: Mask?
    let columns: Int
    let groups: Int
    /// From the number of a column to that of the same in the next group.
    let groupColumns: Int
    let groupStride: Int
    let outGroupStride: Int
    let n: Int
    /// The one that is taken next.
    let next: Asked

    @inline(__always) var count: Int { (groups &- 1) &* groupColumns &+ columns }
}

/// Where the exponentials of columns are kept until their sums are known, in whole vectors.
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

/// What is put down of a vector of columns before it is summed: exponentials or, if `areTerms`, their terms, with the low part
/// in the place of the tail.
private struct LastTerms {
    let panel: ExponentialPanel
    let areTerms: Bool

    @inline(__always)
    func set(_ i: Int, _ e: Exponential) {
        if !areTerms { return panel.store(e, at: i &* vectorBytes) }
        let term = Term(e)
        panel.store(Exponential(tail: term.low, power: term.high), at: i &* vectorBytes)
    }

    @inline(__always)
    func exponential(_ i: Int) -> Exponential { panel.load(at: i &* vectorBytes) }

    @inline(__always)
    func term(_ i: Int) -> Term {
        let e = exponential(i)
        return areTerms ? Term(high: e.power, low: e.tail) : Term(e)
    }
}

#if !(SWIFTMAX_BASELINE && arch(x86_64))
    // For a CPU as old as that it is not worth the size.

    /// The sum of up to two terms for each virtual lane of a vector of columns.
    @inline(__always)
    private func sumOfShort(_ n: Int, _ room: UnsafeMutableRawPointer, _ term: (_ i: Int) -> Term) -> Pair {
        /// Virtual lane i and, of sixteen, i + 8.
        @inline(__always)
        func lane(_ i: Int) -> TermSum {
            var sum = TermSum(term(i))
            if i &+ virtualLanes < n { sum = sum + TermSum(term(i &+ virtualLanes)) }
            if virtualLanes == 8 || i &+ 8 >= n { return sum }
            var upper = TermSum(term(i &+ 8))
            if i &+ 24 < n { upper = upper + TermSum(term(i &+ 24)) }
            return sum + upper
        }
        if n <= 4 {
            @inline(__always)
            func one(_ i: Int) -> TermSum { TermSum(term(i)) }
            if n == 1 { return one(0).pair }
            let (even, odd) = (n > 2 ? one(0) + one(2) : one(0), n > 3 ? one(1) + one(3) : one(1))
            return (even + odd).pair
        }
        @inline(__always)
        func two(_ i: Int) -> TermSum { i &+ 4 < n ? lane(i) + lane(i &+ 4) : lane(i) }
        return sumOfTerms(two, room)
    }
#endif

/// The sum of a vector of columns from those of the virtual lanes. Shared, as it is large and called seldom.
@inline(never)
private func setSum(ofVirtualLanes sums: UnsafeMutablePointer<TermSum>, _ table: SliceTable, _ column: Int) {
    let sum = sumOfTerms(
        { i in
            if virtualLanes == 8 { return sums[i] + sums[i &+ 4] }
            return (sums[i] + sums[i &+ 8]) + (sums[i &+ 4] + sums[i &+ 12])
        }, sums)
    table.setSum(from: column, sum)
}

/// The sum of a vector of columns no longer than `shortLength`.
@inline(__always)
private func setShortSum(
    _ n: Int, _ terms: LastTerms, _ room: UnsafeMutableRawPointer, _ table: SliceTable, _ column: Int
) {
    let sums = room.assumingMemoryBound(to: TermSum.self)
    #if SWIFTMAX_BASELINE && arch(x86_64)
        for lane in 0..<virtualLanes {
            var sum = lane < n ? TermSum(terms.term(lane)) : .zero
            for i in stride(from: lane &+ virtualLanes, to: n, by: virtualLanes) {
                sum = sum + TermSum(terms.term(i))
            }
            sums[lane] = sum
        }
    #else
        if n <= min(shortLength, 2 &* virtualLanes) {
            table.setSum(from: column, sumOfShort(n, room, terms.term))
            return
        }
        for lane in 0..<virtualLanes {
            let third = lane &+ 2 &* virtualLanes
            let two = TermSum(terms.term(lane)) + TermSum(terms.term(lane &+ virtualLanes))
            sums[lane] = third < n ? two + TermSum(terms.term(third)) : two
        }
    #endif
    setSum(ofVirtualLanes: sums, table, column)
}

/// Vectors of columns no longer than `shortLength` that are taken through two steps, their exponentials and then their sums: each
/// takes much longer than it does work, but is short enough for the CPU to have that of several vectors under way. Fewer where
/// terms take room of their own in the first cache.
@inline(__always)
private func shortVectors(areKept: Bool) -> Int { areKept || elementBytes == 8 ? 8 : 4 }

/// Calls `setTerms` for each vector of columns from `first` to `end`, and then sets their sums, if they are short.
///
/// - Parameter setTerms: leaves the exponentials of a vector of short columns in `panel`, and sets the sum of others.
@inline(__always)
private func forEachVector(
    _ n: Int, _ first: Int, _ end: Int, _ table: SliceTable, _ scratch: Scratch, keepsShort: Bool,
    kept: (_ column: Int) -> ExponentialPanel?, setTerms: (_ column: Int, _ panel: ExponentialPanel?) -> Void
) {
    var start = first
    while start < end {
        let last =
            n <= shortLength ? min(end, start &+ shortVectors(areKept: keepsShort) &* lanes) : start &+ lanes
        @inline(__always)
        func panel(_ column: Int) -> ExponentialPanel? {
            if let kept = kept(column) { return kept }
            return n <= shortLength ? scratch.lastGroup.from((column &- start) &* n &* elementBytes) : nil
        }
        var column = start
        while column < last {
            setTerms(column, panel(column))
            column &+= lanes
        }
        if n <= shortLength {
            column = start
            while column < last {
                let terms = LastTerms(panel: panel(column).unsafelyUnwrapped, areTerms: !keepsShort)
                setShortSum(n, terms, scratch.columnLaneSums, table, column)
                column &+= lanes
            }
        }
        start = last
    }
}

/// As `sumRow`, for the vector of columns from `column` on, for a table; of short ones without the sum.
///
/// - Parameters:
///   - kept: where all exponentials are kept; nil keeps none.
///   - keepsShort: whether those of short columns are for the results too.
///   - term: what is summed of an exponential.
@inline(__always)
func setSum(
    _ kind: SumKind, from column: Int, _ n: Int, _ table: SliceTable, _ scratch: Scratch,
    kept: ExponentialPanel?, keepsShort: Bool,
    argument: (Int) -> Vector, term: (_ i: Int, _ e: Exponential) -> Exponential
) {
    let magic = table.magic(from: column)
    /// The terms of four elements from i on, `step` apart.
    @inline(__always)
    func four(_ i: Int, _ step: Int) -> ExponentialQuad {
        let (second, third, fourth) = (i &+ step, i &+ 2 &* step, i &+ 3 &* step)
        let e = ExponentialQuad(
            Quad(argument(i), argument(second), argument(third), argument(fourth)), magic: magic)
        return ExponentialQuad(term(i, e.a), term(second, e.b), term(third, e.c), term(fourth, e.d))
    }
    @inline(__always)
    func keep(_ terms: ExponentialQuad, _ i: Int, _ step: Int, in panel: ExponentialPanel) {
        panel.store(terms.a, at: i &* vectorBytes)
        panel.store(terms.b, at: (i &+ step) &* vectorBytes)
        panel.store(terms.c, at: (i &+ 2 &* step) &* vectorBytes)
        panel.store(terms.d, at: (i &+ 3 &* step) &* vectorBytes)
    }

    // The terms of the last group, which is not whole, in any order: side by side in a lane there are too few of them.
    let lastGroup = n & ~(groupElements &- 1)
    let panel = kept ?? scratch.lastGroup.from(-lastGroup &* vectorBytes)
    let last = LastTerms(panel: panel, areTerms: !keepsShort && n <= shortLength)
    var i = lastGroup
    while i &+ 4 <= n {
        let e = four(i, 1)
        last.set(i, e.a)
        last.set(i &+ 1, e.b)
        last.set(i &+ 2, e.c)
        last.set(i &+ 3, e.d)
        i &+= 4
    }
    while i < n {
        last.set(i, term(i, Exponential(argument(i), magic: magic)))
        i &+= 1
    }

    if n <= shortLength { return }
    let sums = scratch.columnLaneSums.assumingMemoryBound(to: TermSum.self)
    for lane in 0..<virtualLanes {
        var sum = CompensatedSum(kind)
        var i = lane
        while i < lastGroup {
            let terms = four(i, virtualLanes)
            if let kept { keep(terms, i, virtualLanes, in: kept) }
            sum.add(terms)
            i &+= groupElements
            sum.settle(at: i &- lane)
        }
        var (missed, missedLater) = (splat(0), splat(0))
        let middle = i &+ 2 &* virtualLanes
        while i < n {
            let term = sum.raise(by: last.exponential(i))
            if i < middle { missed += term } else { missedLater += term }
            i &+= virtualLanes
        }
        sum.add(missed: missed + missedLater)
        sums[lane] = sum.total
    }
    setSum(ofVirtualLanes: sums, table, column)
}

/// Columns of at most one block each, copied to where each vector of them is contiguous. Their numbers are the first
/// in a table.
struct ColumnBatch {
    let elements: UnsafeMutableRawPointer
    let count: Int
    let n: Int
    /// The next batch, if it is small enough to stay in a cache until then.
    let asked: Asked
    /// The last of its rows that is: some are as many lines to a set of the second cache as it has room for.
    let lastAsked: Int

    init(_ tile: Tile, from start: Int, elements: UnsafeMutableRawPointer) {
        self.elements = elements
        count = tile.count
        n = min(block, tile.n &- start)
        let isSmall = tile.n &* count &* elementBytes <= 512 &* 1024
        asked = isSmall ? tile.next : .nothing
        lastAsked = max(16, 512 &* 1024 / max(1, spacing(of: tile.next.rowStride, way: 131072)))
    }

    /// The vector of columns from `column` on.
    @inline(__always)
    func from(_ column: Int) -> UnsafeMutableRawPointer { elements + column / lanes &* n &* vectorBytes }

    /// The arguments of exp of row i of a vector of columns, those from x on. Asks for as much of the next batch.
    @inline(__always)
    func argument(_ i: Int, of x: UnsafeRawPointer, low: Vector, _ asked: Asked) -> Vector {
        asked.ask(asked.address, min(i, lastAsked) &* asked.rowStride)
        return maximum(vector_load(x + i &* vectorBytes), low)
    }
}

/// As the `softmaxSums` of rows.
///
/// - Parameter tails: where those of the exponentials are kept, whose powers then take the place of the elements; nil
///   leaves the elements as they are.
@inline(never)
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
func softmaxSums(
    _ columns: ColumnBatch, _ table: SliceTable, tails: UnsafeMutableRawPointer?, _ scratch: Scratch
) {
    @inline(__always)
    func kept(_ column: Int) -> ExponentialPanel? {
        let x = columns.from(column)
        return tails.map { ExponentialPanel(tails: $0 + (x - columns.elements), powers: x) }
    }
    @inline(__always)
    func setTerms(_ column: Int, _ panel: ExponentialPanel?) {
        let x = columns.from(column)
        let low = table.low(from: column)
        let asked = columns.asked.element(column)
        setSum(.all, from: column, columns.n, table, scratch, kept: panel, keepsShort: true) { i in
            columns.argument(i, of: x, low: low, asked)
        } term: { _, e in
            e
        }
    }
    forEachVector(
        columns.n, 0, columns.count, table, scratch, keepsShort: true, kept: kept, setTerms: setTerms)
}

/// As the `logSums` of rows.
#if SWIFTMAX_POWER_TABLE
    @inline(never)
    @_optimize(speed)
    func logSums(_ columns: ColumnBatch, _ table: SliceTable, _ scratch: Scratch) {
        var column = 0
        while column < columns.count {
            let x = columns.from(column)
            let low = table.low(from: column)
            let asked = columns.asked.element(column)
            setSum(
                .excludingMax, from: column, columns.n, table, scratch, kept: nil, keepsShort: true
            ) { i in
                columns.argument(i, of: x, low: low, asked)
            } term: { _, e in
                e
            }
            column &+= lanes
        }
    }
#else
    // The sums are those of softmax.
    @inline(__always)
    func logSums(_ columns: ColumnBatch, _ table: SliceTable, _ scratch: Scratch) {
        softmaxSums(columns, table, tails: nil, scratch)
    }
#endif

/// As the `countingSums` of rows, for the vectors of columns from `first` to `end`; the elements are left as they are.
@inline(never)
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
func countingSums(_ columns: ColumnBatch, _ first: Int, _ end: Int, _ table: SliceTable, _ scratch: Scratch) {
    @inline(__always)
    func setTerms(_ column: Int, _ panel: ExponentialPanel?) {
        let x = columns.from(column)
        let low = table.low(from: column)
        let max = table.max(from: column) - table.base(from: column)
        let zero = splat(0)
        var counts = swiftmax_counts(repeating: 0)
        let asked = columns.asked.element(column)
        setSum(.countingMax, from: column, columns.n, table, scratch, kept: panel, keepsShort: false) { i in
            columns.argument(i, of: x, low: low, asked)
        } term: { i, e in
            let value = vector_load(x + i &* vectorBytes)
            counts = counts_with_equal(counts, value, max)
            return Exponential(tail: e.tail, power: vector_if_equal(value, max, zero, e.power))
        }
        table.setCount(from: column, counts_widen(counts))
    }
    forEachVector(
        columns.n, first, end, table, scratch, keepsShort: false, kept: { _ in nil }, setTerms: setTerms)
}

/// The stats of columns, their maxima being in the table already. False if elements had to be changed for it.
///
/// - Parameter tails: where those of the exponentials are kept, whose powers then take the place of the elements.
func columnStats(
    _ kind: SumKind, _ columns: ColumnBatch, tails: UnsafeMutableRawPointer?, _ scratch: Scratch,
    _ table: SliceTable
) -> Bool {
    let areOrdinary = table.setShifts(columns.count)
    if !areOrdinary { adjustToMax(columns, table) }
    if kind != .all {
        let isLong = columns.n > shortLength
        if kind == .excludingMax && isLong {
            logSums(columns, table, scratch)
            table.takeOffMaxima(columns.count)
        } else {
            countingSums(columns, 0, columns.count, table, scratch)
        }
        if isLong { sumSmallAgain(columns, table, scratch) }
    } else {
        softmaxSums(columns, table, tails: tails, scratch)
    }
    return areOrdinary
}

/// Takes those sums again that are far below the maximum; see `smallSum`. A few of a vector as rows, which costs less
/// than the whole vector does.
private func sumSmallAgain(_ columns: ColumnBatch, _ table: SliceTable, _ scratch: Scratch) {
    var column = 0
    while column < columns.count {
        let sum = table.sum(from: column)
        let isSmall = table.isSmall(from: column)
        var small = vector_equal_lanes(isSmall, splat(1))
        if small.nonzeroBitCount > lanes / 4 {
            let max = table.max(from: column) - table.base(from: column)
            let elements = columns.from(column)
            var largest = splat(-.infinity)
            for i in 0..<columns.n {
                let other = other(vector_load(elements + i &* vectorBytes), max: max, base: splat(0))
                largest = maximum(largest, other)
            }
            let exponent = table.raise(from: column, largest: largest)
            let count = table.count(from: column)
            table.raiseShifts(from: column, by: exponent)
            countingSums(columns, column, column &+ 1, table, scratch)
            table.raiseShifts(from: column, by: -exponent)
            let again = table.sum(from: column).lowered(by: vector_widen(exponent))
            table.setSum(from: column, sum.replacing(with: again, where: vector_widen(isSmall)))
            table.setCount(from: column, count)
            small = 0
        }
        while small != 0 {
            let lane = small.trailingZeroBitCount
            small &= small &- 1
            let slice = column &+ lane
            let x = contiguous(columns.from(column).element(lane), vectorBytes, columns.n, in: scratch.row)
            let max = table.max(slice)
            sumAgain(
                RowBatch(x, columns.n, slice: slice), max: isFar(max) ? 0 : max, base: 0, room: scratch.row,
                table, scratch)
        }
        column &+= lanes
    }
}

/// Takes the base off the columns that have one, and leaves nothing but NaN of those with an infinite maximum.
func adjustToMax(_ columns: ColumnBatch, _ table: SliceTable) {
    var column = 0
    while column < columns.count {
        let (max, base) = (table.max(from: column), table.base(from: column))
        let elements = columns.from(column)
        for i in 0..<columns.n {
            let value = vector_load(elements + i &* vectorBytes)
            let left = vector_if_equal(max, splat(.infinity), onlyNaN(value), value - base)
            vector_store(elements + i &* vectorBytes, left)
        }
        column &+= lanes
    }
}

// MARK: Tiles

/// Leaves the stats of a tile's slices in `table`, and the last block of its elements in `panel`: false if changed.
///
/// - Parameters:
///   - tails: where those of the exponentials are kept, whose powers then take the place of the elements.
///   - known: where the maxima stand against which all blocks are summed; nil for each block's own.
@inline(never)
func tileStats(
    _ kind: SumKind, _ tile: Tile, _ panel: UnsafeMutableRawPointer, tails: UnsafeMutableRawPointer?,
    known: SliceTable?, _ scratch: Scratch, _ table: SliceTable
) -> Bool {
    var areOrdinary = true
    var start = 0
    while start < tile.n {
        let columns = ColumnBatch(tile, from: start, elements: panel)
        let part = start == 0 ? table : scratch.blockTable
        copyToPanel(tile, from: start, panel, part)
        if let known { part.copyMaxima(of: known, columns.count) }
        let kind = known == nil ? kind : kind.againstKnown
        areOrdinary = columnStats(kind, columns, tails: tails, scratch, part)
        if start > 0 { table.append(part, columns.count, kind) }
        start &+= block
    }
    return areOrdinary
}

/// Replaces the stats of those slices that need it; see `Stats.needsKnownMax`.
func sumAgainstKnownMax(_ kind: SumKind, _ tile: Tile, _ scratch: Scratch) {
    let table = scratch.table
    let again = scratch.secondTable
    var needed = splatWide(0)
    var column = 0
    while column < tile.count {
        needed += table.stats(from: column).needsKnownMax
        column &+= lanes
    }
    if vector_count_equal(wide_narrow(needed), splat(0)) == lanes { return }
    _ = tileStats(kind, tile, scratch.tile, tails: nil, known: table, scratch, again)
    column = 0
    while column < tile.count {
        let stats = table.stats(from: column)
        let flag = stats.needsKnownMax
        table.set(from: column, stats.replacing(with: again.stats(from: column), where: flag))
        column &+= lanes
    }
}
