// Gradients of slices that lie side by side: vectors run across the slices, one lane each.
//
// The arithmetic of a slice is that of BackwardRows.swift to the bit: the same virtual lanes and tree, with a
// vector where that has one lane. Positions are read in order, each into the running sum of its virtual lane in
// scratch memory, and the elements are kept there for the results: rows of a matrix are often a power of two apart
// and would evict each other from the caches, were they to be read twice.

import CKernels
import CVector

/// The two inputs of up to four vectors of columns: four, one, or a part of one.
struct GradientTile {
    let g: Operand
    let y: Operand
    /// Columns.
    let present: Int
    let n: Int

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

/// Where the elements of a tile are kept until its sums are known.
struct KeptElements {
    let g: UnsafeMutableRawPointer
    let y: UnsafeMutableRawPointer
    /// From one position to the next, in bytes: 0 keeps nothing.
    let stride: Int
}

// MARK: Sums

/// Sums the first block of a tile of `vectors` vectors, which leaves those of vector v at v * `gradientSums`.
/// For log_softmax y is neither read nor kept, as its results alone read it.
@inline(__always)
func sumBlock(
    _ op: Operation, _ tile: GradientTile, _ vectors: Int, _ present: Int, _ kept: KeptElements,
    _ sums: UnsafeMutablePointer<TermSum>
) {
    let n = min(block, tile.n)
    for v in 0..<vectors {
        for k in 0..<min(n, gradientSums) { sums[v &* gradientSums &+ k] = TermSum() }
    }
    for i in 0..<n {
        let k = i & (gradientSums &- 1)
        let (g, y) = (tile.g.from(i).address, tile.y.from(i).address)
        let offset = i &* kept.stride
        for v in 0..<vectors {
            let term = load(g + v &* vectorBytes, present)
            vector_store(kept.g + (offset &+ v &* vectorBytes), term)
            let factor = op == .softmax ? load(y + v &* vectorBytes, present) : term
            if op == .softmax { vector_store(kept.y + (offset &+ v &* vectorBytes), factor) }
            sums[v &* gradientSums &+ k].add(op, term, factor)
        }
    }
}

@inline(__always)
func sumBlock(
    _ op: Operation, _ tile: GradientTile, _ kept: KeptElements, _ sums: UnsafeMutablePointer<TermSum>
) {
    switch tile.present {
    case 4 &* lanes: sumBlock(op, tile, 4, lanes, kept, sums)
    case lanes: sumBlock(op, tile, 1, lanes, kept, sums)
    default: sumBlock(op, tile, 1, tile.present, kept, sums)
    }
}

@inline(never)
func softmaxBackwardSum(
    _ tile: GradientTile, _ kept: KeptElements, _ sums: UnsafeMutablePointer<TermSum>
) { sumBlock(.softmax, tile, kept, sums) }

@inline(never)
func logSoftmaxBackwardSum(
    _ tile: GradientTile, _ kept: KeptElements, _ sums: UnsafeMutablePointer<TermSum>
) { sumBlock(.logSoftmax, tile, kept, sums) }

/// Adds the sums of the first block of a tile to those in `table`, or sets them.
func addBlock(
    _ op: Operation, _ tile: GradientTile, isFirst: Bool, _ kept: KeptElements, _ table: SliceTable,
    _ scratch: Scratch
) {
    let sums = scratch.columnLaneSums.assumingMemoryBound(to: TermSum.self)
    let pairs = (scratch.columnLaneSums + 4 &* gradientSums &* MemoryLayout<TermSum>.stride)
        .assumingMemoryBound(to: Pair.self)
    if op == .softmax {
        softmaxBackwardSum(tile, kept, sums)
    } else {
        logSoftmaxBackwardSum(tile, kept, sums)
    }
    let used = min(tile.n, virtualLanes)
    var slice = 0
    while slice < tile.present {
        let own = sums + slice / lanes &* gradientSums
        for lane in 0..<used {
            let isPair = lane &+ virtualLanes < tile.n
            pairs[lane] = isPair ? own[lane].pair + own[lane &+ virtualLanes].pair : own[lane].pair
        }
        let next = sumOfLanes(pairs, used)
        table.setSum(from: slice, isFirst ? next : table.sum(from: slice) + next)
        slice &+= lanes
    }
}

// MARK: The operation

/// The backward operation on `columns` slices, a tile at a time.
func backwardColumns(
    _ op: Operation, _ g: Operand, _ y: Operand, _ out: UnsafeMutableRawPointer, _ outStride: Int,
    _ columns: Int, _ n: Int, _ scratch: Scratch, streaming: Bool
) {
    let table = scratch.table
    let panels = scratch.exponentials
    let keeps = n <= block
    let takesFour = !keeps || 4 &* n &* vectorBytes <= panelBytes
    var column = 0
    while column < columns {
        let left = columns &- column
        let present = takesFour && left >= 4 &* lanes ? 4 &* lanes : min(lanes, left)
        let stride = max(vectorBytes, present &* elementBytes)
        let kept = KeptElements(g: panels.tails, y: panels.powers, stride: keeps ? stride : 0)
        let tile = GradientTile(
            g: g.moved(by: column &* elementBytes), y: y.moved(by: column &* elementBytes),
            present: present, n: n)
        var first = 0
        while first < n {
            addBlock(op, tile.from(first), isFirst: first == 0, kept, table, scratch)
            first &+= block
        }
        let target = TileResult(
            address: out.element(column), stride: outStride, present: present, n: n, streaming: streaming)
        if table.setBackwardResults(present) {
            let keptG = Operand(address: kept.g, stride: kept.stride)
            let keptY = Operand(address: kept.y, stride: kept.stride)
            let source = GradientTile(
                g: keeps ? keptG : tile.g, y: keeps && op == .softmax ? keptY : tile.y, present: present,
                n: n)
            if op == .softmax {
                writeSoftmaxBackward(source, target, table)
            } else {
                writeLogSoftmaxBackward(source, target, table)
            }
        } else {
            writeUnusualBackward(op, tile, target, table, scratch)
        }
        column &+= present
    }
}

// MARK: Results

@inline(__always)
func writeBackward(_ op: Operation, _ source: GradientTile, _ target: TileResult, _ table: SliceTable) {
    let result = Four(target.present) { table.backwardResult(from: $0 &* lanes) }
    target.write { i, v, count in
        let offset = v &* vectorBytes
        return result[v](
            op, load(source.g.from(i).address + offset, count),
            load(source.y.from(i).address + offset, count))
    }
}

@inline(never)
func writeSoftmaxBackward(_ source: GradientTile, _ target: TileResult, _ table: SliceTable) {
    writeBackward(.softmax, source, target, table)
}

@inline(never)
func writeLogSoftmaxBackward(_ source: GradientTile, _ target: TileResult, _ table: SliceTable) {
    writeBackward(.logSoftmax, source, target, table)
}

/// The gradients of a tile of which some need care.
@inline(never)
func writeUnusualBackward(
    _ op: Operation, _ tile: GradientTile, _ target: TileResult, _ table: SliceTable, _ scratch: Scratch
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
            store(target.address + (i &* target.stride &+ v &* vectorBytes), value, part.present)
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
            KeptElements(g: panels.powers, y: panels.powers, stride: 0), table, scratch)
        first &+= block
    }
    return GradientSum(scale: splatWide(downScale), sum: table.sum(from: 0), plain: plain)
}
