// The stats and constants of a batch of slices, in scratch memory: what one phase of a kernel leaves for the
// next. One column of numbers per quantity, so that a vector of slices is read and written at once.

import CKernels
import CVector

@inline(__always) var tableBytes: Int { Int(SWIFTMAX_TABLE_BYTES) }
@inline(__always) var panelBytes: Int { Int(SWIFTMAX_PANEL_BYTES) }

/// The scratch memory of one kernel call, `SWIFTMAX_KERNEL_SCRATCH_BYTES`.
struct Scratch {
    let address: UnsafeMutableRawPointer

    @inline(__always) var table: SliceTable { SliceTable(address: address) }

    /// For the maxima of the first table when the slices are summed again.
    @inline(__always) var secondTable: SliceTable {
        SliceTable(address: address + tableBytes)
    }

    /// For the stats of a block of columns.
    @inline(__always) var blockTable: SliceTable { SliceTable(address: spare) }

    /// The same room, for at least one block of elements.
    @inline(__always) var spare: UnsafeMutableRawPointer { address + 2 &* tableBytes }

    /// Room for the virtual lanes of each of a batch of rows.
    @inline(__always) var laneSums: LaneSums { LaneSums(address: columnLaneSums) }

    /// The same, for a vector of columns.
    @inline(__always) var columnLaneSums: UnsafeMutableRawPointer { spare + tableBytes }

    /// Room for the terms of the last group of a vector of columns, or of those of a few vectors of short columns, after the
    /// lane sums.
    @inline(__always) var lastGroup: ExponentialPanel {
        let room = (Int(SWIFTMAX_LANE_SUM_BYTES) &- 4096) / 2
        return ExponentialPanel(tails: columnLaneSums + 4096, powers: columnLaneSums + (4096 &+ room))
    }

    /// Room for the tails of rows.
    @inline(__always) var rowTails: UnsafeMutableRawPointer { exponentials.tails }

    /// Room for a batch of rows as floats, where no maxima of the next are kept.
    @inline(__always) var wideRows: UnsafeMutableRawPointer { exponentials.powers }

    /// Room for a vector of each of a batch of rows.
    @inline(__always) var nextMaxima: NextMaxima { NextMaxima(address: exponentials.powers) }

    /// Room for the elements of a tile of columns.
    @inline(__always) var tile: UnsafeMutableRawPointer { columnLaneSums + Int(SWIFTMAX_LANE_SUM_BYTES) }

    /// Two panels in the same room. Those of columns hold the elements where the powers will be.
    @inline(__always) var exponentials: ExponentialPanel {
        ExponentialPanel(
            tails: tile, powers: tile + (panelBytes &+ Int(SWIFTMAX_PANEL_GAP_BYTES)))
    }

    /// Room for one block of a column that is taken for a row.
    @inline(__always) var row: UnsafeMutableRawPointer { tile + Int(SWIFTMAX_TILE_BYTES) }
}

struct SliceTable {
    let address: UnsafeMutableRawPointer

    /// Slices in a table; a multiple of every vector's lanes.
    @inline(__always) static var capacity: Int { Int(SWIFTMAX_TABLE_SLICES) }

    /// Slices that are taken at a time, at most, where what is kept of each should be near.
    @inline(__always) static var batch: Int { 256 }

    private static var columnBytes: Int { capacity &* 8 }

    private enum Column: Int {
        case max, sumHigh, sumLow, count
        /// Constants of softmax; log_softmax keeps the two parts of logsumexp in the last two, the gradients those of
        /// their sum.
        case base, magic, low, inverse, inverseLow
        case logsumexp
        /// Steps of the logarithm.
        case others, othersLow, exponent, argumentHigh, argumentLow
        /// Of the blocks of one row.
        case blockMax
    }

    @inline(__always)
    private func wide(_ column: Column, _ slice: Int) -> UnsafeMutableRawPointer {
        address + (column.rawValue &* SliceTable.columnBytes &+ slice &* 8)
    }

    @inline(__always)
    private func narrow(_ column: Column, _ slice: Int) -> UnsafeMutableRawPointer {
        address + (column.rawValue &* SliceTable.columnBytes &+ slice &* elementBytes)
    }

