// softmax of slices of two to four floats that lie side by side.
//
// Longer ones are taken in steps, a tile of slices at each (ForwardColumns.swift). With so few elements that takes longer than
// the exponentials do, so here two vectors of slices go from their elements to their results in registers, by the same operations:
// two, as the chain of operations of one would fill the scheduler of the CPU. What needs care goes the long way.

import CKernels
import CVector

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
    /// Whether the softmax of slices of `n` elements, `columns` of them side by side, is taken this way. Vectors overlap where
    /// columns end, so there the elements must not be overwritten.
    @inline(__always)
    func areTinySoftmax(_ op: Operation, _ elements: Elements, _ columns: Int, _ n: Int, inPlace: Bool)
        -> Bool
    {
        guard op == .softmax, case .own = elements else { return false }
        return n > 1 && n <= 4 && columns >= lanes && !(inPlace && columns % lanes != 0)
    }

    /// A vector of slices: where its elements are, and where its results go.
    struct TinyPlace {
        let x: UnsafeRawPointer
        let out: UnsafeMutableRawPointer

        /// Writes its results as those of longer slices.
        @inline(never)
        func writeLongWay(_ op: Operation, _ xStride: Int, _ outStride: Int, _ n: Int, _ scratch: Scratch) {
            forwardTiles(
                op, .own, x, xStride, nil, out, outStride, lanes, swiftmax_single_group(), n, scratch,
                streaming: false, next: .nothing, recomputes: false)
        }
    }

    /// The vectors of the columns of some groups. The last of a group may overlap the one before.
    struct TinyPlaces {
        private let x: UnsafeRawPointer
        private let out: UnsafeMutableRawPointer
        private let columns: Int
        private let groups: swiftmax_groups
        /// How many groups on is asked for; 0 where the caches hold all.
        private let ahead: Int
        private var (group, column) = (0, 0)

        @inline(__always)
        init(
            _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ columns: Int, _ groups: swiftmax_groups
        ) {
            (self.x, self.out, self.columns, self.groups) = (x, out, columns, groups)
            let areFar = groups.count &* groups.input_stride >= 4 &* 1024 &* 1024
            ahead = areFar ? groupsAhead(groups.input_stride) : 0
        }

        @inline(__always) var isEmpty: Bool { group == groups.count }

        @inline(__always)
        private mutating func next() -> TinyPlace {
            let first = min(column, columns &- lanes)
            let place = TinyPlace(
                x: (x + group &* groups.input_stride).element(first),
                out: (out + group &* groups.out_stride).element(first))
            column &+= lanes
            if column >= columns { (group, column) = (group &+ 1, 0) }
            return place
        }

        /// The next one; asks for the elements and the places of the results of one further on.
        @inline(__always)
        mutating func nextAsking(_ n: Int, _ xStride: Int, _ outStride: Int) -> TinyPlace {
            let place = next()
            if ahead == 0 { return place }
            for i in 0..<n {
                vector_prefetch(place.x + (ahead &* groups.input_stride &+ i &* xStride))
                vector_prefetch(place.out + (ahead &* groups.out_stride &+ i &* outStride))
            }
            return place
        }
    }

    /// As `forwardColumns`, for those that `areTinySoftmax`. Results are not streamed, which was no faster beyond the caches.
    @inline(never)
    @_optimize(speed)
    func tinySoftmaxColumns(
        _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer, _ outStride: Int,
        _ columns: Int, _ groups: swiftmax_groups, _ n: Int, _ scratch: Scratch
    ) {
        @inline(__always)
        func write(_ n: Int) {
            var places = TinyPlaces(x, out, columns, groups)
            while !places.isEmpty {
                let a = places.nextAsking(n, xStride, outStride)
                let b = places.isEmpty ? a : places.nextAsking(n, xStride, outStride)
                if !writeTinySoftmax(n, a, b, xStride, outStride) {
                    a.writeLongWay(.softmax, xStride, outStride, n, scratch)
                    if b.out != a.out { b.writeLongWay(.softmax, xStride, outStride, n, scratch) }
                }
            }
        }
        // Two elements as a constant; of three the last is taken twice, and not counted.
        if n == 2 { write(2) } else { write(max(3, n)) }
    }

    /// Writes the softmax of two vectors of slices. False where one has a maximum that must be taken off first, or is not a
    /// number.
    @inline(__always)
    private func writeTinySoftmax(
        _ n: Int, _ a: TinyPlace, _ b: TinyPlace, _ xStride: Int, _ outStride: Int
    ) -> Bool {
        @inline(__always)
        func element(_ place: TinyPlace, _ i: Int) -> Vector { vector_load(place.x + i &* xStride) }
        @inline(__always)
        func largest(_ place: TinyPlace) -> Vector {
            var max = maximum(maximum(splat(-.infinity), element(place, 0)), element(place, 1))
            if n > 2 { max = maximum(max, element(place, 2)) }
            if n > 3 { max = maximum(max, element(place, 3)) }
            return max
        }
        let (maxA, maxB) = (largest(a), largest(b))
        if !vector_all_within(vector_min(maxA, maxB), maximum(maxA, maxB), splat(exactRange)) { return false }
        let (shiftA, shiftB) = (Shift(near: maxA), Shift(near: maxB))

        // Those of both at positions i and j.
        let magic = Quad(shiftA.magic, shiftB.magic, shiftA.magic, shiftB.magic)
        @inline(__always)
        func exponentials(_ i: Int, _ j: Int) -> ExponentialQuad {
            let d = Quad(
                maximum(element(a, i), shiftA.low), maximum(element(b, i), shiftB.low),
                maximum(element(a, j), shiftA.low), maximum(element(b, j), shiftB.low))
            return ExponentialQuad(d, magic: magic)
        }
        let first = exponentials(0, 1)
        let second = n > 2 ? exponentials(2, n &- 1) : first

        /// From the four exponentials of a slice.
        @inline(__always)
        func result(
            _ shift: Shift, _ e0: Exponential, _ e1: Exponential, _ e2: Exponential, _ e3: Exponential
        ) -> SoftmaxResult {
            // In the order of all sums.
            var (even, odd) = (TermSum(Term(e0)), TermSum(Term(e1)))
            if n > 2 { even = even + TermSum(Term(e2)) }
            if n > 3 { odd = odd + TermSum(Term(e3)) }
            let inverse = (even + odd).pair.inverse(of: splat(1))
            return SoftmaxResult(shift: shift, inverse: inverse.high, inverseLow: inverse.low)
        }
        let resultA = result(shiftA, first.a, first.c, second.a, second.c)
        let resultB = result(shiftB, first.b, first.d, second.b, second.d)
        @inline(__always)
        func put(_ i: Int, _ eA: Exponential, _ eB: Exponential) {
            vector_store(a.out + i &* outStride, resultA(eA))
            vector_store(b.out + i &* outStride, resultB(eB))
        }
        put(0, first.a, first.b)
        put(1, first.c, first.d)
        if n > 2 { put(2, second.a, second.b) }
        if n > 3 { put(3, second.c, second.d) }
        return true
    }
#endif
