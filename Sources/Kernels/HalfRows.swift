// Gradients of rows of 16-bit elements, read and written as they are.
//
// The arithmetic of a row is that of BackwardRows.swift to the bit, with its elements as floats; results are rounded once.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    /// What makes the product of any two bfloat16 exact in Float: that of the least, 2^-133, with itself is the least Float then. If
    /// one is too large, above 2^11, the sum is not finite.
    var bfloatProductScale: Element { 0x1p117 }

    extension HalfFormat {
        @inline(__always)
        func loadQuad(_ row: UnsafeRawPointer, _ index: Int) -> Quad {
            Quad(
                load(row, index, lanes), load(row, index &+ lanes, lanes),
                load(row, index &+ 2 &* lanes, lanes),
                load(row, index &+ 3 &* lanes, lanes))
        }

        /// As `load`, of one of more than a vector.
        @inline(__always)
        func loadLast(_ row: UnsafeRawPointer, _ index: Int, _ count: Int) -> Vector {
            let address = row + 2 &* index
            return widen(count == lanes ? halves_load(address) : halves_load_last(address, count))
        }

        /// As `blockSums`, of elements first..<end of one row.
        ///
        /// - Parameter scale: the scale of products in Float; nil for those in Double, which take twice as long to widen.
        @inline(__always)
        private func sum(
            _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int,
            _ laneSums: LaneSums, scale: Element?
        ) {
            @inline(__always)
            func add(_ i: Int, _ count: Int, to sum: inout LaneSum) {
                let (g, y) = (loadLast(g, i, count), loadLast(y, i, count))
                if let scale, op == .softmax {
                    let product = g * (y * splat(scale))
                    if self == .bfloat16 && lanes == virtualLanes {
                        // Sooner there than by FMA, which the next one of the lane would wait for.
                        sum.high += vector_widen(product)
                    } else {
                        sum.add(.logSoftmax, product, product)
                    }
                } else {
                    sum.add(op, g, y)
                }
            }
            sumByVectors(first, end, laneSums, scale: scale ?? 1, add: add)
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
                let target = out + 2 &* i
                if self == .bfloat16 {
                    vector_store(target, bfloats_from(four.a, four.b))
                    vector_store(target + vectorBytes, bfloats_from(four.c, four.d))
                } else {
                    four.forEach(four, four) { v, result, _, _ in
                        halves_store(target + 2 &* v &* lanes, narrow(result))
                    }
                }
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
                store(out, i, count, result(op, loadLast(g, i, count), loadLast(y, i, count)))
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
        func softmaxSums(
            _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums,
            inDouble: Bool
        ) {
            for r in 0..<rows {
                let (g, y, laneSums) = (g.from(r).address, y.from(r).address, laneSums.row(r))
                // With a constant each, as these do little beside the conversion.
                if self == .float16 {
                    HalfFormat.float16.sum(.softmax, g, y, first, end, laneSums, scale: 1)
                } else if inDouble {
                    HalfFormat.bfloat16.sum(.softmax, g, y, first, end, laneSums, scale: nil)
                } else {
                    HalfFormat.bfloat16.sum(
                        .softmax, g, y, first, end, laneSums, scale: bfloatProductScale)
                }
            }
        }

        @inline(never)
        func logSoftmaxSums(_ g: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums) {
            for r in 0..<rows {
                let g = g.from(r).address
                sum(.logSoftmax, g, g, first, end, laneSums.row(r), scale: nil)
            }
        }

        @inline(never)
        func writeSoftmax(
            _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int,
            _ n: Int, _ table: SliceTable
        ) {
            for r in 0..<rows {
                let (g, y, out) = (g.from(r).address, y.from(r).address, out + r &* outStride)
                let result = table.backwardResult(r)
                if self == .float16 {
                    HalfFormat.float16.write(.softmax, g, y, out, n, result)
                } else {
                    let done = HalfFormat.writePairs(g, y, out, n, result)
                    HalfFormat.bfloat16.writeRest(.softmax, g, y, out, n, result, from: done)
                }
            }
        }

        /// Of one row, as that of reversed ones.
        @inline(never)
        private func writeLogSoftmax(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            write(.logSoftmax, g, y, out, n, result)
        }

        @inline(__always)
        func writeLogSoftmax(
            _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int,
            _ n: Int, _ table: SliceTable
        ) {
            for r in 0..<rows {
                writeLogSoftmax(
                    g.from(r).address, y.from(r).address, out + r &* outStride, n, table.backwardResult(r))
            }
        }
    }

#endif