    @inline(__always)
    private func get(_ column: Column, _ slice: Int) -> Wide {
        wide(column, slice).loadUnaligned(as: Wide.self)
    }

    @inline(__always)
    private func set(_ column: Column, _ slice: Int, _ value: Wide) {
        wide(column, slice).storeBytes(of: value, as: Wide.self)
    }

    /// One number or several, whose low parts are kept in Double alone: those of Float are 0.
    @inline(__always)
    private func set<T: BitwiseCopyable>(
        _ highs: Column, _ lows: Column, _ slice: Int, _ high: T, _ low: T
    ) {
        wide(highs, slice).storeBytes(of: high, as: T.self)
        if elementBytes == 8 { wide(lows, slice).storeBytes(of: low, as: T.self) }
    }

    @inline(__always)
    private func pair(_ highs: Column, _ lows: Column, _ slice: Int) -> Pair {
        Pair(high: get(highs, slice), low: elementBytes == 8 ? get(lows, slice) : splatWide(0))
    }

    // MARK: Stats

    @inline(__always)
    func set(_ slice: Int, _ stats: swiftmax_stats) {
        setMax(slice, Element(stats.max))
        setTotal(slice, high: stats.high, low: stats.low)
        wide(.count, slice).storeBytes(of: stats.count, as: Double.self)
    }

    /// The stats of the slices from `slice` on, one per lane.
    @inline(__always)
    func stats(from slice: Int) -> Stats {
        Stats(
            max: vector_widen(max(from: slice)), sum: sum(from: slice),
            count: get(.count, slice))
    }

    @inline(__always)
    func set(from slice: Int, _ stats: Stats) {
        setMax(wide_narrow(stats.max), from: slice)
        setSum(from: slice, stats.sum)
        set(.count, slice, stats.count)
    }

    /// The sums alone.
    @inline(__always)
    func sum(from slice: Int) -> Pair { pair(.sumHigh, .sumLow, slice) }

    @inline(__always)
    func setSum(from slice: Int, _ sum: Pair) { set(.sumHigh, .sumLow, slice, sum.high, sum.low) }

    // MARK: Stats in phases

    @inline(__always)
    func setMax(_ slice: Int, _ max: Element) {
        narrow(.max, slice).storeBytes(of: max, as: Element.self)
    }

    @inline(__always)
    func setMax(_ max: Vector, from slice: Int) { vector_store(narrow(.max, slice), max) }

    /// The maxima of `count` slices.
    @inline(__always)
    func setMax(_ max: Vector, from slice: Int, _ count: Int) {
        vector_store_partial(narrow(.max, slice), max, count)
    }

    @inline(__always)
    func max(_ slice: Int) -> Element { narrow(.max, slice).load(as: Element.self) }

    @inline(__always)
    func max(from slice: Int) -> Vector { vector_load(narrow(.max, slice)) }

    /// The constants of `Shift` for the first `count` slices. False if one of the maxima is +inf, or has to be taken off
    /// the elements.
    @inline(never)
    @discardableResult
    func setShifts(_ count: Int) -> Bool {
        var rest = count
        if count == 1 {
            // A whole vector: numbers stored one by one would take long to be loaded as one.
            setMax(splat(max(0)), from: 0)
            rest = lanes
        }
        while rest & (lanes &- 1) != 0 {
            setMax(rest, 0)
            rest &+= 1
        }
        var ordinary = 0
        var slice = 0
        while slice < count {
            let max = max(from: slice)
            let shift = Shift(max: max)
            vector_store(narrow(.base, slice), shift.base)
            vector_store(narrow(.magic, slice), shift.magic)
            vector_store(narrow(.low, slice), shift.low)
            ordinary &+= Int(vector_count_equal(shift.base, splat(0)))
            ordinary &-= Int(vector_count_equal(max, splat(.infinity)))
            slice &+= lanes
        }
        return ordinary == rest
    }

    @inline(__always)
    func magic(_ slice: Int) -> Element { narrow(.magic, slice).load(as: Element.self) }

    @inline(__always)
    func low(_ slice: Int) -> Element { narrow(.low, slice).load(as: Element.self) }

    @inline(__always)
    func base(from slice: Int) -> Vector { vector_load(narrow(.base, slice)) }

