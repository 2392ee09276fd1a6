// Sums of the gradients of slices that lie side by side, from registers: they need not be loaded and stored with each element, as
// those of a tile do (BackwardColumnSums.swift). In the same order, that of `sumOfLanes`.

import CKernels
import CVector

#if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
    // 16 registers hold the sums of the virtual lanes of one vector that are four apart. They belong together in `sumOfLanes`,
    // whose quads are added up before their members are.

    @inline(__always)
    private func sumOfFours(_ fourApart: (_ lane: Int) -> Wide) -> Pair {
        let even = fourApart(0) + fourApart(2)
        return Pair(high: even + (fourApart(1) + fourApart(3)), low: splatWide(0))
    }

    @inline(__always)
    private func add(_ i: Int, _ g: Operand, _ y: Operand, _ sum: inout LaneSum) {
        sum.add(.softmax, vector_load(g.from(i).address), vector_load(y.from(i).address))
    }

    /// The softmax sum of a vector of slices no longer than there are virtual lanes.
    @inline(__always)
    func shortRegisterSum(_ g: Operand, _ y: Operand, _ n: Int) -> Pair {
        // Products are exact, and need not be sums of their own before they are added.
        sumOfFours { lane in
            var (a, b) = (LaneSum(), LaneSum())
            if lane < n { add(lane, g, y, &a) }
            if n <= 8 {
                if lane &+ 4 < n { add(lane &+ 4, g, y, &a) }
                return a.high
            }
            add(lane &+ 4, g, y, &b)
            if lane &+ 8 < n { add(lane &+ 8, g, y, &a) }
            if lane &+ 12 < n { add(lane &+ 12, g, y, &b) }
            return a.high + b.high
        }
    }

    /// The softmax sum of a vector of longer ones.
    @inline(__always)
    func longRegisterSum(_ g: Operand, _ y: Operand, _ n: Int, _ scratch: Scratch) -> Pair {
        sumOfFours { lane in
            var (a, b, c, d) = (LaneSum(), LaneSum(), LaneSum(), LaneSum())
            var i = lane
            while i &+ 12 < n {
                add(i, g, y, &a)
                add(i &+ 4, g, y, &b)
                add(i &+ 8, g, y, &c)
                add(i &+ 12, g, y, &d)
                i &+= virtualLanes
            }
            if i < n { add(i, g, y, &a) }
            if i &+ 4 < n { add(i &+ 4, g, y, &b) }
            if i &+ 8 < n { add(i &+ 8, g, y, &c) }
            return (a.high + c.high) + (b.high + d.high)
        }
    }
#endif

/// With AVX-512 the softmax sums of a tile of floats are taken from registers if its slices are longer than this.
@inline(__always) var longestFromMemory: Int { virtualLanes / 2 }

/// Up to so many elements by virtual lanes that are four apart.
@inline(__always) var longestOfTwoToALane: Int { 2 &* virtualLanes }

