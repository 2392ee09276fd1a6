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

    /// As `blockSums`, of elements first..<end of one row.
    @inline(__always)
    private func reversedSum(
        _ op: Operation, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int,
        _ scratch: Scratch, _ laneSums: LaneSums
    ) {
        var sum = RowSum<OwnSums>()
        var i = first
        while i &+ virtualLanes <= end {
            sum.add(op, backwards(g, i, width: virtualLanes), backwards(y, i, width: virtualLanes))
            i &+= virtualLanes
        }
        if i < end {
            // The last ones, after zeros.
            @inline(__always)
            func padded(_ row: UnsafeRawPointer, _ room: UnsafeMutableRawPointer) -> UnsafeRawPointer {
                let (count, absent) = (end &- i, virtualLanes &- (end &- i))
                for lane in 0..<absent { room.element(lane).storeBytes(of: 0, as: Element.self) }
                room.element(absent).copyMemory(
                    from: backwards(row, i, width: count), byteCount: count &* elementBytes)
                return UnsafeRawPointer(room)
            }
            let room = scratch.spare
            sum.add(op, padded(g, room), padded(y, room.element(virtualLanes)))
        }
        sum.leave(in: laneSums)
    }

    /// The gradients of a row. Asks for the row that is summed next, `ahead` rows on: the CPU does not read ahead downwards.
    @inline(__always)
    private func writeReversed(
        _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ n: Int,
        _ result: BackwardResult, ahead: Int
    ) {
        @inline(__always)
        func load(_ rows: Operand, _ index: Int) -> Vector {
            let address = backwards(rows.address, index, width: lanes)
            vector_prefetch(address + ahead &* rows.stride)
            return vector_load(address)
        }
        @inline(__always)
        func loadQuad(_ row: Operand, _ index: Int) -> Quad {
            Quad(
                load(row, index), load(row, index &+ lanes), load(row, index &+ 2 &* lanes),
                load(row, index &+ 3 &* lanes))
        }
        var i = 0
        if op == .logSoftmax {
            while i &+ 4 &* lanes <= n {
                let four = result.logSoftmax(loadQuad(g, i), loadQuad(y, i))
                storeQuad(out.element(i), four.map(vector_reversed))
                i &+= 4 &* lanes
            }
        }
        while i < n {
            // The last vector may begin in the one before.
            let first = min(i, n &- lanes)
            vector_store(out.element(first), vector_reversed(result(op, load(g, first), load(y, first))))
            i &+= lanes
        }
    }

    @inline(never)
    func softmaxReversedSum(
        _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch,
        _ laneSums: LaneSums
    ) {
        reversedSum(.softmax, g, y, first, end, scratch, laneSums)
    }

    @inline(never)
    func logSoftmaxReversedSum(
        _ g: UnsafeRawPointer, _ first: Int, _ end: Int, _ scratch: Scratch, _ laneSums: LaneSums
    ) {
        reversedSum(.logSoftmax, g, g, first, end, scratch, laneSums)
    }

    @inline(never)
    func writeSoftmaxReversed(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult,
        ahead: Int
    ) {
        writeReversed(.softmax, g, y, out, n, result, ahead: ahead)
    }

    @inline(never)
    func writeLogSoftmaxReversed(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult,
        ahead: Int
    ) {
        writeReversed(.logSoftmax, g, y, out, n, result, ahead: ahead)
    }

#endif
