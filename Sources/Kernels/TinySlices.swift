// log_softmax and logsumexp of slices of a few elements, where the logarithm takes longer than the exponentials do.
//
// In Float alone, and in pairs of floats throughout: d = x - max and its rounding error, exp(d) = (1 + tail) * 2^n by the
// polynomial of Exponential.swift, the sum of all but one maximum, and the logarithm of ElementLogarithm.swift. Nothing
// is larger than a vector of elements, and nothing is left in memory between the steps. The errors are within those of docs/numerics.md.

import CKernels
import CVector

#if SWIFTMAX_FLOAT32
    /// Whether slices of `n` elements are taken this way. Of longer ones the exponentials take most of the time, and less in
    /// the other way.
    @inline(__always)
    func areTiny(_ op: Operation, _ n: Int) -> Bool { op != .softmax && n > 1 && n <= 8 }

    /// The constants of the slices of a tile, whose maxima are in the table, from its elements: four vectors of slices side by
    /// side, as the steps of each depend on each other.
    @inline(never)
    @_optimize(speed)
    func setTinyResults(_ op: Operation, _ columns: ColumnBatch, _ table: SliceTable) {
        #if SWIFTMAX_BASELINE && arch(x86_64)
            // For a CPU as old as that it is not worth the size.
            setTinyResults(op, columns, table, as: Single.self)
        #else
            if columns.count <= lanes { return setTinyResults(op, columns, table, as: Single.self) }
            setTinyResults(op, columns, table, as: Quad.self)
        #endif
    }

    @inline(__always)
    private func setTinyResults<B: Bundle>(
        _ op: Operation, _ columns: ColumnBatch, _ table: SliceTable, as: B.Type
    ) {
        var column = 0
        while column < columns.count {
            /// The first column of vector v; those beyond the last repeat the first.
            @inline(__always)
            func first(_ v: Int) -> Int {
                column &+ v &* lanes < columns.count ? column &+ v &* lanes : column
            }
            let (max, log) = logOfTiny(columns.n, max: B { table.max(from: first($0)) }) { i in
                B { vector_load(columns.from(first($0)) + i &* vectorBytes) }
            }
            max.forEach(log.high, log.low) { v, max, log, low in
                table.set(op, from: first(v), LogResult(max: max, log: log, low: low))
            }
            column &+= B.count &* lanes
        }
    }

    /// log(sum(exp(x - max))), one slice per lane; and the maximum, or NaN.
    @inline(__always)
    private func logOfTiny<B: Bundle>(
        _ n: Int, max: B, _ element: (Int) -> B
    ) -> (max: B, log: BundlePair<B>) {
        // As for a `Shift` of 0.
        let bias = exponentBias + spareExponent
        let (magic, low) = (splat(roundingMagic + bias), splat((0.25 - bias) * ln2))
        /// exp(x - max) times 2^`spareExponent`; that of 0 for the maximum, even an infinite one.
        @inline(__always)
        func exponential(_ x: B) -> BundlePair<B> {
            let difference = BundlePair(
                x.map(max) { vector_if_equal($0, $1, splat(0), $0 - $1) }, of: x, max)
            let d = difference.high.map { maximum($0, low) }
            // Large beside a difference below `low`, and not a number beside an infinite one, whose exponential is 0 whatever
            // this is; but it must be finite.
            let error = difference.low.map { maximum(vector_min(splat(1), $0), splat(-1)) }
            let biased = d.map { vector_fma($0, splat(log2e), magic) }
            let tail = expTail(d, biased.map { $0 - magic }, error: error)
            let power = biased.map(vector_exponent_from_mantissa)
            let high = tail.fma(power, power)
            return BundlePair(high: high, low: tail.fma(power, power.map(high) { $0 - $1 }))
        }
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
                op, .own, columns, stride, results, stride, count, swiftmax_single_group(), n, scratch,
                streaming: false,
                next: .nothing)
            transpose(results, stride, out + first &* outStride, outStride, op == .logsumexp ? 1 : n, count)
            first &+= count
        }
    }
#endif
