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

/// Where the tails of the exponentials of rows are kept until their sums are known: in the place of the results, or in
/// scratch. The powers cost less to compute again than to keep.
struct RowTails {
    let address: UnsafeMutableRawPointer
    /// From one row to the next, in bytes.
    let stride: Int
    /// Whether there is room for whole vectors.
    let isPadded: Bool

    @inline(__always)
    func row(_ index: Int) -> UnsafeMutableRawPointer { address + index &* stride }
}

/// Sums the exponentials of one block (n <= `block`) of a row, virtual lane by virtual lane.
///
/// - Parameters:
///   - isPipelined: whether a group is added up while the exponentials of the next are computed, of which the CPU by itself does
///     not see enough; for a row long enough.
///   - isShort: whether it is no longer than `shortLength`.
///   - argument: the arguments of exp of `present` elements from `first` on; the low of the shift in the lanes beyond.
///   - term: what is summed of the exponentials of `present` elements from `first` on.
@inline(__always)
func sumRow(
    _ kind: SumKind, _ n: Int, magic: Vector, _ laneSums: LaneSums, isPipelined: Bool, isShort: Bool,
    argument: (_ first: Int, _ present: Int) -> Vector,
    term: (_ first: Int, _ present: Int, _ e: Exponential) -> Exponential
) {
    @inline(__always)
    func present(_ first: Int) -> Int { max(0, min(lanes, n &- first)) }
    /// The arguments of the group that starts at `first`: its members are `virtualLanes` apart, and the last may be cut short.
    @inline(__always)
    func arguments(_ first: Int, ofLast count: Int) -> Quad {
        Quad(
            argument(first, lanes), argument(first &+ virtualLanes, lanes),
            argument(first &+ 2 &* virtualLanes, lanes), argument(first &+ 3 &* virtualLanes, count))
    }
    @inline(__always)
    func terms(_ first: Int, ofLast count: Int, _ e: ExponentialQuad) -> ExponentialQuad {
        ExponentialQuad(
            term(first, lanes, e.a), term(first &+ virtualLanes, lanes, e.b),
            term(first &+ 2 &* virtualLanes, lanes, e.c), term(first &+ 3 &* virtualLanes, count, e.d))
    }
    // A narrow vector takes some of the virtual lanes at a time.
    var firstLane = 0
    while firstLane < virtualLanes {
        if isShort {
            @inline(__always)
            func terms(_ first: Int) -> TermSum {
                let e = Exponential(argument(first, present(first)), magic: magic)
                return TermSum(Term(term(first, present(first), e)))
            }
            var sum = firstLane < n ? terms(firstLane) : .zero
            var i = firstLane &+ virtualLanes
            while i < n {
                sum = sum + terms(i)
                i &+= virtualLanes
            }
            laneSums.set(firstLane: firstLane, terms: sum)
            firstLane &+= lanes
            continue
        }
        var sum = CompensatedSum(kind)
        var i = firstLane
        #if SWIFTMAX_AVX512
            if isPipelined {
                var previous = ExponentialQuad.zero
                @inline(__always)
                func addPrevious() -> Vector {
                    sum.add(previous)
                    return sum.missing
                }
                while i &+ groupElements <= n {
                    let e = ExponentialQuad(
                        arguments(i, ofLast: lanes), magic: magic, meanwhile: addPrevious)
                    previous = terms(i, ofLast: lanes, e)
                    i &+= groupElements
                }
                sum.add(previous)
            }
        #endif
        while i &+ 3 &* virtualLanes < n {
            let count = min(lanes, n &- (i &+ 3 &* virtualLanes))
            let e = ExponentialQuad(arguments(i, ofLast: count), magic: magic)
            sum.add(terms(i, ofLast: count, e))
            i &+= groupElements
            if i &- firstLane <= n { sum.settle(at: i &- firstLane) }
        }
        // What is left of the last group, added up in the same order.
        var (missed, missedLater) = (splat(0), splat(0))
        let middle = i &+ 2 &* virtualLanes
        while i < n {
            let e = Exponential(argument(i, present(i)), magic: magic)
            let term = sum.raise(by: term(i, present(i), e))
            if i < middle { missed += term } else { missedLater += term }
            i &+= virtualLanes
        }
        sum.add(missed: missed + missedLater)
        laneSums.set(firstLane: firstLane, sum: sum)
        firstLane &+= lanes
    }
}

