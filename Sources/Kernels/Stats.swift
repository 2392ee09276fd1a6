// What one reading of a block tells of its slice, and how the blocks of a slice are put together.

import CKernels
import CVector

/// Where the exponentials of the elements equal to the maximum go.
enum SumKind {
    /// Into the sum, with all others: softmax.
    case all
    /// Into a count of their own: log_softmax and logsumexp.
    case excludingMax
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
    @inline(__always)
    mutating func append(_ next: Stats, _ kind: SumKind) {
        let grows = next.max .> max
        let largest = max.replacing(with: next.max, where: grows)
        let (k, _) = wideExponent(max: largest)
        let (own, ownTail) = wideExponent(max: max)
        let (other, otherTail) = wideExponent(max: next.max)
        var a = sum
        var b = next.sum
        if kind == .excludingMax {
            let zero = splatWide(0)
            let bias = splatWide(spareScale)
            let stays = max .== largest
            let joins = next.max .== largest
            let ownCount = count.replacing(with: zero, where: stays) * bias
            let otherCount = next.count.replacing(with: zero, where: joins) * bias
            a = a + Pair(sumOrdered: ownCount, ownCount * ownTail)
            b = b + Pair(sumOrdered: otherCount, otherCount * otherTail)
            count =
                zero.replacing(with: count, where: stays) + zero.replacing(with: next.count, where: joins)
        }
        sum = a.scaled(by: widePowerOfTwo(own - k)) + b.scaled(by: widePowerOfTwo(other - k))
        max = largest
    }

    /// The slices that must be summed again with their maximum known, because their blocks may have been
    /// scaled by powers of different bases (see `Shift.base`).
    @inline(__always)
    var needsKnownMax: SIMDMask<Wide.MaskStorage> {
        let limit = splatWide(Double(exactRange) / 2)
        let isFinite = max - max .== splatWide(0)
        return isFinite .& ((max .> limit) .| (max .< -limit))
    }

    /// These stats, with those of `other` in the lanes of `mask`.
    @inline(__always)
    func replacing(with other: Stats, where mask: SIMDMask<Wide.MaskStorage>) -> Stats {
        Stats(
            max: max.replacing(with: other.max, where: mask),
            sum: Pair(
                high: sum.high.replacing(with: other.sum.high, where: mask),
                low: sum.low.replacing(with: other.sum.low, where: mask)),
            count: count.replacing(with: other.count, where: mask))
    }
}

/// 2^`spareExponent`
@inline(__always) var spareScale: Double { 0x1p64 }
