// Columns on their way into a panel, where each vector of them is contiguous.

import CKernels
import CVector

/// `count` of every other element; the rest of the vector is 0.
@inline(__always)
func loadAlternate(_ address: UnsafeRawPointer, _ count: Int) -> Vector {
    vector_alternate(
        load(address, min(lanes, 2 &* count &- 1)),
        load(address.element(lanes &- 1), max(0, 2 &* count &- lanes)))
}

/// Every other element, a vector of them.
@inline(__always)
func loadAlternate(_ address: UnsafeRawPointer) -> Vector {
    vector_alternate(vector_load(address), vector_load(address.element(lanes &- 1)))
}

/// Copies the block of a tile's elements that begins at `start` into a panel, and notes the maxima. Rows of a matrix are
/// often a power of two apart and would evict each other from the caches, were they to be read twice.
@inline(never)
func copyToPanel(
    _ tile: Tile, from start: Int, _ panel: UnsafeMutableRawPointer, _ table: SliceTable
) {
    let n = min(block, tile.n &- start)
    if let mask = tile.mask { return copyMasked(tile, mask, n, panel, table) }
    for group in 0..<tile.groups {
        copyColumns(
            tile.address + (group &* tile.groupStride &+ start &* tile.stride), tile.elements, tile.stride,
            tile.columns, n, panel, table, group &* tile.groupColumns)
    }
}

/// The same of columns of one block in one group, with -inf in the place of what the mask leaves out.
@inline(never)
private func copyMasked(
    _ tile: Tile, _ mask: Mask, _ n: Int, _ panel: UnsafeMutableRawPointer, _ table: SliceTable
) {
    let (x, elements, stride, count) = (tile.address, tile.elements, tile.stride, tile.columns)
    let columnBytes = n &* vectorBytes
    #if SWIFTMAX_BASELINE && arch(x86_64)
        var column = 0
    #else
        let whole = count & ~(4 &* lanes &- 1)
        // The bytes of what is asked for.
        let next = keepsAsked(n, stride) ? 4 &* lanes : 8 &* mask.stride
        @inline(__always)
        func copy(step: Int, _ load: (_ address: UnsafeRawPointer) -> Vector) {
            copyFours(x, step: step, stride, 0..<whole, n, panel, table, 0) { source, i, column in
                vector_prefetch(mask.address + (i &* mask.stride &+ column &+ next))
                return Quad { v in
                    mask.select(load(source + v &* lanes &* step), i, column &+ v &* lanes, lanes)
                }
            }
        }
        switch elements {
        #if SWIFTMAX_FLOAT32
            case .halves(let format), .reversedHalves(let format):
                copy(step: 2) { format.load($0, 0, lanes) }
        #endif
        default: copy(step: elementBytes) { vector_load($0) }
        }
        var column = whole
    #endif
    copyColumns(x + column &* elements.stride, elements, stride, count &- column, n, panel, table, column)
    while column < count {
        let present = min(lanes, count &- column)
        var largest = splat(-.infinity)
        for i in 0..<n {
            let place = panel + (column / lanes &* columnBytes &+ i &* vectorBytes)
            let value = mask.select(vector_load(place), i, column, present)
            vector_store(place, value)
            largest = maximum(largest, value)
        }
        table.setMax(largest, from: column)
        column &+= lanes
    }
}

/// Copies `count` columns of `n` elements, those of a panel and a table from `first` on: first those that fill up a vector.
@inline(never)
private func copyColumns(
    _ x: UnsafeRawPointer, _ elements: Elements, _ stride: Int, _ count: Int, _ n: Int,
    _ panel: UnsafeMutableRawPointer, _ table: SliceTable, _ first: Int
) {
    switch elements {
    case .own, .reversed:
        copyColumns(x, step: elementBytes, stride, count, n, panel, table, first) { load($0, $1) }
    case .alternate:
        copyColumns(x, step: 2 &* elementBytes, stride, count, n, panel, table, first) {
            $1 == lanes ? loadAlternate($0) : loadAlternate($0, $1)
        }
    #if SWIFTMAX_FLOAT32
        case .halves(let format), .reversedHalves(let format):
            copyColumns(x, step: 2, stride, count, n, panel, table, first) { format.load($0, 0, $1) }
    #endif
    }
}

