// What one reading of a block tells of its slice, and how the blocks of a slice are put together.

import CKernels
import CVector

/// Where the exponentials of the elements equal to the maximum go.
enum SumKind {
    /// Into the sum, with all others: softmax.
    case all
    /// Into the sum but for one of them: log_softmax and logsumexp. Of short slices into a count of their own.
    case excludingMax
    /// Into a count of their own, which may be none where the maximum is one of other elements too.
    case countingMax

    /// Whether sums of more than a few exponentials are raised by the powers alone (see Sums.swift).
    @inline(__always) var isOfPowers: Bool {
        #if SWIFTMAX_POWER_TABLE
            return self == .all
        #else
            return false
        #endif
    }

    /// Where the maximum is not that of the elements themselves.
    @inline(__always) var againstKnown: SumKind { self == .all ? .all : .countingMax }
}

/// `swiftmax_stats` of one slice per lane.
struct Stats {
    var max: Wide
    var sum: Pair
    var count: Wide

    @inline(__always)
    init(max: Wide, sum: Pair, count: Wide) {
        self.max = max
        self.sum = sum
        self.count = count
    }

    /// Of no element.
    static var none: Stats {
        @inline(__always) get {
            Stats(
                max: splatWide(-.infinity), sum: Pair(high: splatWide(0), low: splatWide(0)),
                count: splatWide(0))
        }
    }

    /// The same slice in every lane.
    @inline(__always)
    init(_ stats: swiftmax_stats) {
        max = splatWide(stats.max)
        sum = Pair(high: splatWide(stats.high), low: splatWide(stats.low))
        count = splatWide(stats.count)
    }

    /// The slice of the first lane.
    @inline(__always)
    var first: swiftmax_stats {
        swiftmax_stats(max: max[0], high: sum.high[0], low: sum.low[0], count: count[0])
    }

    /// Appends the stats of the next block.
    ///
    /// Sums are kept relative to 2^k, k that of the largest maximum so far, so that the change of it is exact.
    /// Where the maxima are counted apart, those of the block whose maximum gives way become ordinary terms.
    @inline(never)
    mutating func append(_ next: Stats, _ kind: SumKind) {
        let largest = wide_max(max, next.max)
        let (k, _) = wideExponent(max: largest)
        let (own, ownTail) = wideExponent(max: max)
        let (other, otherTail) = wideExponent(max: next.max)
        var a = sum
        var b = next.sum
        if kind != .all {
            let zero = splatWide(0)
            let bias = splatWide(spareScale)
            let staying = wide_if_equal(max, largest, count, zero)
            let joining = wide_if_equal(next.max, largest, next.count, zero)
            let leaving = (count - staying) * bias
            let others = (next.count - joining) * bias
            a = a + Pair(sumOrdered: leaving, leaving * ownTail)
            b = b + Pair(sumOrdered: others, others * otherTail)
            count = staying + joining
        }
        sum = (a.scaled(by: widePowerOfTwo(own - k)) + b.scaled(by: widePowerOfTwo(other - k))).normalized
        max = largest
    }

    /// 1 for slices that must be summed again with their maximum known, because their blocks may have been scaled by
    /// powers of different bases (see `Shift.base`), else 0.
    @inline(__always)
    var needsKnownMax: Wide {
        let (zero, limit) = (splatWide(0), splatWide(Double(exactRange) / 2))
        let limited = wide_max(-limit, wide_min(limit, max))
        let isFar = wide_if_equal(limited, max, zero, splatWide(1))
        return wide_if_equal(max - max, zero, isFar, zero)
    }

    /// These stats, with those of `other` in the lanes where `flag` is 1.
    @inline(__always)
    func replacing(with other: Stats, where flag: Wide) -> Stats {
        @inline(__always)
        func chosen(_ a: Wide, _ b: Wide) -> Wide { wide_if_equal(flag, splatWide(1), b, a) }
        return Stats(
            max: chosen(max, other.max), sum: sum.replacing(with: other.sum, where: flag),
            count: chosen(count, other.count))
    }
}

/// 2^`spareExponent`
@inline(__always) var spareScale: Double { 0x1p64 }