/// Rows of at most one block each, and where their numbers stand in a table.
struct RowBatch {
    let x: UnsafeRawPointer
    let stride: Int
    /// The slice of the first row.
    let first: Int
    let count: Int
    let n: Int
    /// The rows that are read next, as long as these and as far apart, if any. Their maxima are taken while these are
    /// summed, where memory and the units for additions have nothing else to do.
    var next: UnsafeRawPointer?
    var nextCount = 0
    /// Rows further on, or those that are copied next.
    var asked = Asked.nothing

    /// One row.
    @inline(__always)
    init(_ x: UnsafeRawPointer, _ n: Int, slice: Int) {
        self.init(x: x, stride: 0, first: slice, count: 1, n: n)
    }

    @inline(__always)
    init(x: UnsafeRawPointer, stride: Int, first: Int, count: Int, n: Int) {
        self.x = x
        self.stride = stride
        self.first = first
        self.count = count
        self.n = n
    }

    @inline(__always)
    func row(_ slice: Int) -> UnsafeRawPointer { x + (slice &- first) &* stride }

    /// That of the next rows, or the row itself.
    @inline(__always)
    func nextRow(_ slice: Int) -> UnsafeRawPointer {
        if let next, slice &- first < nextCount { next + (slice &- first) &* stride } else { row(slice) }
    }
}

/// What is asked for while rows are summed, two lines for each vector: where memory has nothing else to do.
///
/// The CPU by itself does not read memory as far ahead as the arithmetic of some rows takes.
struct Asked {
    let address: UnsafeRawPointer?
    /// From one row to the next.
    let rowStride: Int
    /// From one element to the next.
    let stride: Int
    /// From the first line to the second.
    let second: Int

    static var nothing: Asked {
        @inline(__always) get { Asked(address: nil, rowStride: 0, stride: 0, second: 0) }
    }

    @inline(__always)
    init(_ next: swiftmax_next) {
        self.init(
            address: next.address, rowStride: next.row_stride, stride: next.column_stride,
            second: (lanes / 2) &* next.column_stride)
    }

    /// Rows where they lie, and where their results go, if through the caches.
    @inline(__always)
    init(
        _ rows: UnsafeRawPointer, rowStride: Int, stride: Int = elementBytes,
        results: UnsafeMutableRawPointer?
    ) {
        self.init(
            address: rows, rowStride: rowStride, stride: stride,
            second: results.map { UnsafeRawPointer($0) - rows } ?? 0)
    }

    @inline(__always)
    private init(address: UnsafeRawPointer?, rowStride: Int, stride: Int, second: Int) {
        self.address = address
        self.rowStride = rowStride
        self.stride = stride
        self.second = second
    }

    /// The same, with the lines that lie `distance` bytes on in place of the second ones.
    @inline(__always)
    func with(results distance: Int) -> Asked {
        Asked(address: address, rowStride: rowStride, stride: stride, second: distance)
    }

    /// The elements of the rows from `index` on.
    @inline(__always)
    func element(_ index: Int) -> Asked {
        Asked(
            address: address.map { $0 + index &* stride }, rowStride: rowStride, stride: stride,
            second: second)
    }

    @inline(__always)
    func row(_ index: Int) -> UnsafeRawPointer { address.unsafelyUnwrapped + index &* rowStride }

    /// Asks for the lines of the vector that lies `bytes` after one of these addresses; not after none.
    @inline(__always)
    func ask(_ address: UnsafeRawPointer?, _ bytes: Int) {
        guard let address else { return }
        vector_prefetch(address + bytes)
        vector_prefetch(address + (bytes &+ second))
    }
}

/// The maxima of the rows that are read next, those of each lane.
struct NextMaxima {
    let address: UnsafeMutableRawPointer

    /// Sets those of the row next to that of `slice`.
    @inline(__always)
    func set(_ rows: RowBatch, _ slice: Int, _ maxima: Vector) {
        if rows.next != nil { vector_store(address + (slice &- rows.first) &* vectorBytes, maxima) }
    }

    @inline(__always)
    func max(_ row: Int) -> Element { vector_largest(vector_load(address + row &* vectorBytes)) }
}

#if SWIFTMAX_AVX512
    /// Shorter rows would lose by the beginning and the end, and more where tails are kept. Sums of powers do not wait for polynomials.
    @inline(__always)
    private func isPipelined(_ n: Int, keepsTails: Bool) -> Bool {
        if !keepsTails { return n >= 8 &* groupElements }
        return elementBytes == 8 && n >= 16 &* groupElements
    }
