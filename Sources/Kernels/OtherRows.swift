// Gradients of rows that are not elements of this module's type in order: of 16 bits, or reversed.
//
// They are read as they lie; their arithmetic is that of BackwardRows.swift to the bit.

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512

    import CKernels
    import CVector

    /// The backward operation on rows of at least a vector.
    ///
    /// - Returns: how many were done: all up to a batch with a sum that needs care.
    @inline(never)
    func backwardOtherRows(
        _ op: Operation, _ elements: Elements, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer,
        _ outStride: Int, _ rows: Int, _ n: Int, _ scratch: Scratch
    ) -> Int {
        let table = scratch.table
        let bytes = elements.resultBytes
        let batch = n > block ? 1 : wholeOctets(min(gradientBatch, max(1, gradientBatchBytes / (bytes &* n))))
        var first = 0
        while first < rows {
            let count = min(batch, rows &- first)
            /// False where a sum needs care.
            @inline(__always)
            func setResults(inDouble: Bool) -> Bool {
                @inline(__always)
                func addBlock(of row: Int, from first: Int, _ laneSums: LaneSums) {
                    let (g, y, end) = (g.from(row).address, y.from(row).address, min(first &+ block, n))
                    otherSum(op, elements, g, y, first, end, scratch, laneSums, inDouble: inDouble)
                }
                for r in 0..<count { addBlock(of: first &+ r, from: 0, scratch.laneSums.row(r)) }
                table.setTotals(count, scratch.laneSums)
                var start = block
                while start < n {
                    let total = table.sum(from: 0)
                    addBlock(of: first, from: start, scratch.laneSums)
                    table.setTotals(1, scratch.laneSums)
                    table.setSum(from: 0, total + table.sum(from: 0))
                    start &+= block
                }
                return table.setBackwardResults(count)
            }
            // Products of large bfloat16 do not fit in Float.
            var inDouble = false
            while !setResults(inDouble: inDouble) {
                if inDouble { return first }
                inDouble = true
            }
            for r in first..<first &+ count {
                writeOther(
                    op, elements, g.from(r), y.from(r), out + r &* outStride, n,
                    table.backwardResult(r &- first),
                    ahead: batch)
            }
            first &+= count
        }
        return first
    }

    /// As `blockSums`, of elements first..<end of one row.
    @inline(__always)
    private func otherSum(
        _ op: Operation, _ elements: Elements, _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ first: Int,
        _ end: Int, _ scratch: Scratch, _ laneSums: LaneSums, inDouble: Bool
    ) {
        switch (op, elements) {
        #if SWIFTMAX_FLOAT32
            case (.softmax, .halves(let format)):
                format.softmaxSum(g, y, first, end, laneSums, inDouble: inDouble)
            case (_, .halves(let format)): format.logSoftmaxSum(g, first, end, laneSums)
        #endif
        case (.softmax, _): softmaxReversedSum(g, y, first, end, scratch, laneSums)
        default: logSoftmaxReversedSum(g, first, end, scratch, laneSums)
        }
    }

    @inline(__always)
    private func writeOther(
        _ op: Operation, _ elements: Elements, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer,
        _ n: Int,
        _ result: BackwardResult, ahead: Int
    ) {
        switch (op, elements) {
        #if SWIFTMAX_FLOAT32
            case (.softmax, .halves(let format)):
                format.writeSoftmax(g.address, y.address, out, n, result)
            case (_, .halves(let format)):
                format.writeLogSoftmax(g.address, y.address, out, n, result)
        #endif
        case (.softmax, _): writeSoftmaxReversed(g, y, out, n, result, ahead: ahead)
        default: writeLogSoftmaxReversed(g, y, out, n, result, ahead: ahead)
        }
    }

#endif
