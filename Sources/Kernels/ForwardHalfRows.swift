// Forward functions of rows of 16-bit elements, read and written as they are.
//
// A batch of rows, or a block of a long one, is widened to floats in scratch, where its stats are those of ForwardRows.swift
// to the bit. Its results are computed from the elements once more, as floats, and rounded as they are stored.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    extension HalfFormat {
        /// The results of a batch of rows, `copied` in order as floats.
        @inline(__always)
        func write(
            _ op: Operation, _ rows: RowBatch, _ copied: RowBatch, _ out: UnsafeMutableRawPointer,
            _ outStride: Int, _ tails: RowTails, _ scratch: Scratch, streaming: Bool
        ) {
            let table = scratch.table
            switch op {
            case .softmax: writeSoftmax(tails, rows, out, outStride, table, streaming: streaming)
            case .logSoftmax: writeLogSoftmax(rows, out, outStride, table, streaming: streaming)
            case .logsumexp:
                let results = scratch.rowTails
                writeLogsumexp(copied, results, elementBytes, table, scratch)
                for r in 0..<rows.count {
                    store(out + r &* outStride, 0, 1, vector_load(results.element(r)))
                }
            }
        }

        /// The forward operation on the one row of a batch, of several blocks; false where it is not done.
        func forwardLongRow(
            _ op: Operation, _ row: RowBatch, _ out: UnsafeMutableRawPointer, _ scratch: Scratch,
            room: UnsafeMutableRawPointer?, streaming: Bool
        ) -> Bool {
            let (table, x, n) = (scratch.table, row.x, row.n)
            let tails = op == .softmax ? room : nil
            var areTaken = false
            table.setResults(
                op, longRowStats(op.sumKind, row, .halves(self), tails, areTaken: &areTaken, scratch))
            if op == .logsumexp {
                let value = table.logsumexp(0)
                if cancels(value, max: table.max(0)) { return false }
                store(out, 0, 1, splat(value))
            } else if op == .logSoftmax {
                writeLogSoftmax(row, out, 0, table, streaming: streaming)
            } else if let tails, blocksAreClose(n, table) {
                // As in `writeLongSoftmax`.
                let slice = 1
                var start = 0
                while start < n {
                    let index = start / block
                    table.setSoftmaxResult(
                        slice, max: table.blockMax(index), scale: blockScale(index, table))
                    let part = RowBatch(
                        x: x + 2 &* start, stride: 0, first: slice, count: 1, n: min(block, n &- start))
                    let kept = RowTails(address: tails.element(start), stride: 0, isPadded: true)
                    writeSoftmax(kept, part, out + 2 &* start, 0, table, streaming: streaming)
                    start &+= block
                }
            } else {
                writeSoftmax(x, out, n, table, streaming: streaming)
            }
            return true
        }

        /// As `writeSoftmax` of floats.
        @inline(never)
        private func writeSoftmax(
            _ tails: RowTails, _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int,
            _ table: SliceTable, streaming: Bool
        ) {
            @inline(__always)
            func write(_ format: HalfFormat) {
                for r in 0..<rows.count {
                    let softmax = table.softmaxResult(rows.first &+ r)
                    let tails = tails.row(r)
                    @inline(__always)
                    func result(_ i: Int, _ x: Vector) -> Vector {
                        softmax(
                            Exponential(
                                tail: vector_load(tails.element(i)), power: softmax.shift.power(of: x)))
                    }
                    let (x, out) = (rows.x + r &* rows.stride, out + r &* outStride)
                    format.writeRow(x, out, rows.n, streaming: streaming, result)
                }
            }
            if self == .float16 { write(.float16) } else { write(.bfloat16) }
        }

        /// The softmax of the only row, whose exponentials are computed again.
        @inline(never)
        private func writeSoftmax(
            _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int, _ table: SliceTable,
            streaming: Bool
        ) {
            let softmax = table.softmaxResult(0)
            @inline(__always)
            func result(_ i: Int, _ x: Vector) -> Vector { softmax(x) }
            writeRow(x, out, n, streaming: streaming, result)
        }

        @inline(never)
        private func writeLogSoftmax(
            _ rows: RowBatch, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
            streaming: Bool
        ) {
            @inline(__always)
            func write(_ format: HalfFormat) {
                for r in 0..<rows.count {
                    let logSoftmax = table.logSoftmaxResult(r)
                    @inline(__always)
                    func result(_ i: Int, _ x: Vector) -> Vector { logSoftmax(x) }
                    let (x, out) = (rows.x + r &* rows.stride, out + r &* outStride)
                    format.writeRow(x, out, rows.n, streaming: streaming, result)
                }
            }
            if self == .float16 { write(.float16) } else { write(.bfloat16) }
        }

        /// Stores what `result` makes of each vector of elements, from `i` on. With `streaming`, whole lines bypass the caches.
        @inline(__always)
        private func writeRow(
            _ x: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int, streaming: Bool,
            _ result: (_ i: Int, _ x: Vector) -> Vector
        ) {
            var (i, end) = (0, n)
            let streams = streaming && Int(bitPattern: out) % 2 == 0
            if streams {
                let head = min(n, (0 &- Int(bitPattern: out)) & (lineBytes &- 1) / 2)
                while i < head {
                    let count = min(lanes, head &- i)
                    store(out, i, count, result(i, load(x, i, count)))
                    i &+= count
                }
                end = i &+ (n &- i) / lineHalves &* lineHalves
            }
            while i &+ 2 &* lanes <= end {
                let (first, second) = (load(x, i, lanes), load(x, i &+ lanes, lanes))
                storeTwo(out, i, result(i, first), result(i &+ lanes, second), streams: streams)
                i &+= 2 &* lanes
            }
            while i < n {
                let count = min(lanes, n &- i)
                store(out, i, count, result(i, loadLast(x, i, count)))
                i &+= count
            }
        }

        /// Two vectors of results, of which none is NaN but the default one or that of an element.
        @inline(__always)
        func storeTwo(
            _ out: UnsafeMutableRawPointer, _ i: Int, _ first: Vector, _ second: Vector, streams: Bool
        ) {
            let address = out + 2 &* i
            if self == .bfloat16 {
                let both = bfloats_from(first, second)
                if streams { vector_stream(address, both) } else { vector_store(address, both) }
            } else if streams {
                halves_stream(address, narrow(first))
                halves_stream(address + 2 &* lanes, narrow(second))
            } else {
                halves_store(address, narrow(first))
                halves_store(address + 2 &* lanes, narrow(second))
            }
        }
    }

#endif
