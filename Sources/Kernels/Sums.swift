// Sums that lose nothing that shows, in an order that depends on the length of a slice alone.
//
// The running sum of a virtual lane starts from a constant above any term. What an exponential (1 + tail) * power
// raises it by is had exactly (Dekker's Fast2Sum), and is 0, or next to the power, which has five bits at most: so is the
// power less the raise, and what the raise misses of the exponential has one rounding of its own small size. It is at most half a last
// place of the running sum, and summed apart, by fours. With respect to the largest term of a block, which is at least
// 0.7, the sum of all virtual lanes is right to 2^-28.7 (2^-58) if all these roundings are at their worst. The virtual
// lanes are then added in a fixed tree: in double for Float, and what they miss in Float; as pairs of doubles for Double.
// A few exponentials are added like that themselves, each rounded, with what that rounds off.
//
// The sums of softmax in Float, from which nothing is taken off, are raised by the powers alone: an operation less, and the running sum
// need not wait for the polynomial. What a raise misses is then up to 0.08 of the exponential. Every fourth group it is
// added to the running sum, exactly, and at the end in double, so that it is rounded seven times at most on its way: the
// sum is right to 2^-24.8 if all these roundings are at their worst.

import CVector

/// An exponential rounded, and what it was rounded by: both exactly.
struct Term {
    let high: Vector
    let low: Vector

    @inline(__always)
    init(high: Vector, low: Vector) {
        self.high = high
        self.low = low
    }

    @inline(__always)
    init(_ e: Exponential) {
        high = vector_fma(e.tail, e.power, e.power)
        low = vector_fma(e.tail, e.power, e.power - high)
    }
}

#if SWIFTMAX_FLOAT64
    typealias TermSum = Pair

    extension Pair {
        @inline(__always)
        init(_ term: Term) { self.init(high: term.high, low: term.low) }

        @inline(__always) var pair: Pair { normalized }
    }
#else
    /// A sum of terms: of the rounded ones in double, and apart of what they were rounded by, for which a Float will do.
    struct TermSum {
        let high: Wide
        let low: Vector

        @inline(__always)
        init(high: Wide, low: Vector) {
            self.high = high
            self.low = low
        }

        @inline(__always)
        init(_ term: Term) { self.init(high: vector_widen(term.high), low: term.low) }

        static var zero: TermSum {
            @inline(__always) get { TermSum(high: splatWide(0), low: splat(0)) }
        }

        @inline(__always)
        static func + (a: TermSum, b: TermSum) -> TermSum {
            TermSum(high: a.high + b.high, low: a.low + b.low)
        }

        @inline(__always)
        var pair: Pair { Pair(high: high + vector_widen(low), low: splatWide(0)) }
    }
#endif

/// A running sum of exponentials per lane.
struct CompensatedSum {
    let isOfPowers: Bool
    /// The sum of the raises, from `start` on.
    private(set) var sum = splat(start)
    /// What they miss.
    private(set) var missing = splat(0)

    /// Above sqrt(2) * 2^64, and above a sum that is taken again (see `spareExponent`).
    static var start: Element { @inline(__always) get { 0x1p66 } }

    /// Groups after which what was missed is added to a sum of powers.
    private static var settledGroups: Int { @inline(__always) get { 4 } }

    @inline(__always)
    init(_ kind: SumKind) { isOfPowers = kind.isOfPowers }

    @inline(__always)
    private mutating func raise(by term: Vector) -> Vector {
        let raised = sum + term
        let raise = raised - sum
        sum = raised
        return raise
    }

    /// Adds four exponentials.
    @inline(__always)
    mutating func add(_ e: ExponentialQuad) {
        let terms = isOfPowers ? e.power : e.tail.fma(e.power, e.power)
        let a = raise(by: terms.a)
        let b = raise(by: terms.b)
        let c = raise(by: terms.c)
        let d = raise(by: terms.d)
        let missed = e.tail.fma(e.power, e.power.map(Quad(a, b, c, d)) { $0 - $1 })
        missing += (missed.a + missed.b) + (missed.c + missed.d)
    }

    /// Adds one exponential, but for what is to be added as `missed`, with that of others.
    @inline(__always)
    mutating func raise(by e: Exponential) -> Vector {
        let raise = raise(by: isOfPowers ? e.power : vector_fma(e.tail, e.power, e.power))
        return vector_fma(e.tail, e.power, e.power - raise)
    }

    @inline(__always)
    mutating func add(missed: Vector) { missing += missed }

