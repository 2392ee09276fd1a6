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
        _ outStride: Int, _ rows: Int, _ n: Int, _ scratch: Scratch, eights: Bool
    ) -> Int {
        let table = scratch.table
        let bytes = elements.resultBytes
        let batch = n > block ? 1 : wholeOctets(min(gradientBatch, max(1, gradientBatchBytes / (bytes &* n))))
        var first = 0
        while first < rows {
            let count = min(batch, rows &- first)
            let (g, y, out) = (g.from(first), y.from(first), out + first &* outStride)
            /// False where a sum needs care.
            @inline(__always)
            func setResults(inDouble: Bool) -> Bool {
                for start in stride(from: 0, to: n, by: block) {
                    let total = table.sum(from: 0)
                    otherSums(
                        op, elements, g, y, count, start, min(start &+ block, n), scratch,
                        inDouble: inDouble, eights: eights)
                    table.setTotals(count, scratch.laneSums)
                    if start > 0 { table.setSum(from: 0, (total + table.sum(from: 0)).normalized) }
                }
                return table.setBackwardResults(count)
            }
            // Products of large bfloat16 do not fit in Float.
            var inDouble = false
            while !setResults(inDouble: inDouble) {
                if inDouble { return first }
                inDouble = true
            }
            writeOther(op, elements, g, y, out, outStride, count, n, table)
            first &+= count
        }
        return first
    }

    /// As `blockSums`, of elements first..<end.
    @inline(__always)
    private func otherSums(
        _ op: Operation, _ elements: Elements, _ g: Operand, _ y: Operand, _ rows: Int, _ first: Int,
        _ end: Int, _ scratch: Scratch, inDouble: Bool, eights: Bool
    ) {
        switch (op, elements) {
        #if SWIFTMAX_FLOAT32
            case (.softmax, .halves(let format)):
                format.softmaxSums(g, y, rows, first, end, scratch.laneSums, inDouble: inDouble)
            case (_, .halves(let format)): format.logSoftmaxSums(g, rows, first, end, scratch.laneSums)
        #endif
        case (.softmax, _): softmaxReversedSums(g, y, rows, first, end, scratch, eights: eights)
        default: logSoftmaxReversedSums(g, rows, first, end, scratch, eights: eights)
        }
    }

    @inline(__always)
    private func writeOther(
        _ op: Operation, _ elements: Elements, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer,
        _ outStride: Int, _ rows: Int, _ n: Int, _ table: SliceTable
    ) {
        switch (op, elements) {
        #if SWIFTMAX_FLOAT32
            case (.softmax, .halves(let format)):
                format.writeSoftmax(g, y, out, outStride, rows, n, table)
            case (_, .halves(let format)): format.writeLogSoftmax(g, y, out, outStride, rows, n, table)
        #endif
        case (.softmax, _): writeSoftmaxReversed(g, y, out, outStride, rows, n, table)
        default: writeLogSoftmaxReversed(g, y, out, outStride, rows, n, table)
        }
    }

#endif
