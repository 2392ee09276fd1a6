// The sums of the gradients: sum(g * y) for softmax, sum(g) for log_softmax, where g is grad_output and y the output of
// the forward operation.
//
// In Float the products are exact in double, and so are summed there, to 29 bits more than a result has. In Double the
// sums are those of Ogita, Rump and Oishi, "Accurate sum and dot product" (2005): products and additions keep their
// rounding errors, which are summed apart, so that the result is as if computed in twice the precision. Each virtual
// lane has one sum; they are added in the tree of the forward operation.
//
// A sum that is not finite is taken again from gradients scaled down, as it may overflow where the result does not.

import CKernels
import CVector

extension LaneSum {
    /// Of nothing.
    @inline(__always)
    init() { self.init(.zero) }

    /// Of g * y, or g alone: as if added to nothing, which rounds nothing.
    @inline(__always)
    init(_ op: Operation, _ g: Vector, _ y: @autoclosure () -> Vector) {
        #if SWIFTMAX_FLOAT64
            // A negative zero does not stay one.
            let y = op == .softmax ? y() : splat(1)
            let term = op == .softmax ? g * y : g
            high = term + splat(0)
            low = op == .softmax ? vector_product_error(g, y, term) : splat(0)
        #else
            self.init()
            add(op, g, y())
        #endif
    }

    /// Adds g * y, or g alone.
    @inline(__always)
    mutating func add(_ op: Operation, _ g: Vector, _ y: @autoclosure () -> Vector) {
        #if SWIFTMAX_FLOAT64
            var (term, error) = (g, splat(0))
            if op == .softmax {
                let y = y()
                term = g * y
                error = vector_product_error(g, y, term)
            }
            // TwoSum. Some subtractions are FMAs with a factor of 1, as Zen adds on other units than it multiplies.
            let one = vector_in_register(splat(1))
            let next = high + term
            let rounded = vector_fma(-one, high, next)
            let rest = vector_fma(-one, next - rounded, high)
            low += vector_fma(one, rest + (term - rounded), error)
            high = next
        #else
            // The product is exact, with or without FMA.
            let wide = vector_widen(g)
            high =
                op == .softmax ? wide_fma(wide, vector_widen(y()), high) : wide_add_converted(wide, high)
        #endif
    }
}

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512
    /// A part of the running sums of a row.
    protocol RowSumPart {
        static var width: Int { get }

        init()

        /// Adds the products of elements in memory, or those of g alone.
        mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer)

        /// The same of the first `count` or, if there are fewer, all.
        mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ count: Int)

        /// Leaves the sums for the tree.
        static func leave(_ a: Self, _ b: Self, _ c: Self, _ d: Self, in laneSums: LaneSums)
    }

    #if SWIFTMAX_FLOAT32
        /// Half of a register or less: AMD's Zen 4 converts floats in memory fastest by fours.
        struct FourSums: RowSumPart {
            private var sums = swiftmax_quarter(repeating: 0)

            static var width: Int { @inline(__always) get { 4 } }

            @inline(__always)
            init() {}

            @inline(__always)
            mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer) {
                add(op, quarter_widen(g), quarter_widen(y))
            }

            @inline(__always)
            mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ count: Int) {
                add(op, quarter_widen_partial(g, count), quarter_widen_partial(y, count))
            }

            @inline(__always)
            private mutating func add(_ op: Operation, _ g: swiftmax_quarter, _ y: swiftmax_quarter) {
                // By FMA in any case: Zen adds on the units that it converts on.
                sums = quarter_fma(g, op == .softmax ? y : swiftmax_quarter(repeating: 1), sums)
            }

            @inline(__always)
            static func leave(
                _ a: FourSums, _ b: FourSums, _ c: FourSums, _ d: FourSums, in laneSums: LaneSums
            ) {
                laneSums.set(quarter_add(a.sums, c.sums), quarter_add(b.sums, d.sums))
            }
        }

        typealias OwnSums = FourSums
    #else
        struct OwnSums: RowSumPart {
            private var sum = LaneSum()

            static var width: Int { @inline(__always) get { lanes } }

            @inline(__always)
            init() {}

            @inline(__always)
            mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer) {
                sum.add(op, vector_load(g), vector_load(y))
            }

            @inline(__always)
            mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ count: Int) {
                let present = min(count, lanes)
                sum.add(op, load(g, present), load(y, present))
            }

            @inline(__always)
            static func leave(
                _ a: OwnSums, _ b: OwnSums, _ c: OwnSums, _ d: OwnSums, in laneSums: LaneSums
            ) {
                laneSums.set(firstLane: 0, a.sum.pair)
                if width < virtualLanes { laneSums.set(firstLane: width, b.sum.pair) }
            }
        }
    #endif

    #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
        /// A whole register.
        struct EightSums: RowSumPart {
            private var sums = swiftmax_octet(repeating: 0)

            static var width: Int { @inline(__always) get { 8 } }

            @inline(__always)
            init() {}

            @inline(__always)
            mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer) {
                add(op, octet_widen(g), octet_widen(y))
            }

            @inline(__always)
            mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ count: Int) {
                add(op, octet_widen_partial(g, count), octet_widen_partial(y, count))
            }

            @inline(__always)
            private mutating func add(_ op: Operation, _ g: swiftmax_octet, _ y: swiftmax_octet) {
                sums = octet_fma(g, op == .softmax ? y : swiftmax_octet(repeating: 1), sums)
            }

            @inline(__always)
            static func leave(
                _ a: EightSums, _ b: EightSums, _ c: EightSums, _ d: EightSums, in laneSums: LaneSums
            ) {
                laneSums.address.storeBytes(of: octet_add(a.sums, b.sums), as: swiftmax_octet.self)
            }
        }
    #endif

    /// The running sums of the virtual lanes of a row, side by side.
    struct RowSum<Part: RowSumPart> {
        private var a = Part()
        private var b = Part()
        private var c = Part()
        private var d = Part()

        private static var parts: Int { @inline(__always) get { virtualLanes / Part.width } }

        @inline(__always)
        init() {}

        @inline(__always)
        private mutating func forEachPart(_ body: (inout Part, _ first: Int) -> Void) {
            body(&a, 0)
            if RowSum.parts > 1 { body(&b, Part.width) }
            if RowSum.parts > 2 {
                body(&c, 2 &* Part.width)
                body(&d, 3 &* Part.width)
            }
        }

        /// Adds the products of `virtualLanes` elements in memory, or those of g alone.
        @inline(__always)
        mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer) {
            forEachPart { $0.add(op, g.element($1), y.element($1)) }
        }

        /// The same of the first `count` of them.
        @inline(__always)
        mutating func add(_ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ count: Int) {
            forEachPart { if count > $1 { $0.add(op, g.element($1), y.element($1), count &- $1) } }
        }

        @inline(__always)
        func leave(in laneSums: LaneSums) { Part.leave(a, b, c, d, in: laneSums) }
    }