    /// Adds to a sum of powers what was missed, where that is due after a whole group.
    ///
    /// - Parameter end: the elements up to its end.
    @inline(__always)
    mutating func settle(at end: Int) {
        let isDue = end & (CompensatedSum.settledGroups &* groupElements &- 1) == 0
        let settled = vector_add_if(isOfPowers, isDue, sum, missing)
        missing = vector_add_if(isOfPowers, isDue, missing, sum - settled)
        sum = settled
    }

    /// The sum per lane, normalized: to add zeros leaves every bit as it is.
    @inline(__always)
    var total: TermSum {
        #if SWIFTMAX_FLOAT64
            return Pair(sumOrdered: sum - splat(CompensatedSum.start), missing)
        #else
            let high = vector_widen(sum - splat(CompensatedSum.start))
            return TermSum(
                high: wide_add_if(isOfPowers, high, vector_widen(missing)),
                low: vector_zero_if(isOfPowers, missing))
        #endif
    }
}

extension Pair {
    /// Adds a pair to a pair: exactly in what matters for Double, where the low part then may be more than half a last place of the
    /// high one; in double for Float, whose sums have 29 bits to spare and a low part of zero.
    @inline(__always)
    static func + (a: Pair, b: Pair) -> Pair {
        #if SWIFTMAX_FLOAT64
            // TwoSum. Some subtractions are FMAs with a factor of 1, as Zen adds on other units than it multiplies.
            let one = vector_in_register(splat(1))
            let high = a.high + b.high
            let rounded = vector_fma(-one, a.high, high)
            let rest = vector_fma(-one, high - rounded, a.high)
            return Pair(high: high, low: vector_fma(one, rest + (b.high - rounded), a.low + b.low))
        #else
            return Pair(high: a.high + b.high, low: a.low)
        #endif
    }

    /// The same number with the high part rounded to nearest.
    @inline(__always)
    var normalized: Pair {
        #if SWIFTMAX_FLOAT64
            return Pair(sumOrdered: high, low)
        #else
            return self
        #endif
    }

    /// The pair times a power of two.
    @inline(__always)
    func scaled(by power: Wide) -> Pair { Pair(high: high * power, low: low * power) }
}

/// Below this a sum of the exponentials without the maximum is taken again, relative to the largest of them. Far below the maximum the
/// terms are lost in the constant a running sum starts from, and add up as plain floats.
@inline(__always) var smallSum: Double { spareScale * (elementBytes == 8 ? 0x1p-24 : 0x1p-4) }

extension Pair {
    /// The pair, with that of `other` in the lanes where `flag` is 1.
    @inline(__always)
    func replacing(with other: Pair, where flag: Wide) -> Pair {
        let one = splatWide(1)
        return Pair(
            high: wide_if_equal(flag, one, other.high, high), low: wide_if_equal(flag, one, other.low, low))
    }

    /// A sum taken 2^`exponent` too large, as it should be; in two steps, as 2^-exponent need not be a normal number.
    @inline(__always)
    func lowered(by exponent: Wide) -> Pair {
        let first = wide_max(splatWide(-1000), -exponent)
        return scaled(by: widePowerOfTwo(first)).scaled(by: widePowerOfTwo(-exponent - first))
    }
}

/// Slices up to this long are summed as terms, one after another per virtual lane: so few cost less than to compensate. Rows
/// of 16 doubles would take longer that way, and so would those of more than 48 floats.
@inline(__always) var shortLength: Int { elementBytes == 8 ? 2 &* virtualLanes &- 1 : 3 &* virtualLanes }

// MARK: Across the virtual lanes of columns

/// Four sums per lane.
struct PairQuad {
    var a: Pair
    var b: Pair
    var c: Pair
    var d: Pair

    @inline(__always)
    init(a: Pair, b: Pair, c: Pair, d: Pair) {
        (self.a, self.b, self.c, self.d) = (a, b, c, d)
    }

    static var zero: PairQuad {
        @inline(__always) get { PairQuad(a: .zero, b: .zero, c: .zero, d: .zero) }
    }

    @inline(__always)
    static func + (x: PairQuad, y: PairQuad) -> PairQuad {
        PairQuad(a: x.a + y.a, b: x.b + y.b, c: x.c + y.c, d: x.d + y.d)
    }

    @inline(__always) var total: Pair { ((a + c) + (b + d)).normalized }
}

/// The sum of one virtual lane of as many slices, or of as many virtual lanes of one slice, as a vector has lanes.
struct LaneSum {
    var high: Wide
    #if SWIFTMAX_FLOAT64
        var low: Wide
    #endif

    /// Of one lane.
    static var bytes: Int { MemoryLayout<LaneSum>.size / lanes }