#if !(SWIFTMAX_BASELINE && arch(x86_64))
    /// Copies columns four vectors at a time, which read whole cache lines, and several of a row. The next of the row are asked for, as
    /// these are too few for the CPU to read ahead by itself; or if they do not stay in a cache until then, those eight rows on.
    ///
    /// - Parameter four: four vectors of row i from `column` on, which lie at `source`.
    @inline(__always)
    private func copyFours(
        _ x: UnsafeRawPointer, step: Int, _ stride: Int, _ columns: Range<Int>, _ n: Int,
        _ panel: UnsafeMutableRawPointer, _ table: SliceTable, _ first: Int,
        _ four: (_ source: UnsafeRawPointer, _ i: Int, _ column: Int) -> Quad
    ) {
        let (columnBytes, fourBytes) = (n &* vectorBytes, 4 &* lanes &* step)
        let ahead = RowsAhead(keepsAsked(n, stride) ? n : min(8, n), of: n, stride, next: fourBytes)
        var column = columns.lowerBound
        while column < columns.upperBound {
            let slice = first &+ column
            let target = panel.element(slice &* n)
            var largest = Quad(repeating: splat(-.infinity))
            for i in 0..<n {
                let source = x + (column &* step &+ i &* stride)
                let values = four(source, i, column)
                let next = ahead.distance(i)
                for l in 0..<fourBytes / lineBytes { vector_prefetch(source + (next &+ l &* lineBytes)) }
                let destination = target + i &* vectorBytes
                vector_store(destination, values.a)
                vector_store(destination + columnBytes, values.b)
                vector_store(destination + 2 &* columnBytes, values.c)
                vector_store(destination + 3 &* columnBytes, values.d)
                largest = largest.map(values, maximum)
            }
            table.setMax(largest.a, from: slice)
            table.setMax(largest.b, from: slice &+ lanes)
            table.setMax(largest.c, from: slice &+ 2 &* lanes)
            table.setMax(largest.d, from: slice &+ 3 &* lanes)
            column &+= 4 &* lanes
        }
    }
#endif

/// How many of `count` columns from `first` on fill up a vector of columns that has some already.
@inline(__always)
func headColumns(_ first: Int, _ count: Int) -> Int { min(count, (0 &- first) & (lanes &- 1)) }

@inline(__always)
private func copyColumns(
    _ x: UnsafeRawPointer, step: Int, _ stride: Int, _ count: Int, _ n: Int,
    _ panel: UnsafeMutableRawPointer, _ table: SliceTable, _ first: Int,
    load: (UnsafeRawPointer, Int) -> Vector
) {
    let columnBytes = n &* vectorBytes
    var target = panel + first / lanes &* columnBytes
    var column = headColumns(first, count)
    if column > 0 {
        let head = target.element(first & (lanes &- 1))
        var largest = splat(-.infinity)
        for i in 0..<n {
            let value = load(x + i &* stride, column)
            vector_store_partial(head + i &* vectorBytes, value, column)
            largest = maximum(largest, value)
        }
        table.setMax(largest, from: first, column)
        target = panel + (first &+ column) / lanes &* columnBytes
    }
    #if !(SWIFTMAX_BASELINE && arch(x86_64))
        // For a CPU as old as that it is not worth the size.
        let whole = column &+ (count &- column) & ~(4 &* lanes &- 1)
        copyFours(x, step: step, stride, column..<whole, n, panel, table, first) { source, _, _ in
            Quad { load(source + $0 &* lanes &* step, lanes) }
        }
        column = whole
        target = panel.element((first &+ column) &* n)
    #endif
    // Of rows far apart the CPU reads none ahead by itself.
    let ahead = 24 &* stride
    while column < count {
        let present = min(lanes, count &- column)
        var largest = splat(-.infinity)
        for i in 0..<n {
            let source = x + (column &* step &+ i &* stride)
            vector_prefetch(source + ahead)
            vector_prefetch(source + (ahead &+ lineBytes))
            let value = load(source, present)
            vector_store(target + i &* vectorBytes, value)
            largest = maximum(largest, value)
        }
        table.setMax(largest, from: first &+ column)
        target += columnBytes
        column &+= lanes
    }
}
