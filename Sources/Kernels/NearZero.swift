// logsumexp between max and -max, max < 0, where the maximum and the logarithm cancel.
//
// It is computed anew, as log(1 + (sum(exp(x)) - 1)): with the exponentials and their sum in twice the precision of the
// elements and some bits more; next to 0, where that does not do, with an exact sum (ExactSum.swift).

import CKernels
import CVector

@inline(__always)
func cancels(_ result: Element, max: Element) -> Bool {
    swiftmax_logsumexp_cancels(Double(result), Double(max))
}

/// Whether a result of `preciseLog` of n elements is right to an eighth of an ULP. The sum in Float's double is off by
/// less than n + 8 roundings of 2^-53, that in Double's pairs by n times 2^-88.
@inline(__always)
private func isPrecise(_ result: Double, _ n: Int) -> Bool {
    #if SWIFTMAX_FLOAT64
        return result.magnitude > Double(n &+ 8) * 0x1p-32
    #else
        return result.magnitude > Double(n &+ 8) * 0x1p-26
    #endif
}

/// log(sum).
@inline(never)
private func preciseLog(_ sum: Pair) -> Wide {
    #if SWIFTMAX_FLOAT64
        let excess = Pair(sum: sum.high, splatWide(-1))
        return log1p(Pair(sumOrdered: excess.high, excess.low + sum.low)).high
    #else
        return LogArgument(sum.high - splatWide(1)).plainLog
    #endif
}

// MARK: Slices

/// logsumexp of a slice where it cancels, right to half an ULP and a little.
func nearZeroLogsumexp(
    _ x: UnsafeRawPointer, _ stride: Int, _ n: Int, max: Double, _ scratch: Scratch
) -> Double {
    if n <= block {
        let row = stride == elementBytes ? x : contiguous(x, stride, n, in: scratch.spare)
        let result = preciseLogsumexp(row, n, scratch.laneSums)
        if isPrecise(result, n) { return result }
    }
    var sum = swiftmax_exact_sum(limbs: (0, 0, 0, 0))
    swiftmax_add_exact(x, elementBytes, stride, n, max, &sum)
    return swiftmax_kernels_exact_log(&sum, max)
}

/// logsumexp of at most a block of elements below 0, in the order of the virtual lanes.
@inline(never)
private func preciseLogsumexp(_ x: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums) -> Double {
    var firstLane = 0
    while firstLane < virtualLanes {
        var sum = Pair.zero
        var i = firstLane
        while i < n {
            sum = sum + preciseExponential(load(x.element(i), min(lanes, n &- i), fill: -.infinity))
            i &+= virtualLanes
        }
        laneSums.set(firstLane: firstLane, sum)
        firstLane &+= lanes
    }
    let total = laneSums.totals
    return preciseLog(Pair(high: splatWide(total.high[0]), low: splatWide(total.low[0])))[0]
}

/// The same of `present` columns, of at most `virtualLanes` elements.
private func preciseLogsumexps(
    _ x: UnsafeRawPointer, _ stride: Int, _ n: Int, _ present: Int, _ laneSums: UnsafeMutableRawPointer
) -> Wide {
    let sums = laneSums.assumingMemoryBound(to: LaneSum.self)
    for i in 0..<n { sums[i] = LaneSum(preciseExponential(load(x + i &* stride, present))) }
    return preciseLog(sumOfLanes(sums, n))
}

/// What part of |max| a logsumexp must be less than to cancel, at most. That of a few doubles has an error so much smaller than others
/// (TinyDoubles.swift) that it may lose more: at a sixteenth, half an ULP and three eighths.
@inline(__always)
private func largestShare(_ n: Int) -> Element {
    elementBytes == 8 && areTiny(.logsumexp, n) ? 0.0625 : 0.81
}

