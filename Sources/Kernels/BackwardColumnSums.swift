// The sums of the gradients of slices that lie side by side, a tile of columns at a time.

import CKernels
import CVector

/// The two inputs of some columns side by side: whole vectors, or a part of one; of rows that are written as a whole both.
struct GradientTile {
    let g: Operand
    let y: Operand
    /// Columns.
    let present: Int
    let n: Int
    /// From an element to the one that is asked for with it, as rows are too short for the CPU to read ahead by itself: in
    /// the next panel; or, of a panel too tall to wait in a cache, some rows on. 0 where none is worth asking for.
    let ahead: Int
    /// Whether the inputs are not found in the second cache.
    let far: Bool
    /// Whether g and y are asked for with the sums and the results, or only g with those and y with these, which is enough
    /// for panels that are close.
    let asksForBoth: Bool

    @inline(__always) var vectors: Int { max(1, present / lanes) }

    /// `count` of its columns from `first` on.
    @inline(__always)
    func columns(_ first: Int, _ count: Int) -> GradientTile {
        GradientTile(
            g: g.moved(by: first &* elementBytes), y: y.moved(by: first &* elementBytes), present: count,
            n: n, ahead: ahead, far: far, asksForBoth: asksForBoth)
    }

    /// The elements from `first` on.
    @inline(__always)
    func from(_ first: Int) -> GradientTile {
        GradientTile(
            g: g.from(first), y: y.from(first), present: present, n: n &- first, ahead: ahead, far: far,
            asksForBoth: asksForBoth)
    }
}

// MARK: Sums

/// Sums the first block of a tile of `vectors` vectors with `present` columns each. Leaves the sum of lane k of vector v at
/// k * `vectors` + v. For log_softmax y is not read, as its results alone need it.
@inline(__always)
func sumBlock(
    _ op: Operation, _ tile: GradientTile, _ vectors: Int, _ present: Int,
    _ sums: UnsafeMutablePointer<LaneSum>
) {
    let n = min(block, tile.n)
    @inline(__always)
    func addRow(_ i: Int, isFirst: Bool) {
        let own = sums + i & (virtualLanes &- 1) &* vectors
        for v in 0..<vectors {
            let g = tile.g.from(i).address + v &* vectorBytes
            let y = tile.y.from(i).address + v &* vectorBytes
            vector_prefetch(g + tile.ahead)
            if op == .softmax && tile.asksForBoth { vector_prefetch(y + tile.ahead) }
            let term = load(g, present)
            let factor = op == .softmax ? load(y, present) : term
            var sum = isFirst ? LaneSum() : own[v]
            sum.add(op, term, factor)
            own[v] = sum
        }
    }
    let used = min(n, virtualLanes)
    for i in 0..<used { addRow(i, isFirst: true) }
    var i = used
    while i < n {
        addRow(i, isFirst: false)
        i &+= 1
    }
}

/// Longer columns gain nothing from two elements of a virtual lane at once. For a CPU as old as the baseline it is not worth the
/// size.
private var longestInPairs: Int {
    #if SWIFTMAX_BASELINE && arch(x86_64)
        return 0
    #else
        return 512
    #endif
}

/// As `sumBlock`, of more elements than there are virtual lanes: two of a lane at once, whose sum is loaded and stored once
/// for both.
@inline(__always)
private func sumPairs(_ op: Operation, _ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>) {
    // Taken out of the tile, as it would be read again after each store.
    let (n, vectors, ahead, asksForBoth) = (tile.n, tile.vectors, tile.ahead, tile.asksForBoth)
    let (gStride, yStride) = (tile.g.stride, tile.y.stride)
    let (gPair, yPair) = (virtualLanes &* gStride, virtualLanes &* yStride)
    var (g, y) = (tile.g.address, tile.y.address)
    var left = n
    while left > 0 {
        let isFirst = left == n
        var own = sums
        for lane in 0..<min(left, virtualLanes) {
            let isPair = lane &+ virtualLanes < left
            for v in 0..<vectors {
                var sum = isFirst ? LaneSum() : own[v]
                @inline(__always)
                func add(_ g: UnsafeRawPointer, _ y: UnsafeRawPointer) {
                    vector_prefetch(g + ahead)
                    if op == .softmax && asksForBoth { vector_prefetch(y + ahead) }
                    sum.add(op, vector_load(g), vector_load(y))
                }
                let offset = v &* vectorBytes
                add(g + offset, y + offset)
                if isPair { add(g + (gPair &+ offset), y + (yPair &+ offset)) }
                own[v] = sum
            }
            own += vectors
            g += gStride
            y += yStride
        }
        g += gPair
        y += yPair
        left &-= 2 &* virtualLanes
    }
}

