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
    /// Whether they are asked for with the results alone, as those of rows of several tiles come in the order of memory, in which
    /// the CPU then reads on by itself.
    let asksLate: Bool

    @inline(__always) var vectors: Int { max(1, present / lanes) }

    /// `count` of its columns from `first` on, to be summed.
    @inline(__always)
    func columns(_ first: Int, _ count: Int) -> GradientTile {
        GradientTile(
            g: g.moved(by: first &* elementBytes), y: y.moved(by: first &* elementBytes), present: count,
            n: n, ahead: asksLate ? 0 : ahead, far: far, asksForBoth: asksForBoth, asksLate: false)
    }

    /// The elements from `first` on.
    @inline(__always)
    func from(_ first: Int) -> GradientTile {
        GradientTile(
            g: g.from(first), y: y.from(first), present: present, n: n &- first, ahead: ahead, far: far,
            asksForBoth: asksForBoth, asksLate: false)
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
            if isFirst {
                own[v] = LaneSum(op, term, factor)
            } else {
                var sum = own[v]
                sum.add(op, term, factor)
                own[v] = sum
            }
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
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
func softmaxBackwardSum(_ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>) {
    sumBlock(.softmax, tile, sums)
}

@inline(never)
#if !(SWIFTMAX_BASELINE && arch(x86_64))
    @_optimize(speed)
#endif
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
        return LaneSum(op, vector_load(g), vector_load(y)).pair
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
    if op != .softmax || elementBytes == 8 || tile.n <= 4 { return false }
    let page = 4096
    return (tile.g.stride | tile.y.stride) & (page &- 1) == 0
        && meet(tile.g.address, tile.y.address, spacing: page, within: 128)
}

/// Adds the sums of the first block of a tile to those in `table` from `first` on, or sets them.
func addBlock(
    _ op: Operation, _ tile: GradientTile, isFirst: Bool, _ table: SliceTable, _ first: Int,
    _ scratch: Scratch
) {
    #if SWIFTMAX_AVX512
        if isFirst && op == .softmax && areTakenFromRegisters(tile) {
            setSoftmaxBackwardSums(tile, table, first, scratch)
            return
        }
    #endif
    #if !(SWIFTMAX_BASELINE && arch(x86_64))
        // For a CPU as old as that it is not worth the size.
        if isFirst && tile.n <= virtualLanes && tile.present >= lanes && !collide(op, tile) {
            if op == .softmax {
                setShortSoftmaxBackwardSums(tile, table, first)
            } else {
                setShortLogSoftmaxBackwardSums(tile, table, first)
            }
            return
        }
    #endif
    let sums = scratch.columnLaneSums.assumingMemoryBound(to: LaneSum.self)
    if op == .softmax {
        softmaxBackwardSum(tile, sums)
    } else {
        logSoftmaxBackwardSum(tile, sums)
    }
    for v in 0..<tile.vectors {
        let slice = first &+ v &* lanes
        let next = sumOfLanes(sums + v, min(tile.n, virtualLanes), step: tile.vectors)
        table.setSum(from: slice, isFirst ? next : (table.sum(from: slice) + next).normalized)
    }
}

/// Sets the sums of a tile in `table` from `first` on.
@inline(never)
func setSums(
    _ op: Operation, _ tile: GradientTile, _ table: SliceTable, _ first: Int, _ scratch: Scratch
) {
    var start = 0
    while start < tile.n {
        addBlock(op, tile.from(start), isFirst: start == 0, table, first, scratch)
        start &+= block
    }
}
