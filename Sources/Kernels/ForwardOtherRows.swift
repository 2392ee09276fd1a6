// Forward functions of rows that are not elements of this module's type in order: of 16 bits, reversed, or every other one; and
// of rows with a mask.
//
// A batch of rows is copied in order, as elements of this type, in one pass with their maxima; rows with a mask that are in order
// with their mask, others once more. From there on their stats are those of ForwardRows.swift.

#if SWIFTMAX_AVX2 || SWIFTMAX_AVX512

    import CKernels
    import CVector

    /// The forward operation on rows of at least a vector; those longer than a block are of 16 bits, and have no mask, as no others of
    /// 16 bits do.
    ///
    /// - Parameter room: where the tails of the exponentials of a row longer than a block may be kept, if it holds them.
    /// - Returns: how many were done: all up to a row longer than a block whose logsumexp is next to 0.
    @inline(never)
    func forwardOtherRows(
        _ op: Operation, _ elements: Elements, _ x: Operand, _ mask: Mask?, _ out: UnsafeMutableRawPointer,
        _ outStride: Int, _ rows: Int, _ n: Int, _ scratch: Scratch, room: UnsafeMutableRawPointer?,
        streaming: Bool, far: Bool
    ) -> Int {
        let table = scratch.table
        let streaming = streaming && (elements.resultBytes == 2 || SharedLines.areStreamed(out, outStride, n))
        let areAlternate = if case .alternate = elements { true } else { false }
        let areNear =
            elements.resultBytes > 2
            && (streaming || elementBytes == 4 && op == .softmax && !(areAlternate && tailsFitResults(n)))
        let step = n <= block ? rowBatch(n, areNear: areNear) : 1
        let paddedBytes = (n &+ lanes &- 1) / lanes &* vectorBytes
        var first = 0
        while first < rows {
            let count = min(step, rows &- first)
            let (source, target) = (x.from(first), out + first &* outStride)
            var row = RowBatch(x: source.address, stride: x.stride, first: 0, count: count, n: n)
            if far || n >= leastAsked {
                row.asked = elements.asked(
                    source, n, target, step, outStride, streaming: streaming || op == .logsumexp)
            }
            #if SWIFTMAX_FLOAT32
                if n > block, case .halves(let format) = elements {
                    if !format.forwardLongRow(op, row, target, scratch, room: room, streaming: streaming) {
                        return first
                    }
                    first &+= 1
                    continue
                }
            #endif
            var copied = RowBatch(x: scratch.wideRows, stride: paddedBytes, first: 0, count: count, n: n)
            let areOwn = if case .own = elements { true } else { false }
            if !areOwn { elements.copy(row, to: scratch.wideRows, paddedBytes, table) }
            if let mask {
                mask.moved(by: first &* mask.stride)
                    .copy(areOwn ? row : copied, to: scratch.wideRows, paddedBytes, table)
            }
            copied.asked = row.asked
            let tails =
                elements.resultBytes == 2 || streaming || !tailsFitResults(n)
                ? RowTails(address: scratch.rowTails, stride: paddedBytes, isPadded: true)
                : RowTails(address: target, stride: outStride, isPadded: false)
            _ = rowStats(op.sumKind, copied, scratch, tails)
            table.setResults(op, count)
            #if SWIFTMAX_FLOAT32
                if case .halves(let format) = elements {
                    format.write(op, row, copied, target, outStride, tails, scratch, streaming: streaming)
                    first &+= count
                    continue
                }
            #endif
            let shared = SharedLines(
                room: scratch.row, areBegun: first > 0, areContinued: first &+ count < rows)
            write(op, tails, copied, target, outStride, scratch, streaming: streaming, shared)
            first &+= count
        }
        return first
    }

    extension Elements {
        /// The rows after a batch of `step`, or the elements two blocks on.
        @inline(__always)
        fileprivate func asked(
            _ x: Operand, _ n: Int, _ out: UnsafeMutableRawPointer, _ step: Int, _ outStride: Int,
            streaming: Bool
        ) -> Asked {
            let isLong = n > block
            let ahead = isLong ? 2 &* block &* stride : step &* x.stride
            if case .alternate = self {
                // Twice as many lines as it has elements.
                return Asked(
                    swiftmax_next(address: x.address + ahead, row_stride: x.stride, column_stride: stride))
            }
            let results = streaming ? nil : out + (isLong ? ahead : step &* outStride)
            return Asked(x.address + ahead, rowStride: x.stride, stride: stride, results: results)
        }

        /// Copies rows of at most one block in order, `stride` bytes apart; sets their maxima in the table.
        @inline(never)
        @_optimize(speed)
        func copy(
            _ rows: RowBatch, to copies: UnsafeMutableRawPointer, _ stride: Int, _ table: SliceTable
        ) {
            /// - Parameter copyLast: copies what is left of a row from `i` on, and returns it, among others of the row or -inf.
            @inline(__always)
            func each(
                _ load: (_ row: UnsafeRawPointer, _ i: Int) -> Vector,
                copyLast: (_ row: UnsafeRawPointer, _ copy: UnsafeMutableRawPointer, _ i: Int) -> Vector
            ) {
                for r in 0..<rows.count {
                    let (row, copy) = (rows.row(r), copies + r &* stride)
                    var largest = Quad(repeating: splat(-.infinity))
                    var i = 0
                    while i &+ 4 &* lanes <= rows.n {
                        let four = Quad { load(row, i &+ $0 &* lanes) }
                        largest = largest.map(four, maximum)
                        storeQuad(copy.element(i), four)
                        i &+= 4 &* lanes
                    }
                    while i &+ lanes <= rows.n {
                        let value = load(row, i)
                        largest.a = maximum(largest.a, value)
                        vector_store(copy.element(i), value)
                        i &+= lanes
                    }
                    if i < rows.n { largest.b = maximum(largest.b, copyLast(row, copy, i)) }
                    let (a, b) = (maximum(largest.a, largest.b), maximum(largest.c, largest.d))
                    table.setMax(r, vector_largest(maximum(a, b)))
                }
            }
            /// With the elements before them, as a row has a vector of them.
            @inline(__always)
            func eachReordered(_ load: (_ row: UnsafeRawPointer, _ i: Int) -> Vector) {
                each(load) { row, copy, _ in
                    let value = load(row, rows.n &- lanes)
                    vector_store(copy.element(rows.n &- lanes), value)
                    return value
                }
            }
            @inline(__always)
            func reversed(_ row: UnsafeRawPointer, _ i: Int) -> Vector {
                vector_reversed(vector_load(row + (1 &- i &- lanes) &* elementBytes))
            }
            @inline(__always)
            func alternate(_ row: UnsafeRawPointer, _ i: Int) -> Vector { loadAlternate(row.element(2 &* i)) }
            #if SWIFTMAX_FLOAT32
                /// The last block of a long row may be less than a vector.
                @inline(__always)
                func eachWidened(_ format: HalfFormat) {
                    each {
                        format.load($0, $1, lanes)
                    } copyLast: { row, copy, i in
                        let count = rows.n &- i
                        vector_store(copy.element(i), format.loadLast(row, i, count))
                        return vector_load_partial(copy.element(i), count, splat(-.infinity))
                    }
                }
            #endif
            switch self {
            case .reversed: eachReordered(reversed)
            // No own ones come here.
            case .own, .alternate: eachReordered(alternate)
            #if SWIFTMAX_FLOAT32
                // With a constant each, as a copy does little else.
                case .halves(.float16): eachWidened(.float16)
                // Reversed ones have been put in order.
                case .halves, .reversedHalves: eachWidened(.bfloat16)
            #endif
            }
        }
    }

    /// Rows as long as this are asked for wherever they are.
    @inline(__always) private var leastAsked: Int { 256 }

#endif
