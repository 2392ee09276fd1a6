// Gradients of rows of 16-bit elements, read and written as they are.
//
// The arithmetic of a row is that of BackwardRows.swift to the bit, with its elements as floats; results are rounded once.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    /// A 16-bit type, a vector at a time.
    protocol HalfFormat {
        /// Whether the product of any two is exact in Float.
        static var hasExactProducts: Bool { get }
        static func widen(_ halves: swiftmax_half_words) -> Vector
        static func narrow(_ value: Vector) -> swiftmax_half_words
        /// The gradients of softmax of the first elements of a row by a faster way, and how many these are.
        static func writePairs(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) -> Int
    }

    extension HalfFormat {
        @inline(__always)
        static func writePairs(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) -> Int { 0 }
    }

    enum Float16Format: HalfFormat {
        @inline(__always)
        static var hasExactProducts: Bool { true }
        @inline(__always)
        static func widen(_ halves: swiftmax_half_words) -> Vector { vector_from_halves(halves) }
        @inline(__always)
        static func narrow(_ value: Vector) -> swiftmax_half_words { vector_to_halves(value) }
    }

    enum BFloat16Format: HalfFormat {
        /// They may be too large or too small for it.
        @inline(__always)
        static var hasExactProducts: Bool { false }
        @inline(__always)
        static func widen(_ halves: swiftmax_half_words) -> Vector { vector_from_bfloats(halves) }
        @inline(__always)
        static func narrow(_ value: Vector) -> swiftmax_half_words { vector_to_bfloats(value) }

        /// Two to a lane. As the sum is finite, so are all elements, and no result is NaN.
        @inline(__always)
        static func writePairs(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) -> Int {
            var i = 0
            while i &+ 2 &* lanes <= n {
                let (g, y) = (bfloat_pairs_load(g + 2 &* i), bfloat_pairs_load(y + 2 &* i))
                let first = result(.softmax, bfloat_pairs_first(g), bfloat_pairs_first(y))
                let second = result(.softmax, bfloat_pairs_second(g), bfloat_pairs_second(y))
                bfloat_pairs_store(out + 2 &* i, bfloat_pairs(first, second))
                i &+= 2 &* lanes
            }
            return i
        }
    }

    extension HalfFormat {
        /// `count` elements of a row from `index` on; zeros in the other lanes.
        @inline(__always)
        static func load(_ row: UnsafeRawPointer, _ index: Int, _ count: Int) -> Vector {
            let address = row + 2 &* index
            return widen(count == lanes ? halves_load(address) : halves_load_partial(address, count))
        }

        @inline(__always)
        static func store(_ row: UnsafeMutableRawPointer, _ index: Int, _ count: Int, _ value: Vector) {
            let address = row + 2 &* index
            if count == lanes {
                halves_store(address, narrow(value))
            } else {
                halves_store_partial(address, narrow(value), count)
            }
        }

        @inline(__always)
        static func loadQuad(_ row: UnsafeRawPointer, _ index: Int) -> Quad {
            Quad(
                load(row, index, lanes), load(row, index &+ lanes, lanes),
                load(row, index &+ 2 &* lanes, lanes),
                load(row, index &+ 3 &* lanes, lanes))
        }

        /// As `blockSums`, of elements first..<end of one row.
        @inline(__always)
        static func sum(
            _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int,
            _ scratch: Scratch, _ laneSums: LaneSums
        ) {
            if op == .softmax && !hasExactProducts {
                stagedSum(g, y, first, end, scratch, laneSums)
                return
            }
            var firstLane = 0
            while firstLane < virtualLanes {
                var sum = LaneSum()
                var i = first &+ firstLane
                while i < end {
                    let count = min(lanes, end &- i)
                    let (g, y) = (load(g, i, count), load(y, i, count))
                    // A product, as a number of its own, is widened once instead of twice.
                    sum.add(.logSoftmax, op == .softmax ? g * y : g, g)
                    i &+= virtualLanes
                }
                laneSums.set(firstLane: firstLane, sum.pair)
                firstLane &+= lanes
            }
        }

        /// The sum of products that are not exact: their factors go through memory as floats, from where they are widened
        /// fastest.
        @inline(__always)
        private static func stagedSum(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch,
            _ laneSums: LaneSums
        ) {
            let (roomG, roomY) = (scratch.spare, scratch.spare.element(groupElements))
            @inline(__always)
            func stage(_ i: Int, _ offset: Int, _ count: Int) {
                vector_store(roomG.element(offset), load(g, i, count))
                vector_store(roomY.element(offset), load(y, i, count))
            }
            var sum = RowSum()
            @inline(__always)
            func add(_ offset: Int) {
                sum.add(
                    .softmax, UnsafeRawPointer(roomG.element(offset)), UnsafeRawPointer(roomY.element(offset))
                )
            }
            var i = first
            while i &+ groupElements <= end {
                for offset in stride(from: 0, to: groupElements, by: lanes) {
                    stage(i &+ offset, offset, lanes)
                }
                for offset in stride(from: 0, to: groupElements, by: virtualLanes) { add(offset) }
                i &+= groupElements
            }
            while i < end {
                for offset in stride(from: 0, to: virtualLanes, by: lanes) {
                    stage(i &+ offset, offset, max(0, min(lanes, end &- i &- offset)))
                }
                add(0)
                i &+= virtualLanes
            }
            sum.leave(in: laneSums)
        }

        /// The gradients of a row from element `first` on.
        @inline(__always)
        static func write(
            _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
            _ n: Int,
            _ result: BackwardResult, from first: Int = 0
        ) {
            var i = first
            while i &+ 4 &* lanes <= n {
                let (g, y) = (loadQuad(g, i), loadQuad(y, i))
                let four = op == .softmax ? g.map(y) { result(.softmax, $0, $1) } : result.logSoftmax(g, y)
                store(out, i, lanes, four.a)
                store(out, i &+ lanes, lanes, four.b)
                store(out, i &+ 2 &* lanes, lanes, four.c)
                store(out, i &+ 3 &* lanes, lanes, four.d)
                i &+= 4 &* lanes
            }
            while i < n {
                let count = min(lanes, n &- i)
                store(out, i, count, result(op, load(g, i, count), load(y, i, count)))
                i &+= count
            }
        }

        @inline(never)
        static func softmaxSum(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch,
            _ laneSums: LaneSums
        ) {
            sum(.softmax, g, y, first, end, scratch, laneSums)
        }

        @inline(never)
        static func logSoftmaxSum(
            _ g: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch, _ laneSums: LaneSums
        ) {
            sum(.logSoftmax, g, g, first, end, scratch, laneSums)
        }

        @inline(never)
        static func writeSoftmax(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            write(.softmax, g, y, out, n, result, from: writePairs(g, y, out, n, result))
        }

        @inline(never)
        static func writeLogSoftmax(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            write(.logSoftmax, g, y, out, n, result)
        }
    }

#endif
