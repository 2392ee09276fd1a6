// Gradients of columns of 16-bit elements, read and written as they are.
//
// The arithmetic of a column is that of BackwardColumns.swift to the bit, with its elements as floats; results are rounded once.

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)

    import CKernels
    import CVector

    /// Some columns side by side: whole vectors, or a part of one.
    private struct HalfTile {
        let format: HalfFormat
        let g: Operand
        let y: Operand
        /// Columns.
        let present: Int
        let n: Int
        /// From an element to the one that is asked for with it.
        let ahead: Int

        @inline(__always) var vectors: Int { max(1, present / lanes) }
        @inline(__always) var count: Int { min(lanes, present) }

        @inline(__always)
        func load(_ row: Operand, _ vector: Int) -> Vector {
            format.load(row.address, vector &* lanes, count)
        }

        /// The same of whole vectors.
        @inline(__always)
        func loadWhole(_ row: Operand, _ vector: Int) -> Vector {
            format.load(row.address, vector &* lanes, lanes)
        }
    }

    /// The backward operation on `columns` slices, a tile at a time.
    ///
    /// - Returns: how many were done: all up to a tile with a sum that needs care.
    func backwardHalfColumns(
        _ op: Operation, _ format: HalfFormat, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer,
        _ outStride: Int, _ columns: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
    ) -> Int {
        let table = scratch.table
        let sums = scratch.columnLaneSums.assumingMemoryBound(to: LaneSum.self)
        let isAligned = (Int(bitPattern: out) | outStride) & (lineBytes &- 1) == 0
        var first = 0
        while first < columns {
            let left = columns &- first
            let present = left < lanes ? left : min(tileVectors &* lanes, left / lanes &* lanes)
            let tile = HalfTile(
                format: format, g: g.moved(by: 2 &* first), y: y.moved(by: 2 &* first), present: present,
                n: n, ahead: keepsAsked(n, g.stride) ? 2 &* present : 8 &* g.stride)
            if !setBackwardResults(op, tile, table, sums) { return first }
            let out = out + 2 &* first
            let streams = streaming && isAligned && 2 &* present % lineBytes == 0
            if op == .softmax {
                writeSoftmaxBackward(tile, out, outStride, table, streaming: streams)
            } else {
                writeLogSoftmaxBackward(tile, out, outStride, table, streaming: streams)
            }
            first &+= present
        }
        return columns
    }

    /// Sets what gives the gradients of a tile. False where one needs care.
    @inline(__always)
    private func setBackwardResults(
        _ op: Operation, _ tile: HalfTile, _ table: SliceTable, _ sums: UnsafeMutablePointer<LaneSum>
    ) -> Bool {
        if areTinyGradients(tile.n) { return setTinyBackwardResults(op, tile, table) }
        var start = 0
        while start < tile.n {
            let end = min(tile.n, start &+ block)
            if op == .softmax {
                softmaxBackwardSum(tile, start, end, sums)
            } else {
                logSoftmaxBackwardSum(tile, start, end, sums)
            }
            for v in 0..<tile.vectors {
                let slice = v &* lanes
                let sum = sumOfLanes(sums + v, min(end &- start, virtualLanes), step: tile.vectors)
                table.setSum(from: slice, start == 0 ? sum : (table.sum(from: slice) + sum).normalized)
            }
            start = end
        }
        return table.setBackwardResults(tile.present)
    }

    @inline(never)
    private func setTinyBackwardResults(_ op: Operation, _ tile: HalfTile, _ table: SliceTable) -> Bool {
        @inline(__always)
        func set(_ op: Operation, _ load: (_ row: Operand, _ vector: Int) -> Vector) -> Bool {
            setTinyBackwardResults(op, tile.n, tile.vectors, table) { v, i in
                let (g, y) = (tile.g.from(i), tile.y.from(i))
                vector_prefetch(g.address + (tile.ahead &+ 2 &* v &* lanes))
                vector_prefetch(y.address + (tile.ahead &+ 2 &* v &* lanes))
                return (load(g, v), load(y, v))
            }
        }
        return op == .softmax && tile.present >= lanes ? set(.softmax, tile.loadWhole) : set(op, tile.load)
    }

    /// As `sumBlock`, of the elements first..<end of a tile.
    @inline(__always)
    private func sum(
        _ op: Operation, _ tile: HalfTile, _ first: Int, _ end: Int, _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        @inline(__always)
        func addRow(_ i: Int, _ load: (_ row: Operand, _ vector: Int) -> Vector) {
            let own = sums + i & (virtualLanes &- 1) &* tile.vectors
            let (g, y) = (tile.g.from(i), tile.y.from(i))
            for v in 0..<tile.vectors {
                vector_prefetch(g.address + (tile.ahead &+ 2 &* v &* lanes))
                vector_prefetch(y.address + (tile.ahead &+ 2 &* v &* lanes))
                var sum = i &- first < virtualLanes ? LaneSum() : own[v]
                let term = load(g, v)
                sum.add(op, term, op == .softmax ? load(y, v) : term)
                own[v] = sum
            }
        }
        if tile.present < lanes {
            for i in first..<end { addRow(i, tile.load) }
        } else {
            for i in first..<end { addRow(i, tile.loadWhole) }
        }
    }

    @inline(never)
    private func softmaxBackwardSum(
        _ tile: HalfTile, _ first: Int, _ end: Int, _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        sum(.softmax, tile, first, end, sums)
    }

    @inline(never)
    private func logSoftmaxBackwardSum(
        _ tile: HalfTile, _ first: Int, _ end: Int, _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        sum(.logSoftmax, tile, first, end, sums)
    }

    /// Where the whole vectors of a tile are, along its rows.
    private struct HalfPlaces {
        let tile: HalfTile
        let out: UnsafeMutableRawPointer
        let outStride: Int
        private var row = 0
        private var vector = 0

        struct Place {
            let g: Vector
            let y: Vector
            let out: UnsafeMutableRawPointer
            let result: BackwardResult
        }

        @inline(__always)
        init(_ tile: HalfTile, _ out: UnsafeMutableRawPointer, _ outStride: Int) {
            (self.tile, self.out, self.outStride) = (tile, out, outStride)
        }

        @inline(__always) var isEmpty: Bool { row == tile.n }

        @inline(__always)
        mutating func next(_ table: SliceTable) -> Place {
            let place = Place(
                g: tile.loadWhole(tile.g.from(row), vector), y: tile.loadWhole(tile.y.from(row), vector),
                out: out + (row &* outStride &+ 2 &* vector &* lanes),
                result: table.backwardResult(from: vector &* lanes))
            vector &+= 1
            if vector == tile.vectors { (row, vector) = (row &+ 1, 0) }
            return place
        }
    }

    extension HalfTile {
        @inline(__always)
        fileprivate func write(_ value: Vector, _ target: UnsafeMutableRawPointer, streaming: Bool) {
            let halves = format.narrow(value)
            if streaming { halves_stream(target, halves) } else { halves_store(target, halves) }
        }

        /// Writes the results of columns that are less than a vector.
        @inline(__always)
        fileprivate func writePart(
            _ op: Operation, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ result: BackwardResult
        ) {
            for i in 0..<n {
                let value = result(op, load(g.from(i), 0), load(y.from(i), 0))
                halves_store_partial(out + i &* outStride, format.narrow(value), present)
            }
        }
    }

    @inline(never)
    private func writeSoftmaxBackward(
        _ tile: HalfTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
        streaming: Bool
    ) {
        if tile.present < lanes {
            return tile.writePart(.softmax, out, outStride, table.backwardResult(from: 0))
        }
        for i in 0..<tile.n {
            let (g, y, row) = (tile.g.from(i), tile.y.from(i), out + i &* outStride)
            for v in 0..<tile.vectors {
                let result = table.backwardResult(from: v &* lanes)
                let value = result(.softmax, tile.loadWhole(g, v), tile.loadWhole(y, v))
                tile.write(value, row + 2 &* v &* lanes, streaming: streaming)
            }
        }
    }

    /// Four vectors are computed side by side, the last repeated at the end, as each step of an exponential waits for the one before.
    @inline(never)
    private func writeLogSoftmaxBackward(
        _ tile: HalfTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
        streaming: Bool
    ) {
        if tile.present < lanes {
            return tile.writePart(.logSoftmax, out, outStride, table.backwardResult(from: 0))
        }
        var places = HalfPlaces(tile, out, outStride)
        while !places.isEmpty {
            let a = places.next(table)
            let b = places.isEmpty ? a : places.next(table)
            let c = places.isEmpty ? b : places.next(table)
            let d = places.isEmpty ? c : places.next(table)
            let four = BackwardResult.logSoftmax(
                Quad(a.g, b.g, c.g, d.g), Quad(a.y, b.y, c.y, d.y),
                sum: Quad(a.result.sum, b.result.sum, c.result.sum, d.result.sum),
                sumLow: Quad(a.result.sumLow, b.result.sumLow, c.result.sumLow, d.result.sumLow))
            tile.write(four.a, a.out, streaming: streaming)
            tile.write(four.b, b.out, streaming: streaming)
            tile.write(four.c, c.out, streaming: streaming)
            tile.write(four.d, d.out, streaming: streaming)
        }
    }

#endif
