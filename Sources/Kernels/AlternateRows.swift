// Gradients of rows whose inputs are every other element in memory, read as they lie: to copy them in order first would take
// longer than the gradients do.

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512

    import CKernels
    import CVector

    @inline(__always)
    private func alternateSums(
        _ op: Operation, _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int,
        _ laneSums: LaneSums
    ) {
        for r in 0..<rows {
            let (g, y) = (OtherRow(g, r, of: rows, .alternate), OtherRow(y, r, of: rows, .alternate))
            @inline(__always)
            func add(_ i: Int, _ count: Int, to sum: inout LaneSum) {
                if count == lanes {
                    sum.add(op, g.load(i), y.load(i))
                } else {
                    sum.add(op, g.loadLast(i, count), y.loadLast(i, count))
                }
            }
            sumByVectors(first, end, laneSums.row(r), add: add)
        }
    }

    @inline(never)
    func softmaxAlternateSums(
        _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums
    ) {
        alternateSums(.softmax, g, y, rows, first, end, laneSums)
    }

    @inline(never)
    func logSoftmaxAlternateSums(
        _ g: Operand, _ rows: Int, _ first: Int, _ end: Int, _ laneSums: LaneSums
    ) {
        alternateSums(.logSoftmax, g, g, rows, first, end, laneSums)
    }

    /// The last vector of a row may begin in the one before.
    @inline(never)
    func writeSoftmaxAlternate(
        _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ rows: Int, _ n: Int,
        _ table: SliceTable
    ) {
        for r in 0..<rows {
            let (g, y) = (OtherRow(g, r, of: rows, .alternate), OtherRow(y, r, of: rows, .alternate))
            let (out, result) = (out + r &* outStride, table.backwardResult(r))
            var i = 0
            while i < n {
                let first = min(i, n &- lanes)
                vector_store(out.element(first), result(.softmax, g.load(first), y.load(first)))
                i &+= lanes
            }
        }
    }

#endif