#endif

/// Calls `sum` for each row of a batch, with the row that is asked for meanwhile: in one of several copies, as what is not
/// asked for would still cost registers.
///
/// - Parameters:
///   - areLong: whether all are longer than `shortLength`, and no tails are kept: then what asks for nothing is no copy of its own.
///   - areShort: whether none are.
@inline(__always)
private func forEachRow(
    _ rows: RowBatch, areLong: Bool = false, areShort: Bool = false,
    _ sum: (_ slice: Int, _ asked: UnsafeRawPointer?, _ isPipelined: Bool) -> Void
) {
    #if SWIFTMAX_AVX2 || SWIFTMAX_AVX512
        // So short, rows of doubles come here only if they are few (see `areShort` of the plan), and do without.
        let areAsked = rows.asked.address != nil && (elementBytes == 4 || rows.n > shortLength)
        /// Where nothing is to be asked for, a row itself.
        @inline(__always)
        func asked(_ r: Int) -> UnsafeRawPointer { areAsked ? rows.asked.row(r) : rows.row(rows.first &+ r) }
        #if SWIFTMAX_AVX512
            if !areShort && isPipelined(rows.n, keepsTails: !areLong) {
                for r in 0..<rows.count { sum(rows.first &+ r, asked(r), true) }
                return
            }
        #endif
        if areAsked || areLong {
            for r in 0..<rows.count { sum(rows.first &+ r, asked(r), false) }
            return
        }
    #endif
    for r in 0..<rows.count { sum(rows.first &+ r, nil, false) }
}

/// Sums the exponentials of a row relative to its maximum in the table, while the maxima of the next one are taken.
@inline(__always)
private func sumRow(
    _ kind: SumKind, _ rows: RowBatch, _ slice: Int, _ asked: UnsafeRawPointer?, isPipelined: Bool,
    isShort: Bool, _ table: SliceTable, _ scratch: Scratch,
    term: (_ first: Int, _ present: Int, _ e: Exponential) -> Exponential
) {
    let (x, next) = (rows.row(slice), rows.nextRow(slice))
    var nextMaxima = splat(-.infinity)
    let low = splat(table.low(slice))
    sumRow(
        kind, rows.n, magic: splat(table.magic(slice)), scratch.laneSums.row(slice), isPipelined: isPipelined,
        isShort: isShort
    ) { i, present in
        rows.asked.ask(asked, i &* rows.asked.stride)
        nextMaxima = maximum(nextMaxima, load(next.element(i), present, fill: -.infinity))
        return maximum(load(x.element(i), present, fill: -.infinity), low)
    } term: { i, present, e in
        term(i, present, e)
    }
    scratch.nextMaxima.set(rows, slice, nextMaxima)
}

/// Sums the exponentials of rows relative to the maxima in the table, and keeps their tails.
@inline(never)
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
func softmaxSums(_ rows: RowBatch, _ table: SliceTable, _ tails: RowTails, _ scratch: Scratch) {
    forEachRow(rows) { slice, asked, isPipelined in
        let kept = tails.row(slice)
        let isShort = !isPipelined && rows.n <= shortLength
        sumRow(.all, rows, slice, asked, isPipelined: isPipelined, isShort: isShort, table, scratch) {
            i, present, e in
            store(kept.element(i), e.tail, tails.isPadded ? lanes : present)
            return e
        }
        table.setCount(slice, 0)
    }
}

/// As `softmaxSums`, for rows longer than `shortLength`; keeps nothing.
@inline(never)
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
func logSums(_ rows: RowBatch, _ table: SliceTable, _ scratch: Scratch) {
    forEachRow(rows, areLong: true) { slice, asked, isPipelined in
        sumRow(
            .excludingMax, rows, slice, asked, isPipelined: isPipelined, isShort: false, table, scratch
        ) { _, _, e in e }
    }
}