#endif

/// The sum of one slice per lane, or of a block of it.
struct GradientSum {
    /// What g was multiplied by before: 1 or `downScale`.
    var scale: Wide
    var sum: Pair
    /// The sum in plain arithmetic, which infinities pass unharmed; 0 where scale is 1.
    var plain: Wide

    @inline(__always)
    init(scale: Wide, sum: Pair, plain: Wide) {
        self.scale = scale
        self.sum = sum
        self.plain = plain
    }

    /// The same slice in every lane.
    @inline(__always)
    init(_ stats: swiftmax_stats) {
        let all = Stats(stats)
        (scale, sum, plain) = (all.max, all.sum, all.count)
    }

    /// The slice of the first lane.
    @inline(__always)
    var first: swiftmax_stats { Stats(max: scale, sum: sum, count: plain).first }

    /// This and the next block together.
    @inline(__always)
    static func + (a: GradientSum, b: GradientSum) -> GradientSum {
        GradientSum(scale: a.scale, sum: (a.sum + b.sum).normalized, plain: a.plain + b.plain)
    }

    /// 1 where the sum must be taken again with `downScale`, else 0.
    @inline(__always)
    var needsScale: Wide { isTooLarge(sum) }

    /// From the sums taken with `downScale`: without it where the sum then is finite, and where it is not for any
    /// scale.
    @inline(__always)
    var settled: GradientSum {
        let unscaled = sum.scaled(by: splatWide(1 / downScale))
        let result = replacing(
            with: GradientSum(scale: splatWide(1), sum: unscaled, plain: plain),
            where: splatWide(1) - isTooLarge(unscaled))
        return result.replacing(
            with: GradientSum(
                scale: splatWide(1), sum: Pair(high: plain, low: splatWide(0)), plain: plain),
            where: isTooLarge(sum))
    }

    /// These sums, with those of `other` in the lanes where `flag` is 1.
    @inline(__always)
    func replacing(with other: GradientSum, where flag: Wide) -> GradientSum {
        @inline(__always)
        func chosen(_ a: Wide, _ b: Wide) -> Wide { wide_if_equal(flag, splatWide(1), b, a) }
        return GradientSum(
            scale: chosen(scale, other.scale),
            sum: Pair(high: chosen(sum.high, other.sum.high), low: chosen(sum.low, other.sum.low)),
            plain: chosen(plain, other.plain))
    }
}

/// Scales the largest gradients so that 2^63 of them can be summed.
@inline(__always) var downExponent: Element { 64 }
@inline(__always) var downScale: Double { 0x1p-64 }

/// 1 where a sum is NaN, or as an element so close to infinity that its multiples by less than 4 may be infinite; else 0.
@inline(__always)
func isTooLarge(_ sum: Pair) -> Wide {
    let element = vector_widen(wide_narrow(sum.high * splatWide(4)))
    return wide_if_equal(element - element, splatWide(0), splatWide(0), splatWide(1))
}
