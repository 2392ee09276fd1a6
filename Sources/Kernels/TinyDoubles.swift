// log_softmax and logsumexp of slices of a few doubles: the sums of their exponentials.
//
// As in TinySlices.swift, exp(x - max) has the rounding error of x - max in it, and one maximum is left out. exp is had to about
// 2^-59: exp(r) = 1 + r + r^2/2 + r^3 q(r), all but the last term as pairs, q a minimax fit by scripts/fit_polynomials.py (2^-61.2)
// and r^3 q(r) at most 0.0076. So logsumexp may lose more to cancellation than that of longer slices, until it must be computed
// anew (NearZero.swift).
//
// An exponential is taken in three steps, each side by side with another step of those before and after it: a CPU has room for a few
// chains of dependent operations, but not for long ones and the next.

import CKernels
import CVector

#if SWIFTMAX_FLOAT64
    /// The constants of the slices of a tile, whose maxima are in the table, from its elements.
    func setTinyResults(_ op: Operation, _ columns: ColumnBatch, _ table: SliceTable) {
        setTinyOthers(columns, table)
        table.setLogResults(op, columns.count, haveOthers: true)
    }

    /// x - max = n ln2 + r + rounding, and 2^n times 2^`spareExponent`.
    private struct ReducedDifference {
        let r: Vector
        let rounding: Vector
        let power: Vector

        static var zero: ReducedDifference {
            @inline(__always) get { ReducedDifference(r: splat(0), rounding: splat(0), power: splat(0)) }
        }

        @inline(__always)
        private init(r: Vector, rounding: Vector, power: Vector) {
            (self.r, self.rounding, self.power) = (r, rounding, power)
        }

        @inline(__always)
        init(_ x: Vector, _ max: Vector) {
            let (d, error) = difference(x, below: max)
            let magic = splat(roundingMagic + (exponentBias + spareExponent))
            let biased = vector_fma(d, splat(log2e), magic)
            let n = biased - magic
            let (leading, rest) = reduced(
                Single(repeating: d), Single(repeating: n), error: Single(repeating: error))
            r = leading.value + rest.value
            rounding = (leading.value - r) + rest.value
            power = vector_exponent_from_mantissa(biased)
        }
    }

    /// exp(x - max) = (1 + tail + low) * power.
    private struct PreciseExponential {
        let tail: Vector
        let low: Vector
        let power: Vector

        @inline(__always)
        init(_ d: ReducedDifference) {
            let r = d.r
            let (square, half) = (r * r, splat(0.5))
            tail = vector_fma(square, half, r)
            // Without `rounding` times more than 1 + r, of which nothing is seen.
            let rest = vector_fma(d.rounding, r, d.rounding) + vector_fma(square, half, r - tail)
            let lower = vector_fma(vector_product_error(r, r, square), half, rest)

            // The even and the odd terms, for chains of half the length.
            var even = vector_fma(square, splat(0x1.af7a114e1ece6p-26), splat(0x1.71dde7c85fb4fp-19))
            var odd = vector_fma(square, splat(0x1.20d13be208c70p-29), splat(0x1.27e40c269da9ep-22))
            even = vector_fma(even, square, splat(0x1.a01a01b6eb4fdp-13))
            odd = vector_fma(odd, square, splat(0x1.a01a01fc60178p-16))
            even = vector_fma(even, square, splat(0x1.111111110e34fp-7))
            odd = vector_fma(odd, square, splat(0x1.6c16c16c07f30p-10))
            even = vector_fma(even, square, splat(0x1.555555555555dp-3))
            odd = vector_fma(odd, square, splat(0x1.555555555556dp-5))
            low = vector_fma(square * r, vector_fma(odd, r, even), lower)
            power = d.power
        }
    }

    extension Pair {
        /// Adds an exponential, right to about 2^-100 of the larger.
        @inline(__always)
        fileprivate mutating func add(_ e: PreciseExponential) {
            let rounded = vector_fma(e.tail, e.power, e.power)
            let error = vector_fma(e.tail, e.power, e.power - rounded)
            let sum = Pair(sumOrdered: maximum(high, rounded), vector_min(high, rounded))
            high = sum.high
            low += sum.low + vector_fma(e.low, e.power, error)
        }
    }

    /// Sets the sum of exp(x - max) over all elements but one maximum, for each slice of a tile; and that maximum, which is NaN if its
    /// place was a NaN's.
    @inline(never)
    @_optimize(speed)
    private func setTinyOthers(_ columns: ColumnBatch, _ table: SliceTable) {
        let terms = columns.n &- 1
        var (reduced, sum) = (ReducedDifference.zero, Pair.zero)
        var exponential = PreciseExponential(reduced)
        var (x, max) = (UnsafeRawPointer(columns.elements), table.max(from: 0))
        var largest = vector_load(x)
        var asked = columns.asked
        // What is left of the vector of slices that is read, and of the one that is summed.
        var (column, left) = (0, terms)
        var (summed, leftToAdd) = (0, terms &+ 2)
        while summed < columns.count {
            sum.add(exponential)
            leftToAdd &-= 1
            if leftToAdd == 0 {
                let others = Pair(sumOrdered: sum.high, sum.low).scaled(by: splat(1 / spareScale))
                table.setOthers(from: summed, others)
                table.setCount(from: summed, splat(1))
                (sum, leftToAdd) = (.zero, terms)
                summed &+= lanes
            }
            exponential = PreciseExponential(reduced)
            if column < columns.count {
                // Of each element and the largest before it the smaller is taken, so that one maximum is left: or NaN, which each of
                // the two passes on if it is the first.
                x += vectorBytes
                let next = vector_load(x)
                asked.ask(asked.address, (columns.n &- left) &* asked.rowStride)
                reduced = ReducedDifference(vector_min(largest, next), max)
                largest = maximum(next, largest)
                left &-= 1
                if left == 0 {
                    table.setMax(largest, from: column)
                    asked.ask(asked.address, 0)
                    column &+= lanes
                    asked = columns.asked.element(column)
                    x += vectorBytes
                    if column < columns.count {
                        (max, largest, left) = (table.max(from: column), vector_load(x), terms)
                    }
                }
            }
        }
    }
#endif