/// The slices of a vector of which the logsumexp cancels, one bit each.
@inline(__always)
private func cancelingLanes(_ result: Vector, max: Vector) -> UInt32 {
    // As `swiftmax_logsumexp_cancels`, to the bit.
    let (result, max) = (vector_widen(result), vector_widen(max))
    let (half, zero) = (splatWide(0.5), splatWide(0))
    let bound = -max * wide_if_equal(wide_min(max, -half), max, half, splatWide(0.8))
    let magnitude = wide_max(result, -result)
    let isBelow = wide_if_equal(magnitude, bound, zero, splatWide(1))
    let cancels = wide_if_equal(wide_min(magnitude, bound), magnitude, isBelow, zero)
    return vector_equal_lanes(wide_narrow(cancels), splat(1))
}

/// Slices of a tile side by side, up to two vectors of them.
private struct GatheredSlices {
    let elements: UnsafeMutableRawPointer
    /// Their numbers in the tile, as elements.
    let numbers: UnsafeMutableRawPointer

    /// The elements at position i.
    @inline(__always)
    func row(_ i: Int) -> UnsafeMutableRawPointer { elements + i &* 2 &* vectorBytes }

    @inline(__always)
    func number(_ index: Int) -> Int { Int(numbers.element(index).load(as: Element.self)) }

    /// Moves what follows the first vector to its place.
    @inline(__always)
    func dropVector(_ n: Int) {
        for i in 0..<n { vector_store(row(i), vector_load(row(i) + vectorBytes)) }
        vector_store(numbers, vector_load(numbers + vectorBytes))
    }
}

/// Computes those of a tile's logsumexps anew that cancel. Short slices are gathered until they fill a vector.
func refineLogsumexps(
    _ tile: Tile, _ source: ColumnSource, _ out: UnsafeMutableRawPointer, _ table: SliceTable,
    _ scratch: Scratch
) {
    // After the results, where these are of 16 bits.
    let gathered = GatheredSlices(
        elements: scratch.row.element(SliceTable.batch), numbers: scratch.secondTable.address)
    var lane = splat(0)
    for l in 0..<lanes { lane[l] = Element(l) }
    let share = largestShare(tile.n)
    var count = 0
    for first in stride(from: 0, to: tile.count, by: lanes) {
        let (value, max) = (table.logsumexp(from: first), table.max(from: first))
        // At least as large as a result that cancels. The smaller is the bound, or the result is NaN, elsewhere.
        let bound = max * splat(-share)
        let others = vector_equal_lanes(vector_min(bound, maximum(value, -value)), bound)
        if others.nonzeroBitCount == lanes { continue }
        var left = cancelingLanes(value, max: max) & ~others
        left &= (1 &<< UInt32(min(lanes, tile.count &- first))) &- 1
        if tile.n <= virtualLanes {
            for i in 0..<tile.n {
                let row = gathered.row(i).element(count)
                vector_compress(row, vector_load(source.element(i, first / lanes)), left)
            }
            vector_compress(gathered.numbers.element(count), lane + splat(Element(first)), left)
            count &+= left.nonzeroBitCount
            if count >= lanes {
                writePreciseLogsumexps(gathered, lanes, tile.n, source, out, table, scratch)
                gathered.dropVector(tile.n)
                count &-= lanes
            }
            continue
        }
        while left != 0 {
            let slice = first &+ left.trailingZeroBitCount
            left &= left &- 1
            writeNearZeroLogsumexp(source, tile.n, slice, out, table, scratch)
        }
    }
    if count > 0 { writePreciseLogsumexps(gathered, count, tile.n, source, out, table, scratch) }
}

/// The logsumexps of the first `count` gathered slices of a tile.
private func writePreciseLogsumexps(
    _ gathered: GatheredSlices, _ count: Int, _ n: Int, _ source: ColumnSource,
    _ out: UnsafeMutableRawPointer, _ table: SliceTable, _ scratch: Scratch
) {
    // `spare` is for the next one.
    let results = scratch.secondTable.address + 2 &* vectorBytes
    let values = preciseLogsumexps(gathered.elements, 2 &* vectorBytes, n, count, scratch.columnLaneSums)
    results.storeBytes(of: values, as: Wide.self)
    for c in 0..<count {
        let result = results.load(fromByteOffset: 8 &* c, as: Double.self)
        if isPrecise(result, n) {
            out.element(gathered.number(c)).storeBytes(of: Element(result), as: Element.self)
        } else {
            writeNearZeroLogsumexp(source, n, gathered.number(c), out, table, scratch)
        }
    }
}

