// log_softmax and logsumexp of slices of a few elements, where the logarithm takes longer than the exponentials do.
//
// In Float, in pairs of floats throughout: d = x - max and its rounding error, exp(d) = (1 + tail) * 2^n by the polynomial of
// Exponential.swift, the sum of all but one maximum, and the logarithm of ElementLogarithm.swift. Nothing is larger than a vector of
// elements, and nothing is left in memory between the steps. In Double, TinyDoubles.swift. The errors are within those of
// docs/numerics.md.

import CKernels
import CVector

/// Whether slices of `n` elements are taken this way. Of longer ones the exponentials take most of the time, and less in
/// the other way.
@inline(__always)
func areTiny(_ op: Operation, _ n: Int) -> Bool { op != .softmax && n > 1 && n <= 8 }

/// The least x - max whose exponential is more than 0, as for a `Shift` of 0.
@inline(__always) var leastDifference: Element { (0.25 - (exponentBias + spareExponent)) * ln2 }

/// x - max of any elements, no less than `leastDifference`, and what it was rounded by.
@inline(__always)
func difference(_ x: Vector, below max: Vector) -> (d: Vector, error: Vector) {
    // That of 0 for the maximum, even an infinite one.
    let difference = vector_if_equal(x, max, splat(0), x - max)
    let rounded = difference - x
    let error = (x - (difference - rounded)) - (max + rounded)
    // Large beside a difference below the least, and not a number beside an infinite one, whose exponential is 0 whatever this is; but
    // it must be finite.
    let limited = maximum(vector_min(splat(1), error), splat(-1))
    return (maximum(difference, splat(leastDifference)), limited)
}

/// The forward operation on rows, which are turned into columns for it.
@inline(never)
func forwardTinyRows(
    _ op: Operation, _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer,
    _ outStride: Int, _ rows: Int, _ n: Int, _ scratch: Scratch
) {
    let columns = scratch.spare
    let results = columns.element(n &* SliceTable.batch)
    var first = 0
    while first < rows {
        let count = min(SliceTable.batch, rows &- first)
        let stride = count &* elementBytes
        transpose(x + first &* xStride, xStride, columns, stride, count, n)
        forwardColumns(
            op, .own, columns, stride, nil, results, stride, count, swiftmax_single_group(), n, scratch,
            streaming: false,
            next: .nothing, recomputes: false)
        transpose(results, stride, out + first &* outStride, outStride, op == .logsumexp ? 1 : n, count)
        first &+= count
    }
}

