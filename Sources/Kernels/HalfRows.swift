// Gradients of rows of 16-bit elements, read as they lie, in order or reversed, and written as they are.
//
// The arithmetic of a row is that of BackwardRows.swift to the bit, with its elements as floats; results are rounded once.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    /// What makes the product of any two bfloat16 exact in Float: that of the least, 2^-133, with itself is the least Float then. If
    /// one is too large, above 2^11, the sum is not finite.
    var bfloatProductScale: Element { 0x1p117 }

    /// A row of 16-bit elements, in order or from the address of the first downwards. Then it asks for what lies `ahead` bytes on: the
    /// CPU by itself hardly reads ahead downwards.
    private struct HalfRow {
        let address: UnsafeRawPointer
        let isReversed: Bool
        let ahead: Int

        @inline(__always)
        init(_ address: UnsafeRawPointer) { (self.address, isReversed, ahead) = (address, false, 0) }

        @inline(__always)
        init(reversed address: UnsafeRawPointer, ahead: Int) {
            (self.address, isReversed, self.ahead) = (address, true, ahead)
        }
    }

    extension HalfFormat {
        /// `count` elements of a row from `index` on, those of a reversed one in the order of memory; zeros in the other lanes.
        @inline(__always)
        private func load(_ row: HalfRow, _ index: Int, _ count: Int = lanes) -> Vector {
            if !row.isReversed { return loadLast(row.address, index, count) }
            let first = row.address - 2 &* index
            if row.ahead != 0 { vector_prefetch(first + row.ahead) }
            return widen(
                count == lanes ? halves_load(first - 2 &* (lanes &- 1)) : halves_load_ending(first, count))
        }

        @inline(__always)
        private func loadQuad(_ row: HalfRow, _ index: Int) -> Quad {
            Quad { load(row, index &+ $0 &* lanes) }
        }

        /// As `load`, of one of more than a vector.
        @inline(__always)
        func loadLast(_ row: UnsafeRawPointer, _ index: Int, _ count: Int) -> Vector {
            let address = row + 2 &* index
            return widen(count == lanes ? halves_load(address) : halves_load_last(address, count))
        }

        /// As `blockSums`, of elements first..<end of one row. The lanes of a reversed one stay so, as the tree adds the same two (see
        /// ReversedRows.swift).
        ///
        /// - Parameter scale: the scale of products in Float; nil for those in Double, which take twice as long to widen.
        @inline(__always)
        private func sum(
            _ op: Operation, _ g: HalfRow, _ y: HalfRow, _ first: Int, _ end: Int, _ laneSums: LaneSums,
            scale: Element?
        ) {
            @inline(__always)
            func add(_ i: Int, _ count: Int, to sum: inout LaneSum) {
                let (g, y) = (load(g, i, count), load(y, i, count))
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
        private func write(
            _ op: Operation, _ g: HalfRow, _ y: HalfRow, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            let isReversed = g.isReversed
            var i = 0
            while i &+ 4 &* lanes <= n {
                let (g, y) = (loadQuad(g, i), loadQuad(y, i))
                let results = op == .softmax ? g.map(y) { result(.softmax, $0, $1) } : result.logSoftmax(g, y)
                let four = isReversed ? results.map(vector_reversed) : results
                storeTwo(out, i, four.a, four.b, streams: false)
                storeTwo(out, i &+ 2 &* lanes, four.c, four.d, streams: false)
                i &+= 4 &* lanes
            }
            writeRest(op, g, y, out, n, result, from: i)
        }

        @inline(__always)
        private func writeRest(
            _ op: Operation, _ g: HalfRow, _ y: HalfRow, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult, from first: Int
        ) {
            var i = first
            while i < n {
                let count = min(lanes, n &- i)
                let value = result(op, load(g, i, count), load(y, i, count))
                store(out, i, count, g.isReversed ? vector_reversed(value) : value)
                i &+= count
            }
        }

        /// The gradients of bfloat16 of the first elements of a row, two to a lane, and how many these are. As the sum is
        /// finite, so are all elements, and no result is NaN.
        @inline(__always)
        private static func writePairs(
            _ g: HalfRow, _ y: HalfRow, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult
        ) -> Int {
            @inline(__always)
            func pairs(_ row: HalfRow, _ i: Int) -> swiftmax_bits {
                if !row.isReversed { return bfloat_pairs_load(row.address + 2 &* i) }
                let last = row.address - 2 &* (i &+ 2 &* lanes &- 1)
                vector_prefetch(last + row.ahead)
                return bfloat_pairs_load(last)
            }
            let isReversed = g.isReversed
            var i = 0
            while i &+ 2 &* lanes <= n {
                let (g, y) = (pairs(g, i), pairs(y, i))
                let first = result(.softmax, bfloat_pairs_first(g), bfloat_pairs_first(y))
                let second = result(.softmax, bfloat_pairs_second(g), bfloat_pairs_second(y))
                let results = bfloat_pairs(first, second)
                bfloat_pairs_store(out + 2 &* i, isReversed ? bfloat_pairs_reversed(results) : results)
                i &+= 2 &* lanes
            }
            return i
        }

        /// The sum of bfloat16 whose products do not fit in Float.
        @inline(never)
        private static func sumInDouble(
            _ g: HalfRow, _ y: HalfRow, _ first: Int, _ end: Int, _ laneSums: LaneSums
        ) {
            HalfFormat.bfloat16.sum(.softmax, g, y, first, end, laneSums, scale: nil)
        }

        @inline(__always)
        private func softmaxSums(
            _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums,
            inDouble: Bool, areReversed: Bool
        ) {
            for r in 0..<rows {
                let (g, y, laneSums) = (g.from(r).address, y.from(r).address, laneSums.row(r))
                let gRow = areReversed ? HalfRow(reversed: g, ahead: 0) : HalfRow(g)
                let yRow = areReversed ? HalfRow(reversed: y, ahead: 0) : HalfRow(y)
                // With a constant each, as these do little beside the conversion.
                if self == .float16 {
                    HalfFormat.float16.sum(.softmax, gRow, yRow, first, end, laneSums, scale: 1)
                } else if inDouble {
                    HalfFormat.sumInDouble(gRow, yRow, first, end, laneSums)
                } else {
                    HalfFormat.bfloat16.sum(
                        .softmax, gRow, yRow, first, end, laneSums, scale: bfloatProductScale)
                }
            }
        }

        @inline(never)
        func softmaxSums(
            _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums,
            inDouble: Bool
        ) {
            softmaxSums(g, y, rows, first, end, laneSums, inDouble: inDouble, areReversed: false)
        }

        @inline(never)
        func reversedSoftmaxSums(
            _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums,
            inDouble: Bool
        ) {
            softmaxSums(g, y, rows, first, end, laneSums, inDouble: inDouble, areReversed: true)
        }

        @inline(never)
        func logSoftmaxSums(_ g: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums) {
            for r in 0..<rows {
                let g = HalfRow(g.from(r).address)
                sum(.logSoftmax, g, g, first, end, laneSums.row(r), scale: nil)
            }
        }

        @inline(never)
        func reversedLogSoftmaxSums(
            _ g: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums
        ) {
            for r in 0..<rows {
                let g = HalfRow(reversed: g.from(r).address, ahead: 0)
                sum(.logSoftmax, g, g, first, end, laneSums.row(r), scale: nil)
            }
        }

        @inline(__always)
        private func writeSoftmax(
            _ g: HalfRow, _ y: HalfRow, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult
        ) {
            if self == .float16 {
                HalfFormat.float16.write(.softmax, g, y, out, n, result)
            } else {
                let done = HalfFormat.writePairs(g, y, out, n, result)
                HalfFormat.bfloat16.writeRest(.softmax, g, y, out, n, result, from: done)
            }
        }

        @inline(never)
        func writeSoftmax(
            _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int,
            _ n: Int, _ table: SliceTable
        ) {
            for r in 0..<rows {
                let (g, y) = (HalfRow(g.from(r).address), HalfRow(y.from(r).address))
                writeSoftmax(g, y, out + r &* outStride, n, table.backwardResult(r))
            }
        }

        @inline(never)
        func writeReversedSoftmax(
            _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int,
            _ n: Int, _ table: SliceTable
        ) {
            for r in 0..<rows {
                let (g, y) = (reversed(g, r, of: rows), reversed(y, r, of: rows))
                writeSoftmax(g, y, out + r &* outStride, n, table.backwardResult(r))
            }
        }

        /// A row of several, the last of which is followed by the first that is summed next.
        @inline(__always)
        private func reversed(_ operand: Operand, _ index: Int, of rows: Int) -> HalfRow {
            HalfRow(reversed: operand.from(index).address, ahead: rows &* operand.stride)
        }

        /// Of one row: in a loop over them, constants would take the registers of what is computed.
        @inline(never)
        private func writeLogSoftmax(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) {
            write(.logSoftmax, HalfRow(g), HalfRow(y), out, n, result)
        }

        /// The same, made anew here so that the direction is a constant.
        @inline(never)
        private func writeReversedLogSoftmax(
            _ g: HalfRow, _ y: HalfRow, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult
        ) {
            write(
                .logSoftmax, HalfRow(reversed: g.address, ahead: g.ahead),
                HalfRow(reversed: y.address, ahead: y.ahead), out, n, result)
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

        @inline(__always)
        func writeReversedLogSoftmax(
            _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int,
            _ n: Int, _ table: SliceTable
        ) {
            for r in 0..<rows {
                writeReversedLogSoftmax(
                    reversed(g, r, of: rows), reversed(y, r, of: rows), out + r &* outStride, n,
                    table.backwardResult(r))
            }
        }
    }

#endif