#if SWIFTMAX_FLOAT64 && SWIFTMAX_AVX512
    /// The rows of a vector of slices, one after another.
    private struct GradientRows {
        private var g: UnsafeRawPointer
        private var y: UnsafeRawPointer
        private let gStride: Int
        private let yStride: Int

        @inline(__always)
        init(_ g: Operand, _ y: Operand) {
            (self.g, self.y, gStride, yStride) = (g.address, y.address, g.stride, y.stride)
        }

        @inline(__always)
        private mutating func next() -> (g: Vector, y: Vector) {
            let elements = (vector_load(g), vector_load(y))
            g += gStride
            y += yStride
            return elements
        }

        @inline(__always)
        mutating func first() -> LaneSum {
            let (g, y) = next()
            return LaneSum(.softmax, g, y)
        }

        @inline(__always)
        mutating func add(to sum: inout LaneSum) {
            let (g, y) = next()
            sum.add(.softmax, g, y)
        }
    }

    /// The softmax sum of a vector of slices longer than there are virtual lanes, of which 32 registers hold all.
    @inline(never)
    @_optimize(speed)
    func longRegisterSum(_ g: Operand, _ y: Operand, _ n: Int, _ scratch: Scratch) -> Pair {
        var rows = GradientRows(g, y)
        var (s0, s1, s2, s3) = (rows.first(), rows.first(), rows.first(), rows.first())
        var (s4, s5, s6, s7) = (rows.first(), rows.first(), rows.first(), rows.first())
        var left = n &- virtualLanes
        while left >= virtualLanes {
            rows.add(to: &s0)
            rows.add(to: &s1)
            rows.add(to: &s2)
            rows.add(to: &s3)
            rows.add(to: &s4)
            rows.add(to: &s5)
            rows.add(to: &s6)
            rows.add(to: &s7)
            left &-= virtualLanes
        }
        if left > 0 { rows.add(to: &s0) }
        if left > 1 { rows.add(to: &s1) }
        if left > 2 { rows.add(to: &s2) }
        if left > 3 { rows.add(to: &s3) }
        if left > 4 { rows.add(to: &s4) }
        if left > 5 { rows.add(to: &s5) }
        if left > 6 { rows.add(to: &s6) }
        let lower = PairQuad(a: s0.pair, b: s1.pair, c: s2.pair, d: s3.pair)
        let upper = PairQuad(a: s4.pair, b: s5.pair, c: s6.pair, d: s7.pair)
        return (lower + upper).total
    }

    /// Whether the softmax sums of a tile are taken from registers: where its rows do not share sets of the first cache, and if they are
    /// short begin with lines, as others are better read as far as the tile goes.
    func areTakenFromRegisters(_ tile: GradientTile) -> Bool {
        let stride = tile.g.stride
        return tile.present >= lanes && tile.n > virtualLanes && tile.n <= 160
            && spacing(of: stride, way: 4096) <= 128 && (stride % lineBytes == 0 || stride >= 1024)
    }

    /// The softmax sums of a tile, for `table` from `first` on.
    @inline(never)
    func setSoftmaxBackwardSums(
        _ tile: GradientTile, _ table: SliceTable, _ first: Int, _ scratch: Scratch
    ) {
        for v in 0..<tile.vectors {
            let vector = tile.columns(v &* lanes, lanes)
            table.setSum(
                from: first &+ v &* lanes, longRegisterSum(vector.g, vector.y, tile.n, scratch))
        }
    }
#endif

#if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
    // 32 registers hold the sums of a few virtual lanes of one vector or two. The third quad of `sumOfLanes` is added to the first,
    // and the fourth to the second.

    /// The softmax sum of a vector of slices longer than there are virtual lanes.
    @inline(__always)
    func longRegisterSum(_ g: Operand, _ y: Operand, _ n: Int, _ scratch: Scratch) -> Pair {
        let sums = scratch.columnLaneSums.assumingMemoryBound(to: LaneSum.self)
        setSoftmaxBackwardSum(g, y, n, scratch.table, 0, sums)
        return scratch.table.sum(from: 0)
    }

    /// The same, for `table` from `first` on.
    @inline(never)
    @_optimize(speed)
    private func setSoftmaxBackwardSum(
        _ g: Operand, _ y: Operand, _ n: Int, _ table: SliceTable, _ first: Int,
        _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        let whole = n & ~(virtualLanes &- 1)
        @inline(__always)
        func quad(_ lane: Int) -> PairQuad {
            @inline(__always)
            func add(_ i: Int, _ sum: inout LaneSum) {
                sum.add(.softmax, vector_load(g.from(i).address), vector_load(y.from(i).address))
            }
            var (a, b, c, d) = (LaneSum(), LaneSum(), LaneSum(), LaneSum())
            var i = lane
            while i < whole {
                add(i, &a)
                add(i &+ 1, &b)
                add(i &+ 2, &c)
                add(i &+ 3, &d)
                i &+= virtualLanes
            }
            if i < n { add(i, &a) }
            if i &+ 1 < n { add(i &+ 1, &b) }
            if i &+ 2 < n { add(i &+ 2, &c) }
            if i &+ 3 < n { add(i &+ 3, &d) }
            return PairQuad(a: a.pair, b: b.pair, c: c.pair, d: d.pair)
        }
        for half in 0..<2 {
            let own = quad(4 &* half)
            let two = own + quad(4 &* half &+ 8)
            if half == 0 {
                (sums[0], sums[1]) = (LaneSum(two.a), LaneSum(two.b))
                (sums[2], sums[3]) = (LaneSum(two.c), LaneSum(two.d))
            } else {
                let others = PairQuad(a: sums[0].pair, b: sums[1].pair, c: sums[2].pair, d: sums[3].pair)
                table.setSum(from: first, (others + two).total)
            }
        }
    }
#endif