#if SWIFTMAX_FLOAT32
    /// Four vectors of slices, side by side as the steps of each depend on each other: where their elements are.
    struct TinyQuad {
        let a: UnsafeRawPointer
        let b: UnsafeRawPointer
        let c: UnsafeRawPointer
        let d: UnsafeRawPointer
        /// From one element of a slice to the next.
        let stride: Int

        @inline(__always)
        init(
            _ a: UnsafeRawPointer, _ b: UnsafeRawPointer, _ c: UnsafeRawPointer, _ d: UnsafeRawPointer,
            stride: Int
        ) {
            (self.a, self.b, self.c, self.d, self.stride) = (a, b, c, d, stride)
        }

        @inline(__always)
        func element(_ i: Int) -> Quad {
            let offset = i &* stride
            return Quad(
                vector_load(a + offset), vector_load(b + offset), vector_load(c + offset),
                vector_load(d + offset))
        }
    }

    /// The constants of the slices of a tile, whose maxima are in the table, from its elements.
    func setTinyResults(_ op: Operation, _ columns: ColumnBatch, _ table: SliceTable) {
        var column = 0
        while column < columns.count {
            let end = min(column &+ 4 &* lanes, columns.count)
            #if SWIFTMAX_BASELINE && arch(x86_64)
                // For a CPU as old as that it is not worth the size.
                let isDone = false
            #else
                let last = (columns.count &- 1) & ~(lanes &- 1)
                let x = TinyQuad(
                    columns.from(column), columns.from(min(column &+ lanes, last)),
                    columns.from(min(column &+ 2 &* lanes, last)),
                    columns.from(min(column &+ 3 &* lanes, last)),
                    stride: vectorBytes)
                let max = Quad { table.max(from: min(column &+ $0 &* lanes, last)) }
                let isDone = last > 0 && setTinyResults(op, x, columns.n, max, column, table)
            #endif
            if !isDone { setTinyResults(op, columns, column, end, table) }
            column = end
        }
    }

    /// Those of the slices from `first` to `end`, one vector after another.
    @inline(never)
    private func setTinyResults(
        _ op: Operation, _ columns: ColumnBatch, _ first: Int, _ end: Int, _ table: SliceTable
    ) {
        var column = first
        while column < end {
            let elements = columns.from(column)
            let max = table.max(from: column)
            let (largest, log) = logOfTiny(columns.n) {
                Single(repeating: vector_load(elements + $0 &* vectorBytes))
            } _: { x in
                let (d, error) = difference(x.value, below: max)
                return tinyExponential(Single(repeating: d), error: Single(repeating: error))
            }
            table.set(
                op, from: column, LogResult(max: largest.value, log: log.high.value, low: log.low.value))
            column &+= lanes
        }
    }

    /// Those of four vectors, for the places from `slice` on. False if an element is not finite, or its exponential next to nothing.
    @inline(never)
    @_optimize(speed)
    func setTinyResults(
        _ op: Operation, _ x: TinyQuad, _ n: Int, _ max: Quad, _ slice: Int, _ table: SliceTable
    ) -> Bool {
        var least = splat(0)
        @inline(__always)
        func exponential(_ x: Quad) -> BundlePair<Quad> {
            let d = x.map(max) { $0 - $1 }
            least = vector_min(least, vector_min(vector_min(d.a, d.b), vector_min(d.c, d.d)))
            return tinyExponential(d, error: BundlePair(d, of: x, max).low)
        }
        let (largest, log) = logOfTiny(n, x.element, exponential)
        let sum = (log.high.a + log.high.b) + (log.high.c + log.high.d)
        if !vector_all_within(least, sum - sum, splat(-leastDifference)) { return false }
        largest.forEach(log.high, log.low) { v, max, log, low in
            table.set(op, from: slice &+ v &* lanes, LogResult(max: max, log: log, low: low))
        }
        return true
    }

    /// exp(d + error) times 2^`spareExponent`.
    @inline(__always)
    private func tinyExponential<B: Bundle>(_ d: B, error: B) -> BundlePair<B> {
        let magic = splat(roundingMagic + (exponentBias + spareExponent) * powersPerOctave)
        let biased = d.map { biasedLogarithm($0, magic: magic) }
        let tail = ReducedArgument(d, biased, magic: B(repeating: magic), error: error).tail
        let power = biased.map(vector_power_from_mantissa)
        let high = tail.fma(power, power)
        return BundlePair(high: high, low: tail.fma(power, power.map(high) { $0 - $1 }))
    }

    /// log(sum(exp(x - max))), one slice per lane; and the maximum, or NaN.
    ///
    /// - Parameter exponential: exp(x - max) times 2^`spareExponent`.
    @inline(__always)
    private func logOfTiny<B: Bundle>(
        _ n: Int, _ element: (Int) -> B, _ exponential: (_ x: B) -> BundlePair<B>
    ) -> (max: B, log: BundlePair<B>) {
        // Of each element and the largest before it the smaller is taken, so that one maximum is left: or NaN, which each of
        // the two passes on if it is the first.
        var largest = element(0)
        @inline(__always)
        func next(_ i: Int) -> BundlePair<B> {
            let x = element(i)
            let smaller = largest.map(x, vector_min)
            largest = x.map(largest, maximum)
            return exponential(smaller)
        }
        var others = BundlePair(high: B(repeating: splat(0)), low: B(repeating: splat(0)))
        for i in 1..<n { others = i == 1 ? next(i) : others + next(i) }
        let one = B(repeating: splat(1))
        return (largest, BundleLogArgument(others.scaled(by: Element(1 / spareScale)), and: one).log)
    }
#endif
