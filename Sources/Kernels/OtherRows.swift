// Gradients of rows that are not elements of this module's type in order: of 16 bits, reversed, or every other one.
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
        let rowBytes = Int(elements.stride.magnitude) &* n
        let batch = n > block ? 1 : wholeOctets(min(gradientBatch, max(1, gradientBatchBytes / rowBytes)))
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
            case (.softmax, .reversedHalves(let format)):
                format.reversedSoftmaxSums(g, y, rows, first, end, scratch.laneSums, inDouble: inDouble)
            case (_, .halves(let format)): format.logSoftmaxSums(g, rows, first, end, scratch.laneSums)
            case (_, .reversedHalves(let format)):
                format.reversedLogSoftmaxSums(g, rows, first, end, scratch.laneSums)
        #endif
        case (.softmax, .alternate): softmaxAlternateSums(g, y, rows, first, end, scratch.laneSums)
        case (_, .alternate): logSoftmaxAlternateSums(g, rows, first, end, scratch.laneSums)
        case (.softmax, _): softmaxReversedSums(g, y, rows, first, end, scratch, eights: eights)
        default: logSoftmaxReversedSums(g, rows, first, end, scratch, eights: eights)
        }
    }

    /// The lane sums of elements first..<end of a row, which is read a vector at a time.
    ///
    /// - Parameters:
    ///   - scale: how much larger the terms are than they should be.
    ///   - add: adds those of `count` elements from `i` on.
    @inline(__always)
    func sumByVectors(
        _ first: Int, _ end: Int, _ laneSums: LaneSums, scale: Element = 1,
        add: (_ i: Int, _ count: Int, _ sum: inout LaneSum) -> Void
    ) {
        // A vector holds all virtual lanes or half of them.
        let isHalf = lanes < virtualLanes
        var (lower, upper) = (LaneSum(), LaneSum())
        var i = first
        while i &+ virtualLanes <= end {
            add(i, lanes, &lower)
            if isHalf { add(i &+ lanes, lanes, &upper) }
            i &+= virtualLanes
        }
        if i < end { add(i, min(lanes, end &- i), &lower) }
        if isHalf && i &+ lanes < end { add(i &+ lanes, end &- i &- lanes, &upper) }
        let unscale = splatWide(1 / Double(scale))
        laneSums.set(firstLane: 0, lower.pair.scaled(by: unscale))
        if isHalf { laneSums.set(firstLane: lanes, upper.pair.scaled(by: unscale)) }
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
            case (.softmax, .reversedHalves(let format)):
                format.writeReversedSoftmax(g, y, out, outStride, rows, n, table)
            case (_, .halves(let format)): format.writeLogSoftmax(g, y, out, outStride, rows, n, table)
            case (_, .reversedHalves(let format)):
                format.writeReversedLogSoftmax(g, y, out, outStride, rows, n, table)
        #endif
        case (.softmax, .alternate): writeSoftmaxAlternate(g, y, out, outStride, rows, n, table)
        case (.softmax, _): writeSoftmaxReversed(g, y, out, outStride, rows, n, table)
        default:
            for r in 0..<rows {
                writeLogSoftmax(
                    OtherRow(g, r, of: rows, elements), OtherRow(y, r, of: rows, elements),
                    out + r &* outStride,
                    n, table.backwardResult(r))
            }
        }
    }

    /// A row of an input that is reversed, or every other element. Asks for what is read later: the CPU by itself hardly does downwards,
    /// and not for enough where half is skipped.
    struct OtherRow {
        let address: UnsafeRawPointer
        private let ahead: Int
        private let isReversed: Bool

        /// Row `index` of `rows`: of reversed ones the last is followed by the first that is summed next.
        @inline(__always)
        init(_ operand: Operand, _ index: Int, of rows: Int, _ elements: Elements) {
            address = operand.from(index).address
            if case .alternate = elements { isReversed = false } else { isReversed = true }
            ahead = isReversed ? rows &* operand.stride : 4096
        }

        /// A vector of the elements from `index` on, reversed ones in the order of memory.
        @inline(__always)
        func load(_ index: Int) -> Vector {
            if isReversed {
                let address = backwards(address, index, width: lanes)
                vector_prefetch(address + ahead)
                return vector_load(address)
            }
            let address = address.element(2 &* index)
            vector_prefetch(address + ahead)
            vector_prefetch(address + (ahead &+ vectorBytes))
            return loadAlternate(address)
        }

        @inline(__always)
        func loadQuad(_ index: Int) -> Quad { Quad { load(index &+ $0 &* lanes) } }

        /// The last `count` of every other element, from `index` on, and zeros.
        @inline(never)
        func loadLast(_ index: Int, _ count: Int) -> Vector {
            loadAlternate(address.element(2 &* index), count)
        }

        /// What is computed from vectors of such a row, in order.
        @inline(__always)
        func inOrder(_ vector: Vector) -> Vector { isReversed ? vector_reversed(vector) : vector }
    }

    /// Of one row: in a loop over them, constants would take the registers of what is computed.
    @inline(never)
    private func writeLogSoftmax(
        _ g: OtherRow, _ y: OtherRow, _ out: UnsafeMutableRawPointer, _ n: Int, _ result: BackwardResult
    ) {
        var i = 0
        while i &+ 4 &* lanes <= n {
            storeQuad(out.element(i), result.logSoftmax(g.loadQuad(i), y.loadQuad(i)).map(g.inOrder))
            i &+= 4 &* lanes
        }
        while i < n {
            // The last vector may begin in the one before.
            let first = min(i, n &- lanes)
            vector_store(out.element(first), g.inOrder(result(.logSoftmax, g.load(first), y.load(first))))
            i &+= lanes
        }
    }

#endif
