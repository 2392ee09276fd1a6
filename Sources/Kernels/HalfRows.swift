// Gradients of rows of 16-bit elements, read and written as they are.
//
// The arithmetic of a row is that of BackwardRows.swift to the bit, with its elements as floats; results are rounded once.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    extension HalfFormat {
        @inline(__always)
        func loadQuad(_ row: UnsafeRawPointer, _ index: Int) -> Quad {
            Quad(
                load(row, index, lanes), load(row, index &+ lanes, lanes),
                load(row, index &+ 2 &* lanes, lanes),
                load(row, index &+ 3 &* lanes, lanes))
        }

        /// As `blockSums`, of elements first..<end of one row.
        @inline(__always)
        func sum(
            _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int,
            _ scratch: Scratch, _ laneSums: LaneSums
        ) {
            if op == .softmax && !hasExactProducts {
                stagedSum(g, y, first, end, scratch, laneSums)
                return
            }
            @inline(__always)
            func add(_ i: Int, _ count: Int, to sum: inout LaneSum) {
                let (g, y) = (load(g, i, count), load(y, i, count))
                // A product, as a number of its own, is widened once instead of twice.
                sum.add(.logSoftmax, op == .softmax ? g * y : g, g)
            }
            // A vector holds all virtual lanes or half of them.
            let isHalf = lanes < virtualLanes
            var (lower, upper) = (LaneSum(), LaneSum())
            var i = first
            while i &+ virtualLanes <= end {
                add(i, lanes, to: &lower)
                if isHalf { add(i &+ lanes, lanes, to: &upper) }
                i &+= virtualLanes
            }
            if i < end { add(i, min(lanes, end &- i), to: &lower) }
            if isHalf && i &+ lanes < end { add(i &+ lanes, end &- i &- lanes, to: &upper) }
            laneSums.set(firstLane: 0, lower.pair)
            if isHalf { laneSums.set(firstLane: lanes, upper.pair) }
        }

        /// The sum of products that are not exact: their factors go through memory as floats, from where they are widened
        /// fastest.
        @inline(__always)
        private func stagedSum(
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

        /// The gradients of a row.
        @inline(__always)
        func write(
            _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
            _ n: Int, _ result: BackwardResult
        ) {
            var i = 0
            while i &+ 4 &* lanes <= n {
                let (g, y) = (loadQuad(g, i), loadQuad(y, i))
                let four = op == .softmax ? g.map(y) { result(.softmax, $0, $1) } : result.logSoftmax(g, y)
                store(out, i, lanes, four.a)
                store(out, i &+ lanes, lanes, four.b)
                store(out, i &+ 2 &* lanes, lanes, four.c)
                store(out, i &+ 3 &* lanes, lanes, four.d)
                i &+= 4 &* lanes
            }
            writeRest(op, g, y, out, n, result, from: i)
        }

        @inline(__always)
        private func writeRest(
            _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer,
            _ n: Int, _ result: BackwardResult, from first: Int
        ) {
            var i = first
            while i < n {
                let count = min(lanes, n &- i)
                store(out, i, count, result(op, load(g, i, count), load(y, i, count)))
                i &+= count
            }
        }

        /// The gradients of bfloat16 of the first elements of a row, two to a lane, and how many these are. As the sum is
        /// finite, so are all elements, and no result is NaN.
        @inline(__always)
        private static func writePairs(
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

        @inline(never)
        func softmaxSum(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch,
            _ laneSums: LaneSums
        ) {
            // With a constant each, as these do little beside the conversion.
            if self == .float16 {
                HalfFormat.float16.sum(.softmax, g, y, first, end, scratch, laneSums)
            } else {
                HalfFormat.bfloat16.sum(.softmax, g, y, first, end, scratch, laneSums)
            }
        }

        @inline(never)
        func logSoftmaxSum(
            _ g: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch, _ laneSums: LaneSums
        ) {
            sum(.logSoftmax, g, g, first, end, scratch, laneSums)
        }

        @inline(never)
        func writeSoftmax(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            if self == .float16 {
                HalfFormat.float16.write(.softmax, g, y, out, n, result)
            } else {
                let done = HalfFormat.writePairs(g, y, out, n, result)
                HalfFormat.bfloat16.writeRest(.softmax, g, y, out, n, result, from: done)
            }
        }

        @inline(never)
        func writeLogSoftmax(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            write(.logSoftmax, g, y, out, n, result)
        }
    }

#endif
