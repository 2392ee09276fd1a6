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
        /// So many rows on is asked for.
        let rowsAhead: Int

        /// From an element to that of the next tile.
        @inline(__always) var ahead: Int { 2 &* present }

        /// From an element of row i to the one that is asked for with it.
        @inline(__always)
        func ahead(_ i: Int) -> Int {
            RowsAhead(rowsAhead, of: n, g.stride, next: ahead).distance(i)
        }

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
                n: n, rowsAhead: n <= virtualLanes || keepsAsked(n, g.stride) ? n : 8)
            let out = out + 2 &* first
            let streams = streaming && isAligned && 2 &* present % lineBytes == 0
            if op == .softmax && areTinyGradients(n) && present >= lanes {
                let done = writeTinySoftmaxBackward(tile, out, outStride, streaming: streams)
                first &+= done
                if done < present { return first }
                continue
            }
            let areDone =
                setShortBackwardResults(op, tile, table) || setBackwardResults(op, tile, table, sums)
            if !areDone { return first }
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

    #if SWIFTMAX_AVX512
        /// The products of rows of a vector, one after another.
        private struct Products {
            private let format: HalfFormat
            private let scale: Element
            private var g: UnsafeRawPointer
            private var y: UnsafeRawPointer
            private let gStride: Int
            private let yStride: Int
            private let ahead: Int

            @inline(__always)
            init(_ tile: HalfTile, _ format: HalfFormat, _ scale: Element, _ vector: Int) {
                (self.format, self.scale, ahead) = (format, scale, tile.ahead)
                g = tile.g.address + 2 &* vector &* lanes
                y = tile.y.address + 2 &* vector &* lanes
                (gStride, yStride) = (tile.g.stride, tile.y.stride)
            }

            @inline(__always)
            mutating func add(to sum: inout LaneSum) {
                vector_prefetch(g + ahead)
                vector_prefetch(y + ahead)
                let product = format.load(g, 0, lanes) * (format.load(y, 0, lanes) * splat(scale))
                sum.add(.logSoftmax, product, product)
                g += gStride
                y += yStride
            }
        }

        /// The softmax sums of whole vectors of slices of 5 to 16 elements: of virtual lanes with a single product each, of which
        /// registers hold half, to which the other half is added.
        ///
        /// - Parameter scale: that of products in Float.
        @inline(__always)
        private func setShortSums(
            _ tile: HalfTile, _ format: HalfFormat, scale: Element, _ table: SliceTable
        ) {
            let n = tile.n
            for v in 0..<tile.vectors {
                var products = Products(tile, format, scale, v)
                var (s0, s1, s2, s3) = (LaneSum(), LaneSum(), LaneSum(), LaneSum())
                var (s4, s5, s6, s7) = (s0, s0, s0, s0)
                products.add(to: &s0)
                products.add(to: &s1)
                products.add(to: &s2)
                products.add(to: &s3)
                products.add(to: &s4)
                if n > 5 { products.add(to: &s5) }
                if n > 6 { products.add(to: &s6) }
                if n > 7 { products.add(to: &s7) }
                if n > 8 { products.add(to: &s0) }
                if n > 9 { products.add(to: &s1) }
                if n > 10 { products.add(to: &s2) }
                if n > 11 { products.add(to: &s3) }
                if n > 12 { products.add(to: &s4) }
                if n > 13 { products.add(to: &s5) }
                if n > 14 { products.add(to: &s6) }
                if n > 15 { products.add(to: &s7) }
                let lower = PairQuad(a: s0.pair, b: s1.pair, c: s2.pair, d: s3.pair)
                let upper = PairQuad(a: s4.pair, b: s5.pair, c: s6.pair, d: s7.pair)
                let sum = (lower + upper).total.scaled(by: splatWide(1 / Double(scale)))
                table.setSum(from: v &* lanes, sum)
            }
        }

        @inline(never)
        private func setShortFloat16Sums(_ tile: HalfTile, _ table: SliceTable) {
            setShortSums(tile, .float16, scale: 1, table)
        }

        @inline(never)
        private func setShortBfloat16Sums(_ tile: HalfTile, _ table: SliceTable) {
            setShortSums(tile, .bfloat16, scale: bfloatProductScale, table)
        }
    #endif

    /// As `setBackwardResults`, from registers. False too where the sum of bfloat16 is not finite for the scale alone, or where
    /// registers are not enough.
    @inline(__always)
    private func setShortBackwardResults(_ op: Operation, _ tile: HalfTile, _ table: SliceTable) -> Bool {
        #if SWIFTMAX_AVX512
            if op != .softmax || tile.present < lanes || tile.n < 5 || tile.n > virtualLanes { return false }
            if tile.format == .float16 {
                setShortFloat16Sums(tile, table)
            } else {
                setShortBfloat16Sums(tile, table)
            }
            return table.setBackwardResults(tile.present)
        #else
            return false
        #endif
    }

    /// Those of softmax are of less than a vector here: others have a way of their own.
    @inline(never)
    private func setTinyBackwardResults(_ op: Operation, _ tile: HalfTile, _ table: SliceTable) -> Bool {
        setTinyBackwardResults(op, tile.n, tile.vectors, table) { v, i in
            let (g, y) = (tile.g.from(i), tile.y.from(i))
            vector_prefetch(g.address + (tile.ahead &+ 2 &* v &* lanes))
            vector_prefetch(y.address + (tile.ahead &+ 2 &* v &* lanes))
            return (tile.load(g, v), tile.load(y, v))
        }
    }

    /// The softmax gradients of whole vectors of slices of two to four elements, from registers.
    ///
    /// - Returns: how many columns were done: all up to a vector or two with a sum that needs care.
    @inline(never)
    private func writeTinySoftmaxBackward(
        _ tile: HalfTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, streaming: Bool
    ) -> Int {
        let n = tile.n
        /// What gives the gradients of a vector.
        @inline(__always)
        func result(_ g: Quad, _ y: Quad) -> BackwardResult {
            tinyBackwardResult(.softmax, n) {
                $0 == 0 ? (g.a, y.a) : $0 == 1 ? (g.b, y.b) : $0 == 2 ? (g.c, y.c) : (g.d, y.d)
            }
        }
        /// Rows 0..<n of an input, the last again in the place of what is not there.
        @inline(__always)
        func rows<Row>(_ operand: Operand, _ load: (UnsafeRawPointer) -> Row) -> (Row, Row, Row, Row) {
            let address = operand.address
            vector_prefetch(address + tile.ahead)
            return (
                load(address), load(address + operand.stride),
                load(address + min(2, n &- 1) &* operand.stride),
                load(address + (n &- 1) &* operand.stride)
            )
        }
        var first = 0
        if tile.format == .bfloat16 {
            while first &+ 2 &* lanes <= tile.present {
                @inline(__always)
                func pairs(_ operand: Operand) -> (first: Quad, second: Quad) {
                    let (a, b, c, d) = rows(operand.moved(by: 2 &* first)) { bfloat_pairs_load($0) }
                    return (
                        Quad(
                            bfloat_pairs_first(a), bfloat_pairs_first(b), bfloat_pairs_first(c),
                            bfloat_pairs_first(d)),
                        Quad(
                            bfloat_pairs_second(a), bfloat_pairs_second(b), bfloat_pairs_second(c),
                            bfloat_pairs_second(d))
                    )
                }
                let (g, y) = (pairs(tile.g), pairs(tile.y))
                let (even, odd) = (result(g.first, y.first), result(g.second, y.second))
                if !even.isOrdinary || !odd.isOrdinary { return first }
                @inline(__always)
                func write(_ i: Int, _ gFirst: Vector, _ yFirst: Vector, _ gSecond: Vector, _ ySecond: Vector)
                {
                    let results = bfloat_pairs(
                        even(.softmax, gFirst, yFirst), odd(.softmax, gSecond, ySecond))
                    storePairs(results, out + (i &* outStride &+ 2 &* first), streaming: streaming)
                }
                write(0, g.first.a, y.first.a, g.second.a, y.second.a)
                write(1, g.first.b, y.first.b, g.second.b, y.second.b)
                if n > 2 { write(2, g.first.c, y.first.c, g.second.c, y.second.c) }
                if n > 3 { write(3, g.first.d, y.first.d, g.second.d, y.second.d) }
                first &+= 2 &* lanes
            }
        }
        while first < tile.present {
            @inline(__always)
            func quad(_ operand: Operand) -> Quad {
                let (a, b, c, d) = rows(operand.moved(by: 2 &* first)) { tile.format.load($0, 0, lanes) }
                return Quad(a, b, c, d)
            }
            let (g, y) = (quad(tile.g), quad(tile.y))
            let result = result(g, y)
            if !result.isOrdinary { return first }
            @inline(__always)
            func write(_ i: Int, _ g: Vector, _ y: Vector) {
                tile.write(
                    result(.softmax, g, y), out + (i &* outStride &+ 2 &* first), streaming: streaming)
            }
            write(0, g.a, y.a)
            write(1, g.b, y.b)
            if n > 2 { write(2, g.c, y.c) }
            if n > 3 { write(3, g.d, y.d) }
            first &+= lanes
        }
        return first
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
            let ahead = tile.ahead(i)
            for v in 0..<tile.vectors {
                vector_prefetch(g.address + (ahead &+ 2 &* v &* lanes))
                vector_prefetch(y.address + (ahead &+ 2 &* v &* lanes))
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
        var first = 0
        if tile.format == .bfloat16 {
            first = tile.vectors & ~1
            writePairs(tile, out, outStride, table, streaming: streaming)
        }
        if first == tile.vectors { return }
        for i in 0..<tile.n {
            let (g, y, row) = (tile.g.from(i), tile.y.from(i), out + i &* outStride)
            for v in first..<tile.vectors {
                let result = table.backwardResult(from: v &* lanes)
                let value = result(.softmax, tile.loadWhole(g, v), tile.loadWhole(y, v))
                tile.write(value, row + 2 &* v &* lanes, streaming: streaming)
            }
        }
    }

    /// The softmax gradients of bfloat16 of two vectors at a time, of every second column and of the others.
    @inline(never)
    private func writePairs(
        _ tile: HalfTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
        streaming: Bool
    ) {
        let pairs = tile.vectors / 2
        for pair in 0..<pairs { table.separateBackwardResults(from: 2 &* pair &* lanes) }
        for i in 0..<tile.n {
            let (g, y, row) = (tile.g.from(i).address, tile.y.from(i).address, out + i &* outStride)
            for pair in 0..<pairs {
                let (slice, offset) = (2 &* pair &* lanes, pair &* vectorBytes)
                let (g, y) = (bfloat_pairs_load(g + offset), bfloat_pairs_load(y + offset))
                let first = table.backwardResult(from: slice)(
                    .softmax, bfloat_pairs_first(g), bfloat_pairs_first(y))
                let second = table.backwardResult(from: slice &+ lanes)(
                    .softmax, bfloat_pairs_second(g), bfloat_pairs_second(y))
                storePairs(bfloat_pairs(first, second), row + offset, streaming: streaming)
            }
        }
    }

    @inline(__always)
    private func storePairs(
        _ pairs: swiftmax_bits, _ target: UnsafeMutableRawPointer, streaming: Bool
    ) {
        if streaming { bfloat_pairs_stream(target, pairs) } else { bfloat_pairs_store(target, pairs) }
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
        let arePairs = tile.format == .bfloat16 && tile.vectors % 2 == 0
        while !places.isEmpty {
            let a = places.next(table)
            let b = places.isEmpty ? a : places.next(table)
            let isLast = places.isEmpty
            let c = places.isEmpty ? b : places.next(table)
            let d = places.isEmpty ? c : places.next(table)
            let four = BackwardResult.logSoftmax(
                Quad(a.g, b.g, c.g, d.g), Quad(a.y, b.y, c.y, d.y),
                sum: Quad(a.result.sum, b.result.sum, c.result.sum, d.result.sum),
                sumLow: Quad(a.result.sumLow, b.result.sumLow, c.result.sumLow, d.result.sumLow))
            if arePairs {
                HalfFormat.bfloat16.storeTwo(a.out, 0, four.a, four.b, streams: streaming)
                if !isLast { HalfFormat.bfloat16.storeTwo(c.out, 0, four.c, four.d, streams: streaming) }
                continue
            }
            tile.write(four.a, a.out, streaming: streaming)
            tile.write(four.b, b.out, streaming: streaming)
            tile.write(four.c, c.out, streaming: streaming)
            tile.write(four.d, d.out, streaming: streaming)
        }
    }

#endif