    @inline(__always)
    func magic(from slice: Int) -> Vector { vector_load(narrow(.magic, slice)) }

    @inline(__always)
    func low(from slice: Int) -> Vector { vector_load(narrow(.low, slice)) }

    /// Makes the powers of the slices from `slice` on 2^`exponent` larger, or smaller again.
    @inline(__always)
    func raiseShifts(from slice: Int, by exponent: Vector) {
        vector_store(narrow(.magic, slice), magic(from: slice) + exponent * splat(powersPerOctave))
        vector_store(narrow(.low, slice), low(from: slice) - exponent * splat(ln2))
    }

    /// The same of one slice.
    @inline(__always)
    func raiseShift(_ slice: Int, by exponent: Element) {
        narrow(.magic, slice).storeBytes(of: magic(slice) + exponent * powersPerOctave, as: Element.self)
        narrow(.low, slice).storeBytes(of: low(slice) - exponent * ln2, as: Element.self)
    }

    @inline(__always)
    func setTotal(_ slice: Int, high: Double, low: Double) {
        set(.sumHigh, .sumLow, slice, high, low)
    }

    @inline(__always)
    func setCount(_ slice: Int, _ count: Double) {
        wide(.count, slice).storeBytes(of: count, as: Double.self)
    }

    @inline(__always)
    func count(from slice: Int) -> Wide { get(.count, slice) }

    @inline(__always)
    func setCount(from slice: Int, _ count: Wide) { set(.count, slice, count) }

    /// The sums of the first `count` slices, from those of their virtual lanes.
    @inline(never)
    @_optimize(speed)
    func setTotals(_ count: Int, _ laneSums: LaneSums) { setTotals(count) { laneSums.row($0).totals } }

    /// The same of terms, or of sums of powers.
    @inline(__always)
    func setTermTotals(_ count: Int, _ laneSums: LaneSums, arePowers: Bool) {
        #if SWIFTMAX_POWER_TABLE
            if arePowers { return setPowerTotals(count, laneSums) }
        #endif
        setTermTotals(count, laneSums)
    }

    @inline(never)
    @_optimize(speed)
    func setTermTotals(_ count: Int, _ laneSums: LaneSums) {
        setTotals(count) { laneSums.row($0).termTotals }
    }

    #if SWIFTMAX_POWER_TABLE
        @inline(never)
        @_optimize(speed)
        private func setPowerTotals(_ count: Int, _ laneSums: LaneSums) {
            setTotals(count) { laneSums.row($0).powerTotals }
        }
    #endif

    @inline(__always)
    private func setTotals(_ count: Int, _ totals: (_ slice: Int) -> OctetSum) {
        var slice = 0
        while slice < count {
            let totals = totals(slice)
            set(.sumHigh, .sumLow, slice, totals.high, totals.low)
            slice &+= 8
        }
    }

    @inline(__always)
    func total(_ slice: Int) -> (high: Double, low: Double) {
        let low = elementBytes == 8 ? wide(.sumLow, slice).load(as: Double.self) : 0
        return (wide(.sumHigh, slice).load(as: Double.self), low)
    }

    /// The maxima of the blocks of one row.
    @inline(__always)
    func blockMax(_ index: Int) -> Element { narrow(.blockMax, index).load(as: Element.self) }

    @inline(__always)
    func setBlockMax(_ index: Int, _ max: Element) {
        narrow(.blockMax, index).storeBytes(of: max, as: Element.self)
    }

    /// Takes one maximum off the sums of the first `count` slices, exactly as it was added. Sums beside an infinite one are 0, or
    /// not a number, and are left so.
    @inline(never)
    func takeOffMaxima(_ count: Int) {
        forEachVector(count) {
            let max = max(from: $0)
            let shift = shift(from: $0)
            let term = Term(Exponential(maximum(max - shift.base, shift.low), magic: shift.magic))
            @inline(__always)
            func finite(_ v: Vector) -> Vector { vector_if_equal(max - max, splat(0), -v, splat(0)) }
            let (high, low) = (vector_widen(finite(term.high)), vector_widen(finite(term.low)))
            #if SWIFTMAX_FLOAT64
                setSum(from: $0, (sum(from: $0) + Pair(high: high, low: low)).normalized)
            #else
                setSum(from: $0, Pair(high: sum(from: $0).high + (high + low), low: splatWide(0)))
            #endif
            setCount(from: $0, splatWide(1))
        }
    }