@inline(__always)
func sumBlock(
    _ op: Operation, _ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>
) {
    if tile.present < lanes {
        sumBlock(op, tile, 1, tile.present, sums)
    } else if tile.n > virtualLanes && tile.n <= longestInPairs {
        sumPairs(op, tile, sums)
    } else {
        sumBlock(op, tile, tile.vectors, lanes, sums)
    }
}

@inline(never)
@_optimize(speed)
func softmaxBackwardSum(_ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>) {
    sumBlock(.softmax, tile, sums)
}

@inline(never)
@_optimize(speed)
func logSoftmaxBackwardSum(_ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>) {
    sumBlock(.logSoftmax, tile, sums)
}

/// The sum of a vector of slices no longer than there are virtual lanes, `ahead` bytes from the one asked for (of softmax 0
/// for none).
@inline(__always)
func shortSum(_ op: Operation, _ g: Operand, _ y: Operand, _ n: Int, ahead: Int) -> Pair {
    #if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
        return inlinedShortSum(op, g, y, n, ahead: ahead)
    #else
        // A call takes less room, and costs little beside a sum in twice the precision.
        return op == .softmax
            ? shortSoftmaxBackwardSum(g, y, n, ahead: ahead) : shortLogSoftmaxBackwardSum(g, n, ahead: ahead)
    #endif
}

@inline(__always)
private func inlinedShortSum(_ op: Operation, _ g: Operand, _ y: Operand, _ n: Int, ahead: Int) -> Pair {
    @inline(__always)
    func term(_ i: Int) -> Pair {
        let (g, y) = (g.from(i).address, y.from(i).address)
        if op == .logSoftmax || ahead != 0 { vector_prefetch(g + ahead) }
        var sum = LaneSum()
        sum.add(op, vector_load(g), vector_load(y))
        return sum.pair
    }
    return sumOfLanes(n) {
        term($0)
    } four: {
        PairQuad(a: term($0), b: term($0 &+ 1), c: term($0 &+ 2), d: term($0 &+ 3))
    }
}

#if SWIFTMAX_FLOAT64 || SWIFTMAX_BASELINE
    @inline(never)
    func shortSoftmaxBackwardSum(_ g: Operand, _ y: Operand, _ n: Int, ahead: Int) -> Pair {
        inlinedShortSum(.softmax, g, y, n, ahead: ahead)
    }

    @inline(never)
    func shortLogSoftmaxBackwardSum(_ g: Operand, _ n: Int, ahead: Int) -> Pair {
        inlinedShortSum(.logSoftmax, g, g, n, ahead: ahead)
    }
#endif

#if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
    /// The softmax sum of one vector of columns, from registers. In the order of `sumOfLanes`, whose quads are added up before
    /// their members are: virtual lanes four apart belong together, and their sums take 8 of 16 registers.
    @inline(__always)
    func registerSum(_ g: Operand, _ y: Operand, _ n: Int) -> Pair {
        @inline(__always)
        func add(_ i: Int, _ sum: inout LaneSum) {
            sum.add(.softmax, vector_load(g.from(i).address), vector_load(y.from(i).address))
        }
        /// The sum of the virtual lanes from `lane` on that are four apart.
        @inline(__always)
        func fourApart(_ lane: Int) -> Wide {
            var (a, b) = (LaneSum(), LaneSum())
            if n <= virtualLanes {
                // Products are exact, and need not be sums of their own before they are added.
                if lane < n { add(lane, &a) }
                if n <= 8 {
                    if lane &+ 4 < n { add(lane &+ 4, &a) }
                    return a.high
                }
                add(lane &+ 4, &b)
                if lane &+ 8 < n { add(lane &+ 8, &a) }
                if lane &+ 12 < n { add(lane &+ 12, &b) }
                return a.high + b.high
            }
            var (c, d) = (LaneSum(), LaneSum())
            var i = lane
            while i &+ 12 < n {
                add(i, &a)
                add(i &+ 4, &b)
                add(i &+ 8, &c)
                add(i &+ 12, &d)
                i &+= virtualLanes
            }
            if i < n { add(i, &a) }
            if i &+ 4 < n { add(i &+ 4, &b) }
            if i &+ 8 < n { add(i &+ 8, &c) }
            return (a.high + c.high) + (b.high + d.high)
        }
        let even = fourApart(0) + fourApart(2)
        return Pair(high: even + (fourApart(1) + fourApart(3)), low: splatWide(0))
    }
