// Sums that lose nothing that shows, in an order that depends on the length of a slice alone.
//
// An exponential (1 + tail) * power is summed as its power and as tail * power, both exact; of the latter two are
// added before, rounded by a fraction of an ULP of the whole. The running sum of a virtual lane starts from a
// constant greater than it can become, so that the rounding error of each addition is had exactly with two more
// (Dekker's Fast2Sum); these errors are summed apart. With respect to the largest term of a block, which is
// at least 0.7, the sum of a virtual lane is right to about 2^-30 (2^-59), but for the tails' roundings. The virtual
// lanes are then added in a fixed tree: in double for Float, as pairs of doubles for Double.

import CVector

/// A running sum of exponentials per lane.
struct CompensatedSum {
    /// The sum plus `offset`, which is above the sum of a block's share of a lane.
    private var biased = splat(offset)
    /// What the additions to `biased` have lost.
    private var lost = splat(0)

    private static var offset: Element { @inline(__always) get { 0x1p74 } }

    @inline(__always)
    init() {}

    @inline(__always)
    private mutating func add(_ term: Vector) -> Vector {
        let sum = biased + term
        let error = term - (sum - biased)
        biased = sum
        return error
    }

    /// Adds one exponential. This and the next two give what `add` of a quad would with zeros for the rest.
    @inline(__always)
    mutating func add(_ a: Exponential) {
        lost += add(a.power) + add(a.tail * a.power)
    }

    @inline(__always)
    mutating func add(_ a: Exponential, _ b: Exponential) {
        let tails = vector_fma(b.tail, b.power, a.tail * a.power)
        lost += (add(a.power) + add(b.power)) + add(tails)
    }

    @inline(__always)
    mutating func add(_ a: Exponential, _ b: Exponential, _ c: Exponential) {
        let tails = vector_fma(b.tail, b.power, a.tail * a.power)
        let errors = (add(a.power) + add(b.power)) + add(c.power)
        lost += errors + (add(tails) + add(c.tail * c.power))
    }

    /// Adds four exponentials.
    @inline(__always)
    mutating func add(_ e: ExponentialQuad) {
        let (tail, power) = (e.tail, e.power)
        let tails = vector_fma(tail.b, power.b, tail.a * power.a)
        let moreTails = vector_fma(tail.d, power.d, tail.c * power.c)
        let errors = (add(power.a) + add(power.b)) + (add(power.c) + add(power.d))
        lost += errors + (add(tails) + add(moreTails))
    }

    /// The sum per lane in doubles, normalized: to add a pair of zeros leaves every bit as it is.
    @inline(__always)
    var pair: Pair {
        #if SWIFTMAX_FLOAT64
            return Pair(sumOrdered: biased - splat(CompensatedSum.offset), lost)
        #else
            return Pair(
                high: vector_widen(biased - splat(CompensatedSum.offset)) + vector_widen(lost),
                low: splatWide(0))
        #endif
    }
}

extension Pair {
    /// Adds a pair to a pair: exactly in what matters for Double, in double for Float, whose sums have
    /// 29 bits to spare and a low part of zero.
    @inline(__always)
    static func + (a: Pair, b: Pair) -> Pair {
        #if SWIFTMAX_FLOAT64
            let sum = Pair(sum: a.high, b.high)
            return Pair(sumOrdered: sum.high, sum.low + (a.low + b.low))
        #else
            return Pair(high: a.high + b.high, low: a.low)
        #endif
    }

    /// The pair times a power of two.
    @inline(__always)
    func scaled(by power: Wide) -> Pair { Pair(high: high * power, low: low * power) }
}

/// The sum of a virtual lane that has one member at most, as in slices no longer than there are virtual lanes: there is
/// nothing to compensate.
@inline(__always)
func pair(of e: Exponential) -> Pair {
    #if SWIFTMAX_FLOAT64
        return Pair(sumOrdered: e.power, e.tail * e.power)
    #else
        return Pair(
            high: vector_widen(e.power) + vector_widen(e.tail * e.power), low: splatWide(0))
    #endif
}

// MARK: Across the virtual lanes of one row

/// Room for what each virtual lane of a row has summed, in order of the lanes.
struct LaneSums {
    let address: UnsafeMutableRawPointer

    /// High parts, and low ones where the sums are pairs.
    static var bytes: Int { 128 }

    @inline(__always)
    func set(firstLane: Int, _ pair: Pair) {
        address.storeBytes(of: pair.high, toByteOffset: firstLane &* 8, as: Wide.self)
        #if SWIFTMAX_FLOAT64
            address.storeBytes(of: pair.low, toByteOffset: (virtualLanes &+ firstLane) &* 8, as: Wide.self)
        #endif
    }

    /// The sum over the lanes: the upper half is added to the lower, until one is left.
    @inline(__always)
    var total: (high: Double, low: Double) {
        #if SWIFTMAX_FLOAT64
            let sums = address.assumingMemoryBound(to: Double.self)
            var half = virtualLanes / 2
            while half > 0 {
                for lane in 0..<half {
                    // Pair + Pair, on one lane.
                    let (a, b) = (sums[lane], sums[lane &+ half])
                    let lows = sums[virtualLanes &+ lane] + sums[virtualLanes &+ lane &+ half]
                    let sum = a + b
                    let rounded = sum - a
                    let low = ((a - (sum - rounded)) + (b - rounded)) + lows
                    sums[lane] = sum + low
                    sums[virtualLanes &+ lane] = low - (sums[lane] - sum)
                }
                half /= 2
            }
            return (sums[0], sums[virtualLanes])
        #else
            let all = address.loadUnaligned(as: SIMD16<Double>.self)
            let eight = all.lowHalf + all.highHalf
            let four = eight.lowHalf + eight.highHalf
            let two = four.lowHalf + four.highHalf
            return (two[0] + two[1], 0)
        #endif
    }
}