/// As `logSums`, for rows no longer than `shortLength`: without the elements equal to the maximum, which are counted.
///
/// - Parameter isShifted: whether the maximum was taken off the elements.
@inline(never)
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
func countingSums(_ rows: RowBatch, _ table: SliceTable, isShifted: Bool, _ scratch: Scratch) {
    forEachRow(rows, areShort: true) { slice, asked, _ in
        let x = rows.row(slice)
        let max = splat(isShifted ? 0 : table.max(slice))
        var count: Int32 = 0
        sumRow(.countingMax, rows, slice, asked, isPipelined: false, isShort: true, table, scratch) {
            i, present, e in
            // What is not there is NaN, so that it is not counted where the maximum is -inf.
            let value = load(x.element(i), present, fill: .nan)
            count &+= vector_count_equal(value, max)
            return Exponential(tail: e.tail, power: vector_if_equal(value, max, splat(0), e.power))
        }
        table.setCount(slice, Double(count))
    }
}

/// -inf for every number, so that the sum beside an infinite maximum tells whether there is a NaN.
@inline(__always)
func onlyNaN(_ x: Vector) -> Vector { vector_if_equal(x, x, splat(-.infinity), x) }

/// x less `base`, or -inf if it is the maximum.
@inline(__always)
func other(_ x: Vector, max: Vector, base: Vector) -> Vector {
    vector_if_equal(x, max, splat(-.infinity), x - base)
}

/// The stats of rows, in the table: each phase is short for a row, so that the CPU works on several at a time.
///
/// The maxima must be in the table, those of the rows themselves or of longer ones.
///
/// - Returns: whether the maxima of the next rows were taken.
@inline(never)
func rowStats(_ kind: SumKind, _ rows: RowBatch, _ scratch: Scratch, _ tails: RowTails) -> Bool {
    let table = scratch.table
    let isLong = rows.n > shortLength
    let isCounted = kind == .countingMax && isLong
    let areOrdinary = table.setShifts(rows.count) && !isCounted
    if areOrdinary {
        sumRows(kind, rows, isShifted: false, table, tails, scratch)
    } else {
        for r in 0..<rows.count {
            let x = rows.row(r)
            let max = table.max(r)
            let isShifted = isFar(max)
            var isCopied = true
            var maxima: Int32 = 0
            if isCounted {
                let base = isShifted ? max : 0
                writeRow(scratch.spare, rows.n, streaming: false) { i, count in
                    let value = load(x.element(i), count, fill: .nan)
                    maxima &+= vector_count_equal(value, splat(max))
                    return other(value, max: splat(max), base: splat(base))
                }
            } else if isShifted {
                writeRow(scratch.spare, rows.n, streaming: false) { i, count in
                    load(x.element(i), count) - splat(max)
                }
            } else if max == .infinity {
                writeRow(scratch.spare, rows.n, streaming: false) { i, count in
                    onlyNaN(load(x.element(i), count))
                }
            } else {
                isCopied = false
            }
            let row = RowBatch(isCopied ? UnsafeRawPointer(scratch.spare) : x, rows.n, slice: r)
            sumRows(kind, row, isShifted: isShifted, table, tails, scratch)
            if isCounted { table.setCount(r, Double(maxima)) }
        }
    }
    table.setTermTotals(rows.count, scratch.laneSums, arePowers: kind.isOfPowers && isLong)
    if kind != .all && isLong {
        if kind == .excludingMax { table.takeOffMaxima(rows.count) }
        sumSmallAgain(rows, scratch)
    }
    return areOrdinary && rows.next != nil
}

/// Sets the maxima of rows in the table.
///
/// - Parameter areTaken: whether they were while the rows before were summed.
@_optimize(speed)
func setMaxima(_ rows: RowBatch, areTaken: Bool, _ scratch: Scratch) {
    for r in 0..<rows.count {
        scratch.table.setMax(r, areTaken ? scratch.nextMaxima.max(r) : rowMax(rows.row(r), rows.n))
    }
}

/// Takes those sums again that are far below the maximum; see `smallSum`.
private func sumSmallAgain(_ rows: RowBatch, _ scratch: Scratch) {
    let table = scratch.table
    for r in 0..<rows.count where table.total(r).high < smallSum && table.max(r).isFinite {
        let max = table.max(r)
        sumAgain(
            RowBatch(rows.row(r), rows.n, slice: r), max: max, base: isFar(max) ? max : 0,
            room: scratch.spare, table, scratch)
    }
}