private func writeNearZeroLogsumexp(
    _ source: ColumnSource, _ n: Int, _ slice: Int, _ out: UnsafeMutableRawPointer, _ table: SliceTable,
    _ scratch: Scratch
) {
    let result = nearZeroLogsumexp(
        source.from(0, slice).address, source.stride, n, max: Double(table.max(slice)), scratch)
    out.element(slice).storeBytes(of: Element(result), as: Element.self)
}

// MARK: exp

#if SWIFTMAX_FLOAT64
    extension Pair {
        /// To about 2^-103, with the pair as the result of a rounded sum.
        @inline(__always)
        static func * (a: Pair, b: Pair) -> Pair {
            let product = a.high * b.high
            let error = vector_product_error(a.high, b.high, product)
            return Pair(sumOrdered: product, error + (a.high * b.low + a.low * b.high))
        }

        @inline(__always)
        fileprivate init(_ high: Double, _ low: Double) {
            self.init(high: splatWide(high), low: splatWide(low))
        }
    }

    /// exp(x) to about 2^-90, for x <= 0: r = (x - n ln2) / 32 by a ln2 in three parts, the Taylor series of exp(r) - 1,
    /// from its sixth term on in double, and five times exp(2r) - 1 = 2 (exp(r) - 1) + (exp(r) - 1)^2.
    @inline(never)
    private func preciseExponential(_ element: Vector) -> Pair {
        let x = wide_max(splatWide(-800), element)
        let n = rounded(x)
        let product = n * splatWide(0x1.ef35793c76730p-45)
        let error = vector_product_error(n, splatWide(0x1.ef35793c76730p-45), product)
        // The first part times n is exact, and so is its difference from x.
        let difference = Pair(sum: x - n * splatWide(0x1.62e42fefa38p-1), -product)
        let low = difference.low - (error + n * splatWide(0x1.f97b57a079a19p-103))
        let r = Pair(sumOrdered: difference.high, low).scaled(by: splatWide(0x1p-5))

        var sixth = splatWide(0x1.1eed8eff8d898p-29)
        sixth = wide_fma(sixth, r.high, splatWide(0x1.ae64567f544e4p-26))
        sixth = wide_fma(sixth, r.high, splatWide(0x1.27e4fb7789f5cp-22))
        sixth = wide_fma(sixth, r.high, splatWide(0x1.71de3a556c734p-19))
        sixth = wide_fma(sixth, r.high, splatWide(0x1.a01a01a01a01ap-16))
        sixth = wide_fma(sixth, r.high, splatWide(0x1.a01a01a01a01ap-13))
        sixth = wide_fma(sixth, r.high, splatWide(0x1.6c16c16c16c17p-10))
        var series = Pair(0x1.1111111111111p-7, 0x1.1111111111111p-63)
        series = (series + Pair(high: sixth * r.high, low: splatWide(0))).normalized
        series = (series * r + Pair(0x1.5555555555555p-5, 0x1.5555555555555p-59)).normalized
        series = (series * r + Pair(0x1.5555555555555p-3, 0x1.5555555555555p-57)).normalized
        series = (series * r + Pair(0.5, 0)).normalized
        var tail = (r + r * (r * series)).normalized
        for _ in 0..<5 { tail = (tail.scaled(by: splatWide(2)) + tail * tail).normalized }
        return (Pair(1, 0) + tail).normalized.scaled(by: widePowerOfTwo(n))
    }
#else
    /// exp(x) to about 2^-52.
    @inline(__always)
    private func preciseExponential(_ x: Vector) -> Pair {
        let (k, tail) = wideExponent(max: vector_widen(x))
        let power = widePowerOfTwo(k)
        return Pair(high: wide_fma(tail, power, power), low: splatWide(0))
    }
#endif