#if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
    /// Whether the softmax sums of a tile are taken from registers: not where there are several blocks, nor where its rows are
    /// far away and many, or a page or more apart, or many that are multiples of a page apart, as they are better read as far as
    /// the tile goes then.
    func areTakenFromRegisters(_ tile: GradientTile) -> Bool {
        tile.vectors > 1 && tile.n > longestFromMemory && tile.n <= block
            && (tile.n <= longestOfTwoToALane || tile.g.stride & 4095 != 0)
            && (!tile.far || tile.n <= 512 && tile.g.stride < 4096)
    }

    /// The softmax sums of a tile, for `table` from `first` on: of two vectors at a time four virtual lanes, and of the vectors beside
    /// them before the next lanes, as the CPU reads ahead along a row.
    ///
    /// These are four lanes apart where there are no more than two elements of each, as what belongs together in `sumOfLanes` then is
    /// added up at once. Of more elements so far apart too many would share the sets of the first cache.
    @inline(never)
    @_optimize(speed)
    func setSoftmaxBackwardSums(
        _ tile: GradientTile, _ table: SliceTable, _ first: Int, _ scratch: Scratch
    ) {
        let sums = scratch.columnLaneSums.assumingMemoryBound(to: LaneSum.self)
        let (n, vectors) = (tile.n, tile.vectors)
        let (gStride, yStride) = (tile.g.stride, tile.y.stride)
        let whole = n & ~(virtualLanes &- 1)
        let areFew = n <= longestOfTwoToALane
        let apart = areFew ? 4 : 1
        for step in 0..<4 {
            let (half, isLater) = (step &>> 1, step & 1 == 1)
            let lane = areFew ? step : 4 &* half &+ (isLater ? 8 : 0)
            for pair in 0..<vectors / 2 {
                let offset = 2 &* pair &* vectorBytes
                let (g, y) = (tile.g.from(lane).address + offset, tile.y.from(lane).address + offset)
                var (a, b, c, d) = (LaneSum(), LaneSum(), LaneSum(), LaneSum())
                var (nextA, nextB, nextC, nextD) = (a, b, c, d)
                @inline(__always)
                func add(_ i: Int, _ sum: inout LaneSum, _ next: inout LaneSum) {
                    let (g, y) = (g + i &* gStride, y + i &* yStride)
                    sum.add(.softmax, vector_load(g), vector_load(y))
                    next.add(.softmax, vector_load(g + vectorBytes), vector_load(y + vectorBytes))
                }
                var i = 0
                while i < whole {
                    add(i, &a, &nextA)
                    add(i &+ apart, &b, &nextB)
                    add(i &+ 2 &* apart, &c, &nextC)
                    add(i &+ 3 &* apart, &d, &nextD)
                    i &+= virtualLanes
                }
                let left = n &- lane
                if i < left { add(i, &a, &nextA) }
                if i &+ apart < left { add(i &+ apart, &b, &nextB) }
                if i &+ 2 &* apart < left { add(i &+ 2 &* apart, &c, &nextC) }
                if i &+ 3 &* apart < left { add(i &+ 3 &* apart, &d, &nextD) }
                if areFew {
                    let own = sums + (8 &* pair &+ step)
                    own[0].high = (a.high + c.high) + (b.high + d.high)
                    own[4].high = (nextA.high + nextC.high) + (nextB.high + nextD.high)
                    continue
                }
                let own = sums + (16 &* pair &+ 8 &* half)
                if isLater {
                    a.high += own[0].high
                    b.high += own[1].high
                    c.high += own[2].high
                    d.high += own[3].high
                    nextA.high += own[4].high
                    nextB.high += own[5].high
                    nextC.high += own[6].high
                    nextD.high += own[7].high
                }
                (own[0], own[1], own[2], own[3]) = (a, b, c, d)
                (own[4], own[5], own[6], own[7]) = (nextA, nextB, nextC, nextD)
            }
        }
        for v in 0..<vectors & ~1 {
            let own = sums + (areFew ? 4 &* v : 16 &* (v / 2) &+ 4 &* (v & 1))
            @inline(__always)
            func pair(_ i: Int) -> Pair { areFew ? own[i].pair : own[i].pair + own[i &+ 8].pair }
            let quad = PairQuad(a: pair(0), b: pair(1), c: pair(2), d: pair(3))
            table.setSum(from: first &+ v &* lanes, quad.total)
        }
        if vectors & 1 == 1 {
            let last = (vectors &- 1) &* lanes
            let alone = tile.columns(last, lanes)
            setSoftmaxBackwardSum(alone.g, alone.y, n, table, first &+ last, sums)
        }
    }
#endif
