// Gradients of rows whose inputs lie in memory from the last element to the first, read as they lie.
//
// The lanes of a vector of them are in reverse order, which their sums need not be brought out of: the tree adds two
// lanes half a width apart, and these are the same two either way. Only results are turned around.

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512

    import CKernels
    import CVector

    /// The `width` elements from `index` on, in the order of memory; `row` is the address of the first of all.
    @inline(__always)
    private func backwards(_ row: UnsafeRawPointer, _ index: Int, width: Int) -> UnsafeRawPointer {
        row.element(1 &- width &- index)
    }

    /// As `blockSums`, of elements first..<end.
    @inline(__always)
    private func reversedSums<Part: RowSumPart>(
        _ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int,
        _ scratch: Scratch, as: RowSum<Part>.Type
    ) {
        for r in 0..<rows {
            let (g, y) = (g.from(r).address, y.from(r).address)
            var sum = RowSum<Part>()
            var i = first
            while i &+ virtualLanes <= end {
                sum.add(op, backwards(g, i, width: virtualLanes), backwards(y, i, width: virtualLanes))
                i &+= virtualLanes
            }
            if i < end {
                /// The last ones, after zeros.
                @inline(__always)
                func padded(_ row: UnsafeRawPointer, _ room: UnsafeMutableRawPointer) -> UnsafeRawPointer {
                    let (last, absent) = (backwards(row, i, width: virtualLanes), i &+ virtualLanes &- end)
                    for lane in stride(from: 0, to: virtualLanes, by: lanes) {
                        vector_store(
                            room.element(lane), vector_load_last(last.element(lane), absent &- lane))
                    }
                    return UnsafeRawPointer(room)
                }
                let room = scratch.spare
                sum.add(op, padded(g, room), padded(y, room.element(virtualLanes)))
            }
            sum.leave(in: scratch.laneSums.row(r))
        }
    }

    @inline(__always)
    private func reversedSums(
        _ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int,
        _ scratch: Scratch, eights: Bool
    ) {
        #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
            if eights {
                return reversedSums(op, g, y, rows, first, end, scratch, as: RowSum<EightSums>.self)
            }
        #endif
        reversedSums(op, g, y, rows, first, end, scratch, as: RowSum<OwnSums>.self)
    }

    /// A row of an input. Asks for the one that is summed next, `next` bytes on: the CPU hardly reads ahead downwards.
    private struct ReversedRow {
        let address: UnsafeRawPointer
        let next: Int

        @inline(__always)
        init(_ operand: Operand, _ index: Int, of rows: Int) {
            (address, next) = (operand.from(index).address, rows &* operand.stride)
        }

        /// A vector of the elements from `index` on, in the order of memory.
        @inline(__always)
        func load(_ index: Int) -> Vector {
            let address = backwards(address, index, width: lanes)
            vector_prefetch(address + next)
            return vector_load(address)
        }

        @inline(__always)
        func loadQuad(_ index: Int) -> Quad { Quad { load(index &+ $0 &* lanes) } }
    }

    @inline(never)
    func writeSoftmaxReversed(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
        _ table: SliceTable
    ) {
        for r in 0..<rows {
            let (g, y) = (ReversedRow(g, r, of: rows), ReversedRow(y, r, of: rows))
            let (out, result) = (out + r &* outStride, table.backwardResult(r))
            /// In the order of memory.
            @inline(__always)
            func results(_ index: Int) -> Vector { result(.softmax, g.load(index), y.load(index)) }
            @inline(__always)
            func write(_ index: Int) { vector_store(out.element(index), vector_reversed(results(index))) }

            var i = 0
            if n >= 8 &* lanes {
                write(0)
                #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
                    // All loads and stores but the first and the last lie within a line each.
                    i = headOfReversed(g.address)
                    let skipped = (headOfRow(out) &- i) & (lanes &- 1)
                    let places = vector_reversed_places(skipped)
                    var last = results(i)
                    vector_store(out.element(i), vector_reversed(last))
                    while i &+ 2 &* lanes <= n {
                        let next = results(i &+ lanes)
                        vector_store(out.element(i &+ skipped), vector_reversed_pair(last, next, places))
                        last = next
                        i &+= lanes
                    }
                    vector_store(out.element(i), vector_reversed(last))
                    i &+= lanes
                #else
                    // All stores that follow lie within a line each.
                    i = headOfRow(out)
                #endif
            }
            while i &+ lanes <= n {
                write(i)
                i &+= lanes
            }
            if i < n { write(n &- lanes) }
        }
    }

    /// Of one row: in a loop over them, constants would take the registers of what is computed.
    @inline(never)
    private func writeLogSoftmaxReversed(
        _ g: ReversedRow, _ y: ReversedRow, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult
    ) {
        var i = 0
        while i &+ 4 &* lanes <= n {
            let four = result.logSoftmax(g.loadQuad(i), y.loadQuad(i))
            storeQuad(out.element(i), four.map(vector_reversed))
            i &+= 4 &* lanes
        }
        while i < n {
            // The last vector may begin in the one before.
            let first = min(i, n &- lanes)
            vector_store(
                out.element(first), vector_reversed(result(.logSoftmax, g.load(first), y.load(first))))
            i &+= lanes
        }
    }

    @inline(__always)
    func writeLogSoftmaxReversed(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
        _ table: SliceTable
    ) {
        for r in 0..<rows {
            writeLogSoftmaxReversed(
                ReversedRow(g, r, of: rows), ReversedRow(y, r, of: rows), out + r &* outStride, n,
                table.backwardResult(r))
        }
    }

    /// As `headOfRow`, of a row that lies in reverse order from `row` on.
    @inline(__always)
    private func headOfReversed(_ row: UnsafeRawPointer) -> Int {
        (Int(bitPattern: row) &+ elementBytes) & (vectorBytes &- 1) / elementBytes
    }

    @inline(never)
    func softmaxReversedSums(
        _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int, _ scratch: Scratch, eights: Bool
    ) {
        reversedSums(.softmax, g, y, rows, first, end, scratch, eights: eights)
    }

    @inline(never)
    func logSoftmaxReversedSums(
        _ g: Operand, _ rows: Int, _ first: Int, _ end: Int, _ scratch: Scratch, eights: Bool
    ) {
        reversedSums(.logSoftmax, g, g, rows, first, end, scratch, eights: eights)
    }

#endif