/// Takes the sum of one row again, without its maximum and relative to the largest of the others.
///
/// - Parameters:
///   - base: what is to be taken off the elements.
///   - room: for the others, if need be in the place of the row.
@inline(never)
func sumAgain(
    _ row: RowBatch, max: Element, base: Element, room: UnsafeMutableRawPointer, _ table: SliceTable,
    _ scratch: Scratch
) {
    let slice = row.first
    let x = row.x
    var largest = splat(-.infinity)
    writeRow(room, row.n, streaming: false) { i, count in
        let value = load(x.element(i), count, fill: -.infinity)
        let other = other(value, max: splat(max), base: splat(base))
        largest = maximum(largest, other)
        return other
    }
    let exponent = table.raise(from: slice, largest: splat(vector_largest(largest)))[0]
    table.raiseShift(slice, by: exponent)
    logSums(RowBatch(UnsafeRawPointer(room), row.n, slice: slice), table, scratch)
    table.raiseShift(slice, by: -exponent)
    let total = scratch.laneSums.row(slice).termTotals
    let sum = Pair(high: splatWide(total.high[0]), low: splatWide(total.low[0]))
        .lowered(by: splatWide(Double(exponent)))
    table.setTotal(slice, high: sum.high[0], low: sum.low[0])
}

@inline(__always)
func sumRows(
    _ kind: SumKind, _ rows: RowBatch, isShifted: Bool, _ table: SliceTable, _ tails: RowTails,
    _ scratch: Scratch
) {
    switch kind {
    case .all: softmaxSums(rows, table, tails, scratch)
    case .excludingMax, .countingMax:
        if rows.n > shortLength {
            logSums(rows, table, scratch)
        } else {
            countingSums(rows, table, isShifted: isShifted, scratch)
        }
    }
}

/// The stats of one block, relative to its own maximum or, if that is known, to that of the slice.
func blockStats(
    _ kind: SumKind, _ x: UnsafeRawPointer, _ n: Int, known: Element?, _ scratch: Scratch, next: Asked
) -> swiftmax_stats {
    let table = scratch.table
    var row = RowBatch(x, n, slice: 0)
    row.asked = next
    if let known {
        table.setMax(0, known)
    } else {
        setMaxima(row, areTaken: false, scratch)
    }
    let tails = RowTails(address: scratch.rowTails, stride: 0, isPadded: false)
    _ = rowStats(known == nil ? kind : kind.againstKnown, row, scratch, tails)
    return table.stats(from: 0).first
}

/// The stats of a row of several blocks. Leaves the maxima against which its blocks were summed in the table, if the tails
/// of their exponentials are kept in `tails`.
///
/// - Parameters:
///   - elements: how those of the row lie: in order, of the own type or of 16 bits.
///   - areTaken: whether the maxima of the first block were taken before; and then, whether those of the next row were.
@inline(never)
func longRowStats(
    _ kind: SumKind, _ long: RowBatch, _ elements: Elements, _ tails: UnsafeMutableRawPointer?,
    areTaken: inout Bool, _ scratch: Scratch
) -> swiftmax_stats {
    let table = scratch.table
    let (x, n) = (long.x, long.n)
    // While a whole block is summed, the maxima of the next one are taken, or of that of the next row.
    let lastWhole = (n / block &- 1) &* block
    var known: Element?
    while true {
        var stats = Stats.none
        var first = 0
        while first < n {
            var row = RowBatch(x + first &* elements.stride, min(block, n &- first), slice: 0)
            if case .own = elements {
                if known == nil {
                    setMaxima(row, areTaken: areTaken && (first == 0 || row.n == block), scratch)
                }
                row.next =
                    first < lastWhole ? x.element(first &+ block) : first == lastWhole ? long.next : nil
                row.nextCount = 1
            }
            #if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
                if case .halves = elements {
                    elements.copy(row, to: scratch.wideRows, 0, table)
                    row = RowBatch(UnsafeRawPointer(scratch.wideRows), row.n, slice: 0)
                }
            #endif
            if let known { table.setMax(0, known) }
            row.asked = long.asked.element(first)
            let max = table.max(0)
            let target = tails.map { $0.element(first) } ?? scratch.rowTails
            let wereTaken = rowStats(
                known == nil ? kind : kind.againstKnown, row, scratch,
                RowTails(address: target, stride: 0, isPadded: false))
            if first <= lastWhole { areTaken = wereTaken }
            stats.append(table.stats(from: 0), kind)
            if tails != nil { table.setBlockMax(first / block, max) }
            first &+= block
        }
        if known != nil || stats.needsKnownMax[0] == 0 { return stats.first }
        known = Element(stats.max[0])
    }
}