    /// 1 for slices whose sum without the maximum is below `smallSum`, else 0.
    @inline(__always)
    func isSmall(from slice: Int) -> Vector {
        let high = sum(from: slice).high
        let limit = splatWide(smallSum)
        let isBelow = wide_if_equal(wide_max(limit, high), limit, splatWide(1), splatWide(0))
        let max = max(from: slice)
        return vector_if_equal(
            max - max, splat(0), wide_narrow(wide_if_equal(high, limit, splatWide(0), isBelow)), splat(0))
    }

    /// By which power of two the sums of the slices from `slice` on are to be taken larger, if `largest` is the largest
    /// element; 0 where that is so far below the maximum that its exponential is none.
    @inline(__always)
    func raise(from slice: Int, largest: Vector) -> Vector {
        let exponent = shift(from: slice).k - rounded(largest)
        let limit = splat(exponentBias + spareExponent - 1)
        return vector_if_equal(vector_min(exponent, limit), exponent, exponent, splat(0))
    }

    // MARK: Stats of several blocks

    /// The first `count` maxima of another table.
    func copyMaxima(of other: SliceTable, _ count: Int) {
        narrow(.max, 0).copyMemory(from: other.narrow(.max, 0), byteCount: count &* elementBytes)
    }

    /// Appends the stats of the next block to the first `count`.
    @inline(never)
    func append(_ next: SliceTable, _ count: Int, _ kind: SumKind) {
        var slice = 0
        while slice < count {
            var all = stats(from: slice)
            all.append(next.stats(from: slice), kind)
            set(from: slice, all)
            slice &+= lanes
        }
    }

    // MARK: Constants

    /// Turns the stats of the first `count` slices into what gives their results, given their shifts.
    func setResults(_ op: Operation, _ count: Int) {
        switch op {
        case .softmax: setSoftmaxResults(count)
        case .logSoftmax, .logsumexp: setLogResults(op, count, haveOthers: false)
        }
    }

    /// The same of one slice with these stats, which takes the first place.
    @inline(__always)
    func setResults(_ op: Operation, _ stats: swiftmax_stats) {
        set(0, stats)
        setShifts(1)
        setResults(op, 1)
    }

    @inline(never)
    @_optimize(speed)
    private func setSoftmaxResults(_ count: Int) {
        forEachVector(count) {
            let inverse = stats(from: $0).inverse
            vector_store(narrow(.inverse, $0), inverse.high)
            vector_store(narrow(.inverseLow, $0), inverse.low)
        }
    }

    /// The constants of log_softmax, or logsumexp itself.
    ///
    /// In steps, each of another vector of slices if there are several, as each takes much longer than it does work.
    ///
    /// - Parameter haveOthers: whether the sums of exp(x - max) over the elements below the maximum are set already.
    @inline(never)
    @_optimize(speed)
    func setLogResults(_ op: Operation, _ count: Int, haveOthers: Bool) {
        let lag = count > lanes ? lanes : 0
        #if SWIFTMAX_FLOAT64
            let steps = 6
        #else
            let steps = 4
        #endif
        var slice = haveOthers ? 2 &* lag : 0
        /// Calls `body` for the slices of a step, `index` vectors behind, if there are any.
        @inline(__always)
        func step(_ index: Int, _ slice: Int, _ body: (_ slice: Int) -> Void) {
            let behind = slice &- index &* lag
            if behind >= 0 && behind < count { body(behind) }
        }
        while slice < count &+ (steps &- 1) &* lag {
            if !haveOthers {
                // The factor is where the others will be.
                step(0, slice) { setOthers(from: $0, stats(from: $0).factor(shift(from: $0))) }
                step(1, slice) { setOthers(from: $0, stats(from: $0).others(others(from: $0))) }
            }
            step(2, slice) {
                set(from: $0, ElementLogArgument(others: others(from: $0), and: get(.count, $0)))
            }
            #if SWIFTMAX_FLOAT64
                step(3, slice) { set(from: $0, logArgument(from: $0).divided) }
                step(4, slice) { setLog(from: $0, logArgument(from: $0).log) }
            #endif
            step(steps &- 1, slice) {
                set(op, from: $0, LogResult(max: max(from: $0), others: others(from: $0), log: log(from: $0)))
            }
            slice &+= lanes
        }
    }

