// Gradients of rows of 16-bit elements, read and written as they are.
//
// The arithmetic of a row is that of BackwardRows.swift to the bit, with its elements as floats; results are rounded once.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    extension HalfFormat {
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