    @inline(__always)
    init(_ pair: Pair) {
        high = pair.high
        #if SWIFTMAX_FLOAT64
            low = pair.low
        #endif
    }

    @inline(__always)
    var pair: Pair {
        #if SWIFTMAX_FLOAT64
            Pair(high: high, low: low)
        #else
            Pair(high: high, low: splatWide(0))
        #endif
    }
}

/// The tree of LaneSums.totals over the first `used` virtual lanes; the others would add zeros. Of the quads that start at
/// lane 0, 4, 8 and 12, the last two are added to the first two, one of these to the other, and so on.
@inline(__always)
func sumOfLanes(_ used: Int, one: (_ lane: Int) -> Pair, four: (_ lane: Int) -> PairQuad) -> Pair {
    let whole = used & ~3
    let last = PairQuad(
        a: whole < used ? one(whole) : .zero, b: whole &+ 1 < used ? one(whole &+ 1) : .zero,
        c: whole &+ 2 < used ? one(whole &+ 2) : .zero, d: .zero)
    @inline(__always)
    func quad(_ lane: Int) -> PairQuad { lane < whole ? four(lane) : last }

    var total = quad(0)
    if virtualLanes > 8 && used > 8 { total = total + quad(8) }
    if used > 4 {
        var others = quad(4)
        if virtualLanes > 8 && used > 12 { others = others + quad(12) }
        total = total + others
    }
    return total.total
}

/// The same from memory, where the sums are `step` apart.
@inline(__always)
func sumOfLanes(_ sums: UnsafeMutablePointer<LaneSum>, _ used: Int, step: Int = 1) -> Pair {
    @inline(__always)
    func sum(_ lane: Int) -> Pair { sums[lane &* step].pair }
    return sumOfLanes(used, one: sum) {
        PairQuad(a: sum($0), b: sum($0 &+ 1), c: sum($0 &+ 2), d: sum($0 &+ 3))
    }
}

/// The same tree for terms, of all virtual lanes: `two` gives the sum of lanes i and i + 4 and, of sixteen, that of i + 8 and
/// i + 12 added to these.
@inline(__always)
func sumOfTerms(_ two: (_ i: Int) -> TermSum, _ room: UnsafeMutableRawPointer) -> Pair {
    if elementBytes == 8 { return ((two(0) + two(2)) + (two(1) + two(3))).pair }
    let sums = room.assumingMemoryBound(to: TermSum.self)
    for i in 0..<4 { sums[i] = two(i) }
    return ((sums[0] + sums[2]) + (sums[1] + sums[3])).pair
}

// MARK: Across the virtual lanes of one row

/// Room for the first step of the tree: the sums of the virtual lanes of a row, in order, those of the upper half of
/// sixteen already added to the lower.
struct LaneSums {
    let address: UnsafeMutableRawPointer

    /// Eight high parts, and low ones where the sums are pairs.
    static var bytes: Int { 128 }

    /// The room of row `index` of a batch.
    @inline(__always)
    func row(_ index: Int) -> LaneSums { LaneSums(address: address + index &* LaneSums.bytes) }

    /// Sets a vector of virtual lanes; they must come in order.
    @inline(__always)
    func set(firstLane: Int, _ pair: Pair) {
        #if SWIFTMAX_FLOAT64
            address.storeBytes(of: pair.high, toByteOffset: firstLane &* 8, as: Wide.self)
            address.storeBytes(of: pair.low, toByteOffset: 64 &+ firstLane &* 8, as: Wide.self)
        #elseif SWIFTMAX_AVX512
            address.storeBytes(of: wide_folded(pair.high), as: swiftmax_octet.self)
        #else
            let target = address + (firstLane & 7) &* 8
            let sum = firstLane < 8 ? pair.high : target.loadUnaligned(as: Wide.self) + pair.high
            target.storeBytes(of: sum, as: Wide.self)
        #endif
    }

    #if SWIFTMAX_FLOAT64
        @inline(__always)
        func set(firstLane: Int, terms: TermSum) { set(firstLane: firstLane, terms) }

        @inline(__always) var termTotals: OctetSum { totals }
    #else
        /// Sets a vector of virtual lanes of terms, whose low parts come after the high ones.
        @inline(__always)
        func set(firstLane: Int, terms: TermSum) {
            set(firstLane: firstLane, Pair(high: terms.high, low: splatWide(0)))
            let target = address + (64 &+ (firstLane & 7) &* elementBytes)
            #if SWIFTMAX_AVX512
                target.storeBytes(of: vector_folded(terms.low), as: swiftmax_float_octet.self)
            #else
                vector_store(target, firstLane < 8 ? terms.low : vector_load(target) + terms.low)
            #endif
        }

