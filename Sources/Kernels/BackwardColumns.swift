// Gradients of slices that lie side by side: vectors run across the slices, one lane each.
//
// The arithmetic of a slice is that of BackwardRows.swift to the bit: the same running sums and tree, with a vector
// where that has one lane.

import CKernels
import CVector

/// The two inputs of some columns side by side: up to 16 whole vectors, or a part of one.
struct GradientTile {
    let g: Operand
    let y: Operand
    /// Columns.
    let present: Int
    let n: Int

    @inline(__always) var vectors: Int { max(1, present / lanes) }

    /// One of its vectors.
    @inline(__always)
    func vector(_ v: Int) -> GradientTile {
        GradientTile(
            g: g.moved(by: v &* vectorBytes), y: y.moved(by: v &* vectorBytes),
            present: min(lanes, present), n: n)
    }

    /// The elements from `first` on.
    @inline(__always)
    func from(_ first: Int) -> GradientTile {
        GradientTile(g: g.from(first), y: y.from(first), present: present, n: n &- first)
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
            // The next tile, half of it now and half with the results: rows are too short for the CPU to read ahead by
            // itself.
            vector_prefetch(g + vectors &* vectorBytes)
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

@inline(__always)
func sumBlock(
    _ op: Operation, _ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>
) {
    if tile.present < lanes {
        sumBlock(op, tile, 1, tile.present, sums)
    } else {
        sumBlock(op, tile, tile.vectors, lanes, sums)
    }
}

@inline(never)
func softmaxBackwardSum(_ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>) {
    sumBlock(.softmax, tile, sums)
}

@inline(never)
func logSoftmaxBackwardSum(_ tile: GradientTile, _ sums: UnsafeMutablePointer<LaneSum>) {
    sumBlock(.logSoftmax, tile, sums)
}

/// The sums of the whole vectors of a tile, of slices no longer than there are virtual lanes.
@inline(__always)
func setShortSums(_ op: Operation, _ tile: GradientTile, _ table: SliceTable) {
    let (vectors, ahead) = (tile.vectors, tile.vectors &* vectorBytes)
    let (gStride, yStride) = (tile.g.stride, tile.y.stride)
    for v in 0..<vectors {
        let (g, y) = (tile.g.address + v &* vectorBytes, tile.y.address + v &* vectorBytes)
        @inline(__always)
        func term(_ i: Int) -> Pair {
            let (g, y) = (g + i &* gStride, y + i &* yStride)
            vector_prefetch(g + ahead)
            if op == .softmax { vector_prefetch(y + ahead) }
            var sum = LaneSum()
            sum.add(op, vector_load(g), vector_load(y))
            return sum.pair
        }
        let sum = sumOfLanes(tile.n) {
            term($0)
        } four: {
            PairQuad(a: term($0), b: term($0 &+ 1), c: term($0 &+ 2), d: term($0 &+ 3))
        }
        table.setSum(from: v &* lanes, sum)
    }
}

@inline(never)
func setShortSoftmaxBackwardSums(_ tile: GradientTile, _ table: SliceTable) {
    setShortSums(.softmax, tile, table)
}

@inline(never)
func setShortLogSoftmaxBackwardSums(_ tile: GradientTile, _ table: SliceTable) {
    setShortSums(.logSoftmax, tile, table)
}

/// Adds the sums of the first block of a tile to those in `table`, or sets them.
func addBlock(
    _ op: Operation, _ tile: GradientTile, isFirst: Bool, _ table: SliceTable, _ scratch: Scratch
) {
    if isFirst && tile.n <= virtualLanes && tile.present >= lanes {
        if op == .softmax {
            setShortSoftmaxBackwardSums(tile, table)
        } else {
            setShortLogSoftmaxBackwardSums(tile, table)
        }
        return
    }
    let sums = scratch.columnLaneSums.assumingMemoryBound(to: LaneSum.self)
    if op == .softmax {
        softmaxBackwardSum(tile, sums)
    } else {
        logSoftmaxBackwardSum(tile, sums)
    }
    for v in 0..<tile.vectors {
        let next = sumOfLanes(sums + v, min(tile.n, virtualLanes), step: tile.vectors)
        table.setSum(from: v &* lanes, isFirst ? next : table.sum(from: v &* lanes) + next)
    }
}

// MARK: The operation

/// Vectors of columns that are taken together. A row of a tile is read and written in one go: memory does not like
/// shorter ones, but caches do, once both inputs of two tiles have to be kept.
private func tileVectors(_ n: Int, stride: Int) -> Int {
    n < 8 || stride <= 16 &* vectorBytes ? 16 : 8
}

/// The backward operation on `columns` slices, a tile at a time.
func backwardColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ columns: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    let table = scratch.table
    let vectors = tileVectors(n, stride: g.stride)
    var column = 0
    while column < columns {
        let left = columns &- column
        let present = left < lanes ? left : min(vectors, left / lanes) &* lanes
        let tile = GradientTile(
            g: g.moved(by: column &* elementBytes), y: y.moved(by: column &* elementBytes),
            present: present, n: n)
        var first = 0
        while first < n {
            addBlock(op, tile.from(first), isFirst: first == 0, table, scratch)
            first &+= block
        }
        let out = out.element(column)
        if table.setBackwardResults(present) {
            if op == .softmax {
                writeSoftmaxBackward(tile, out, outStride, table, streaming: streaming)
            } else {
                writeLogSoftmaxBackward(tile, out, outStride, table, streaming: streaming)
            }
        } else {
            writeUnusualBackward(op, tile, out, outStride, table, scratch)
        }
        column &+= present
    }
}

// MARK: Results

@inline(__always)
func writeTile(
    _ op: Operation, _ source: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ table: SliceTable, streaming: Bool
) {
    let ahead = source.vectors &* vectorBytes
    @inline(__always)
    func result(_ i: Int, _ v: Int, _ count: Int) -> Vector {
        let offset = v &* vectorBytes
        vector_prefetch(source.y.from(i).address + offset + ahead)
        return table.backwardResult(from: v &* lanes)(
            op, load(source.g.from(i).address + offset, count), load(source.y.from(i).address + offset, count)
        )
    }
    if source.present < lanes {
        for i in 0..<source.n {
            vector_store_partial(out + i &* outStride, result(i, 0, source.present), source.present)
        }
    } else if streaming && (Int(bitPattern: out) | outStride) & (vectorBytes &- 1) == 0 {
        for i in 0..<source.n {
            for v in 0..<source.vectors {
                vector_stream(out + (i &* outStride &+ v &* vectorBytes), result(i, v, lanes))
            }
        }
    } else {
        for i in 0..<source.n {
            for v in 0..<source.vectors {
                vector_store(out + (i &* outStride &+ v &* vectorBytes), result(i, v, lanes))
            }
        }
    }
}

@inline(never)
func writeSoftmaxBackward(
    _ source: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
    streaming: Bool
) {
    writeTile(.softmax, source, out, outStride, table, streaming: streaming)
}

@inline(never)
func writeLogSoftmaxBackward(
    _ source: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int, _ table: SliceTable,
    streaming: Bool
) {
    writeTile(.logSoftmax, source, out, outStride, table, streaming: streaming)
}

/// The gradients of a tile of which some need care.
@inline(never)
func writeUnusualBackward(
    _ op: Operation, _ tile: GradientTile, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ table: SliceTable, _ scratch: Scratch
) {
    var slice = 0
    while slice < tile.present {
        let v = slice / lanes
        let part = tile.vector(v)
        var total = GradientSum(
            scale: splatWide(1), sum: table.sum(from: slice), plain: splatWide(0))
        let needsScale = total.needsScale
        if vector_sum(wide_narrow(needsScale)) > 0 {
            let again = scaledSum(op, part, scratch.secondTable, scratch)
            total = total.replacing(with: again.settled, where: needsScale)
        }
        let result = BackwardResult(total)
        for i in 0..<tile.n {
            let value = result.general(
                op, load(part.g.from(i).address, part.present), load(part.y.from(i).address, part.present))
            store(out + (i &* outStride &+ v &* vectorBytes), value, part.present)
        }
        slice &+= lanes
    }
}

/// The sums of a vector of columns, taken with `downScale`.
func scaledSum(
    _ op: Operation, _ tile: GradientTile, _ table: SliceTable, _ scratch: Scratch
) -> GradientSum {
    let panels = scratch.exponentials
    let scaled = Operand(address: panels.tails, stride: vectorBytes)
    var plain = splatWide(0)
    var first = 0
    while first < tile.n {
        let part = tile.from(first)
        for i in 0..<min(block, part.n) {
            let term = load(part.g.from(i).address, tile.present) * splat(Element(downScale))
            vector_store(panels.tails + i &* vectorBytes, term)
            plain +=
                vector_widen(op == .softmax ? term * load(part.y.from(i).address, tile.present) : term)
        }
        addBlock(
            op, GradientTile(g: scaled, y: part.y, present: tile.present, n: part.n), isFirst: first == 0,
            table, scratch)
        first &+= block
    }
    return GradientSum(scale: splatWide(downScale), sum: table.sum(from: 0), plain: plain)
}
