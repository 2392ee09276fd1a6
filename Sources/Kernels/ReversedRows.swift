// Gradients of rows whose inputs lie in memory from the last element to the first, read as they lie.
//
// The lanes of a vector of them are in reverse order, which their sums need not be brought out of: the tree adds two
// lanes half a width apart, and these are the same two either way. Only results are turned around.

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512

    import CKernels
    import CVector

    /// The `width` elements from `index` on, in the order of memory; `row` is the address of the first of all.
    @inline(__always)
    func backwards(_ row: UnsafeRawPointer, _ index: Int, width: Int) -> UnsafeRawPointer {
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

    @inline(never)
    func writeSoftmaxReversed(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
        _ table: SliceTable
    ) {
        for r in 0..<rows {
            let (g, y) = (OtherRow(g, r, of: rows, .reversed), OtherRow(y, r, of: rows, .reversed))
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