    /// The constants of log_softmax, or logsumexp.
    @inline(__always)
    func set(_ op: Operation, from slice: Int, _ result: LogResult) {
        if op == .logSoftmax {
            set(from: slice, LogSoftmaxResult(result))
        } else {
            let (high, low) = result.logsumexp
            vector_store(narrow(.logsumexp, slice), high + low)
        }
    }

    @inline(__always)
    func setOthers(from slice: Int, _ others: ElementPair) {
        vector_store(narrow(.others, slice), others.parts.high)
        vector_store(narrow(.othersLow, slice), others.parts.low)
    }

    @inline(__always)
    private func others(from slice: Int) -> ElementPair {
        ElementPair(high: vector_load(narrow(.others, slice)), low: vector_load(narrow(.othersLow, slice)))
    }

    @inline(__always)
    private func set(from slice: Int, _ argument: ElementLogArgument) {
        let (j, high, low) = argument.parts
        vector_store(narrow(.exponent, slice), j)
        vector_store(narrow(.argumentHigh, slice), high)
        vector_store(narrow(.argumentLow, slice), low)
    }

    @inline(__always)
    private func logArgument(from slice: Int) -> ElementLogArgument {
        ElementLogArgument(
            j: vector_load(narrow(.exponent, slice)), high: vector_load(narrow(.argumentHigh, slice)),
            low: vector_load(narrow(.argumentLow, slice)))
    }

    #if SWIFTMAX_FLOAT64
        /// Where its argument was.
        @inline(__always)
        private func setLog(from slice: Int, _ log: Pair) {
            vector_store(narrow(.argumentHigh, slice), log.high)
            vector_store(narrow(.argumentLow, slice), log.low)
        }

        @inline(__always)
        private func log(from slice: Int) -> Pair {
            Pair(
                high: vector_load(narrow(.argumentHigh, slice)), low: vector_load(narrow(.argumentLow, slice))
            )
        }
    #else
        @inline(__always)
        private func log(from slice: Int) -> ElementPair { logArgument(from: slice).log }
    #endif

    /// Calls `body` with the first of each vector of slices.
    @inline(__always)
    private func forEachVector(_ count: Int, _ body: (Int) -> Void) {
        var slice = 0
        while slice < count {
            body(slice)
            slice &+= lanes
        }
    }

    @inline(__always)
    private func set(from slice: Int, _ result: SoftmaxResult) {
        vector_store(narrow(.base, slice), result.shift.base)
        vector_store(narrow(.magic, slice), result.shift.magic)
        vector_store(narrow(.low, slice), result.shift.low)
        vector_store(narrow(.inverse, slice), result.inverse)
        vector_store(narrow(.inverseLow, slice), result.inverseLow)
    }

    @inline(__always)
    private func set(from slice: Int, _ result: LogSoftmaxResult) {
        vector_store(narrow(.inverse, slice), result.high)
        vector_store(narrow(.inverseLow, slice), result.low)
    }

    /// The constants of a block of slice 0 with exponentials relative to `max`, by so much too large.
    func setSoftmaxResult(_ slice: Int, max: Element, scale: Element) {
        var result = softmaxResult(0)
        result.shift = Shift(max: splat(max))
        result.inverse = result.inverse * splat(scale)
        result.inverseLow = result.inverseLow * splat(scale)
        set(from: slice, result)
    }

    /// The constants of one slice, in every lane.
    @inline(__always)
    func softmaxResult(_ slice: Int) -> SoftmaxResult {
        softmaxResult { splat(narrow($0, slice).load(as: Element.self)) }
    }

    /// The constants of the slices from `slice` on, one per lane.
    @inline(__always)
    func softmaxResult(from slice: Int) -> SoftmaxResult {
        softmaxResult { vector_load(narrow($0, slice)) }
    }

    @inline(__always)
    private func softmaxResult(_ constant: (Column) -> Vector) -> SoftmaxResult {
        SoftmaxResult(
            shift: shift(constant), inverse: constant(.inverse), inverseLow: constant(.inverseLow))
    }