        /// The sums of terms of eight rows from this one on. The low parts are added up as the high ones, and then to them.
        @inline(__always)
        var termTotals: OctetSum {
            @inline(__always)
            func pair(_ row: Int) -> swiftmax_float_octet {
                float_octet_fold(
                    float_octet_load(self.row(row).address + 64),
                    float_octet_load(self.row(row &+ 4).address + 64), 8)
            }
            let (a, b) = (float_octet_fold(pair(0), pair(2), 4), float_octet_fold(pair(1), pair(3), 4))
            let low = float_octet_widen(float_octet_fold(a, b, 2))
            let totals = totals
            return OctetSum(high: octet_add(totals.high, low), low: totals.low)
        }
    #endif

    #if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
        /// Sets all of them, the upper half already added to the lower.
        @inline(__always)
        func set(_ low: swiftmax_quarter, _ high: swiftmax_quarter) {
            address.storeBytes(of: low, as: swiftmax_quarter.self)
            address.storeBytes(of: high, toByteOffset: 32, as: swiftmax_quarter.self)
        }
    #endif

    /// Sets a vector of virtual lanes: of sums of powers as they are, the sums and, after those of all lanes, what they miss.
    @inline(__always)
    func set(firstLane: Int, sum: CompensatedSum) {
        if sum.isOfPowers {
            vector_store(address.element(firstLane), sum.sum)
            vector_store(address.element(virtualLanes &+ firstLane), sum.missing)
        } else {
            set(firstLane: firstLane, terms: sum.total)
        }
    }

    #if SWIFTMAX_POWER_TABLE
        /// The sums of powers of eight rows from this one on.
        @inline(__always)
        var powerTotals: OctetSum {
            totals {
                OctetSum(
                    high: octet_of_floats($0.address, CompensatedSum.start),
                    low: swiftmax_octet(repeating: 0))
            }
        }
    #endif

    /// The sums of eight rows from this one on.
    @inline(__always) var totals: OctetSum { totals { $0.octet } }

    /// The same, from those of eight lanes: the upper half is added to the lower, until one is left.
    @inline(__always)
    private func totals(_ octet: (LaneSums) -> OctetSum) -> OctetSum {
        @inline(__always)
        func pair(_ row: Int) -> OctetSum {
            OctetSum(octet(self.row(row)), octet(self.row(row &+ 4)), width: 8)
        }
        let (a, b, c, d) = (pair(0), pair(1), pair(2), pair(3))
        return OctetSum(OctetSum(a, c, width: 4), OctetSum(b, d, width: 4), width: 2).normalized
    }

    @inline(__always)
    private var octet: OctetSum {
        let high = address.loadUnaligned(as: swiftmax_octet.self)
        #if SWIFTMAX_FLOAT64
            return OctetSum(high: high, low: (address + 64).loadUnaligned(as: swiftmax_octet.self))
        #else
            return OctetSum(high: high, low: swiftmax_octet(repeating: 0))
        #endif
    }
}

/// Eight sums.
struct OctetSum {
    let high: swiftmax_octet
    let low: swiftmax_octet

    @inline(__always)
    init(high: swiftmax_octet, low: swiftmax_octet) {
        self.high = high
        self.low = low
    }

    /// Of each `width` sums of `a`, and then of `b`, the upper half added to the lower, as Pair + Pair does.
    #if SWIFTMAX_FLOAT64 && SWIFTMAX_BASELINE && arch(x86_64)
        // For a CPU as old as that it is not worth the size of a copy in each place.
        @inline(never)
    #else
        @inline(__always)
    #endif
    init(_ a: OctetSum, _ b: OctetSum, width: Int32) {
        let (lower, upper) = (octet_lower(a.high, b.high, width), octet_upper(a.high, b.high, width))
        let sum = octet_add(lower, upper)
        #if SWIFTMAX_FLOAT64
            let lows = octet_add(octet_lower(a.low, b.low, width), octet_upper(a.low, b.low, width))
            let rounded = octet_subtract(sum, lower)
            let error = octet_add(
                octet_subtract(lower, octet_subtract(sum, rounded)), octet_subtract(upper, rounded))
            low = octet_add(error, lows)
        #else
            low = a.low
        #endif
        high = sum
    }

    @inline(__always)
    fileprivate var normalized: OctetSum {
        #if SWIFTMAX_FLOAT64
            let sum = octet_add(high, low)
            return OctetSum(high: sum, low: octet_subtract(low, octet_subtract(sum, high)))
        #else
            return self
        #endif
    }
}