#endif

#if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
    // Sums of slices longer than there are virtual lanes from registers, 32 of which hold those of a few virtual lanes of one
    // vector or two: they need not be loaded and stored with each element. In the order of `sumOfLanes`, whose third quad is
    // added to the first, and the fourth to the second.

    /// The softmax sums of one vector of columns, for the first places of a table.
    @inline(never)
    @_optimize(speed)
    func setSoftmaxBackwardSum(
        _ g: Operand, _ y: Operand, _ n: Int, _ table: SliceTable, _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        let whole = n & ~(virtualLanes &- 1)
        @inline(__always)
        func quad(_ lane: Int) -> PairQuad {
            var (a, b, c, d) = (LaneSum(), LaneSum(), LaneSum(), LaneSum())
            @inline(__always)
            func add(_ i: Int, _ sum: inout LaneSum) {
                sum.add(.softmax, vector_load(g.from(i).address), vector_load(y.from(i).address))
            }
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
            let two = quad(4 &* half) + quad(4 &* half &+ 8)
            if half == 0 {
                (sums[0], sums[1]) = (LaneSum(two.a), LaneSum(two.b))
                (sums[2], sums[3]) = (LaneSum(two.c), LaneSum(two.d))
            } else {
                let others = PairQuad(a: sums[0].pair, b: sums[1].pair, c: sums[2].pair, d: sums[3].pair)
                table.setSum(from: 0, (others + two).total)
            }
        }
    }

    /// Whether the softmax sums of a tile are taken from registers: not where there are several blocks, nor where its rows are
    /// far away and many, or a page or more apart, as they are better read as far as the tile goes then.
    private func areTakenFromRegisters(_ tile: GradientTile) -> Bool {
        tile.vectors > 1 && tile.n > virtualLanes && tile.n <= block
            && (!tile.far || tile.n <= 512 && tile.g.stride <= 4096)
    }

    /// The softmax sums of a tile, two vectors at a time, for `table` from `first` on.
    @inline(never)
    @_optimize(speed)
    private func setSoftmaxBackwardSums(
        _ tile: GradientTile, _ table: SliceTable, _ first: Int, _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        var v = 0
        while v < tile.vectors {
            // The last, if alone, with the one before it.
            let column = min(v, tile.vectors &- 2) &* lanes
            setSums(ofTwo: tile.columns(column, 2 &* lanes), table, first &+ column, sums)
            v &+= 2
        }
    }

    @inline(__always)
    private func setSums(
        ofTwo tile: GradientTile, _ table: SliceTable, _ first: Int, _ sums: UnsafeMutablePointer<LaneSum>
    ) {
        let (g, y, n) = (tile.g, tile.y, tile.n)
        let whole = n & ~(virtualLanes &- 1)
        for step in 0..<4 {
            let (half, isLater) = (step &>> 1, step & 1 == 1)
            var (a, b, c, d) = (LaneSum(), LaneSum(), LaneSum(), LaneSum())
            var (nextA, nextB, nextC, nextD) = (a, b, c, d)
            @inline(__always)
            func add(_ i: Int, _ sum: inout LaneSum, _ next: inout LaneSum) {
                let (g, y) = (g.from(i).address, y.from(i).address)
                sum.add(.softmax, vector_load(g), vector_load(y))
                next.add(.softmax, vector_load(g + vectorBytes), vector_load(y + vectorBytes))
            }
            var i = 4 &* half &+ (isLater ? 8 : 0)
            while i < whole {
                add(i, &a, &nextA)
                add(i &+ 1, &b, &nextB)
                add(i &+ 2, &c, &nextC)
                add(i &+ 3, &d, &nextD)
                i &+= virtualLanes
            }
            if i < n { add(i, &a, &nextA) }
            if i &+ 1 < n { add(i &+ 1, &b, &nextB) }
            if i &+ 2 < n { add(i &+ 2, &c, &nextC) }
            if i &+ 3 < n { add(i &+ 3, &d, &nextD) }
            let own = sums + 8 &* half
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
        for v in 0..<2 {
            @inline(__always)
            func pair(_ i: Int) -> Pair { sums[4 &* v &+ i].pair + sums[4 &* v &+ 8 &+ i].pair }
            let quad = PairQuad(a: pair(0), b: pair(1), c: pair(2), d: pair(3))
            table.setSum(from: first &+ v &* lanes, quad.total)
        }
    }
#endif

/// The sums of the whole vectors of a tile, of slices no longer than there are virtual lanes, for `table` from `first` on.
@inline(__always)
func setShortSums(_ op: Operation, _ tile: GradientTile, _ table: SliceTable, _ first: Int) {
    let (g, y, n, ahead) = (tile.g, tile.y, tile.n, tile.ahead)
    for v in 0..<tile.vectors {
        let offset = v &* vectorBytes
        table.setSum(
            from: first &+ v &* lanes,
            shortSum(op, g.moved(by: offset), y.moved(by: offset), n, ahead: ahead))
    }
}

@inline(never)
func setShortSoftmaxBackwardSums(_ tile: GradientTile, _ table: SliceTable, _ first: Int) {
    setShortSums(.softmax, tile, table, first)
}

@inline(never)
func setShortLogSoftmaxBackwardSums(_ tile: GradientTile, _ table: SliceTable, _ first: Int) {
    setShortSums(.logSoftmax, tile, table, first)
}

/// Whether g and y of a column would evict each other from the first cache, being pages apart, before the next columns,
/// which share their lines, are read. In Double that costs less than the way around it.
@inline(__always)
private func collide(_ op: Operation, _ tile: GradientTile) -> Bool {
    if op != .softmax || elementBytes == 8 || tile.n <= 8 { return false }
    let apart = (tile.g.address - tile.y.address &+ 128) & 4095
    return apart < 256 && (tile.g.stride | tile.y.stride) & 4095 == 0
}

/// Adds the sums of the first block of a tile to those in `table` from `first` on, or sets them.
func addBlock(
    _ op: Operation, _ tile: GradientTile, isFirst: Bool, _ table: SliceTable, _ first: Int,
    _ scratch: Scratch
) {
    if isFirst && tile.n <= virtualLanes && tile.present >= lanes && !collide(op, tile) {
        if op == .softmax {
            setShortSoftmaxBackwardSums(tile, table, first)
        } else {
            setShortLogSoftmaxBackwardSums(tile, table, first)
        }
        return
    }
    let sums = scratch.columnLaneSums.assumingMemoryBound(to: LaneSum.self)
    #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
        if isFirst && op == .softmax && areTakenFromRegisters(tile) {
            setSoftmaxBackwardSums(tile, table, first, sums)
            return
        }
    #endif
    if op == .softmax {
        softmaxBackwardSum(tile, sums)
    } else {
        logSoftmaxBackwardSum(tile, sums)
    }
    for v in 0..<tile.vectors {
        let slice = first &+ v &* lanes
        let next = sumOfLanes(sums + v, min(tile.n, virtualLanes), step: tile.vectors)
        table.setSum(from: slice, isFirst ? next : table.sum(from: slice) + next)
    }
}

/// Sets the sums of a tile in `table` from `first` on.
func setSums(
    _ op: Operation, _ tile: GradientTile, _ table: SliceTable, _ first: Int, _ scratch: Scratch
) {
    var start = 0
    while start < tile.n {
        addBlock(op, tile.from(start), isFirst: start == 0, table, first, scratch)
        start &+= block
    }
}