    @inline(__always)
    private func shift(_ constant: (Column) -> Vector) -> Shift {
        Shift(base: constant(.base), magic: constant(.magic), low: constant(.low))
    }

    @inline(__always)
    private func shift(from slice: Int) -> Shift { shift { vector_load(narrow($0, slice)) } }

    /// The constants of one slice, in every lane.
    @inline(__always)
    func logSoftmaxResult(_ slice: Int) -> LogSoftmaxResult {
        logSoftmaxResult { splat(narrow($0, slice).load(as: Element.self)) }
    }

    /// The constants of the slices from `slice` on, one per lane.
    @inline(__always)
    func logSoftmaxResult(from slice: Int) -> LogSoftmaxResult {
        logSoftmaxResult { vector_load(narrow($0, slice)) }
    }

    @inline(__always)
    private func logSoftmaxResult(_ constant: (Column) -> Vector) -> LogSoftmaxResult {
        LogSoftmaxResult(high: constant(.inverse), low: constant(.inverseLow))
    }

    /// Turns the sums of the first `count` slices into what gives their gradients. False where one needs care; see
    /// `GradientSum`.
    @inline(never)
    func setBackwardResults(_ count: Int) -> Bool {
        var rest = count
        while rest & (lanes &- 1) != 0 {
            setTotal(rest, high: 0, low: 0)
            rest &+= 1
        }
        var areOrdinary = true
        forEachVector(count) { slice in
            let result = BackwardResult(sum(from: slice))
            setBackwardResult(from: slice, result)
            if !result.isOrdinary { areOrdinary = false }
        }
        return areOrdinary
    }

    /// Sets the constants of the slices from `slice` on, one per lane.
    @inline(__always)
    func setBackwardResult(from slice: Int, _ result: BackwardResult) {
        vector_store(narrow(.inverse, slice), result.sum)
        vector_store(narrow(.inverseLow, slice), result.sumLow)
    }

    /// Sets the constants of a slice, those of the first lane.
    @inline(__always)
    func setBackwardResult(_ slice: Int, _ result: BackwardResult) {
        narrow(.inverse, slice).storeBytes(of: result.sum[0], as: Element.self)
        narrow(.inverseLow, slice).storeBytes(of: result.sumLow[0], as: Element.self)
    }

    /// The constants of one slice, in every lane.
    @inline(__always)
    func backwardResult(_ slice: Int) -> BackwardResult {
        BackwardResult(
            sum: vector_in_register(splat(narrow(.inverse, slice).load(as: Element.self))),
            sumLow: splat(narrow(.inverseLow, slice).load(as: Element.self)))
    }

    /// The constants of the slices from `slice` on, one per lane.
    @inline(__always)
    func backwardResult(from slice: Int) -> BackwardResult {
        BackwardResult(
            sum: vector_in_register(vector_load(narrow(.inverse, slice))),
            sumLow: vector_load(narrow(.inverseLow, slice)))
    }

    /// Of two vectors of constants, from `slice` on, makes one of every second slice and one of the others.
    @inline(__always)
    func separateBackwardResults(from slice: Int) {
        let (a, b) = (backwardResult(from: slice), backwardResult(from: slice &+ lanes))
        setBackwardResult(
            from: slice,
            BackwardResult(sum: vector_even(a.sum, b.sum), sumLow: vector_even(a.sumLow, b.sumLow)))
        setBackwardResult(
            from: slice &+ lanes,
            BackwardResult(sum: vector_odd(a.sum, b.sum), sumLow: vector_odd(a.sumLow, b.sumLow)))
    }

    /// Four gradients of log_softmax, of the slices from `slice` on.
    @inline(__always)
    func logSoftmaxBackward(from slice: Int, _ g: Quad, _ y: Quad) -> Quad {
        BackwardResult.logSoftmax(
            g, y, sum: loadQuad(narrow(.inverse, slice)), sumLow: loadQuad(narrow(.inverseLow, slice)))
    }

    @inline(__always)
    func logsumexp(_ slice: Int) -> Element { narrow(.logsumexp, slice).load(as: Element.self) }

    @inline(__always)
    func logsumexp(from slice: Int) -> Vector { vector_load(narrow(.logsumexp, slice)) }
}
