// Ways into a kernel and out of it: strides, transposition and masks. Those of 16-bit types are in HalfFormat.swift.

import CVector

/// Copies `rows` rows, `rowStride` bytes apart, of `n` elements each, `stride` bytes apart, to contiguous ones. The lines
/// `ahead` bytes from theirs are asked for where an element is not a line of its own.
func gather(
    _ source: UnsafeRawPointer, _ rowStride: Int, _ stride: Int, _ destination: UnsafeMutableRawPointer,
    _ rows: Int, _ n: Int, ahead: Int
) {
    for r in 0..<rows {
        gatherRow(source + r &* rowStride, stride, destination.element(r &* n), n, ahead)
    }
}

/// Copies `n` elements past the caches.
func stream(_ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ n: Int) {
    writeRow(destination, n, streaming: true) { i, count in load(source.element(i), count) }
}

@inline(__always)
private func gatherRow(
    _ source: UnsafeRawPointer, _ stride: Int, _ destination: UnsafeMutableRawPointer, _ n: Int, _ ahead: Int
) {
    var (i, end) = (0, n)
    // The commonest strides are x[..., ::-1] and x[..., ::2], which have shuffles, and that of broadcast elements.
    if stride == -elementBytes {
        // From the last element to the first: in the order of memory, which the CPU reads ahead in from row to row.
        while end >= lanes {
            end &-= lanes
            let last = source + (end &+ lanes &- 1) &* stride
            vector_prefetch(last + ahead)
            vector_store(destination.element(end), vector_reversed(vector_load(last)))
        }
    } else if stride == 2 &* elementBytes {
        while i &+ lanes <= end {
            let first = source + i &* stride
            vector_prefetch(first + ahead)
            vector_prefetch(first + (ahead &+ vectorBytes))
            vector_store(destination.element(i), loadAlternate(first))
            i &+= lanes
        }
    } else if stride == 0 {
        let element = splat(source.loadUnaligned(as: Element.self))
        while i &+ lanes <= end {
            vector_store(destination.element(i), element)
            i &+= lanes
        }
    } else {
        while i &+ lanes <= end {
            vector_store(destination.element(i), vector_load_strided(source + i &* stride, stride))
            i &+= lanes
        }
    }
    while i < end {
        let element = (source + i &* stride).loadUnaligned(as: Element.self)
        destination.element(i).storeBytes(of: element, as: Element.self)
        i &+= 1
    }
}

/// destination[j][i] = source[i][j].
@_optimize(speed)
func transpose(
    _ source: UnsafeRawPointer, _ sourceStride: Int, _ destination: UnsafeMutableRawPointer,
    _ destinationStride: Int, _ rows: Int, _ columns: Int
) {
    if rows < 4 || columns < 4 {
        copyFew(source, sourceStride, destination, destinationStride, rows, columns)
        return
    }
    /// Calls `square` for squares of `size` by `size` that cover rows and columns; the last may overlap those before.
    @inline(__always)
    func forEachSquare(
        _ size: Int, _ rows: Range<Int>, _ columns: Range<Int>,
        _ square: (_ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer) -> Void
    ) {
        var i = rows.lowerBound
        while i < rows.upperBound {
            let row = min(i, rows.upperBound &- size)
            let (from, to) = (source + row &* sourceStride, destination.element(row))
            var j = columns.lowerBound
            while j < columns.upperBound {
                let column = min(j, columns.upperBound &- size)
                square(from.element(column), to + column &* destinationStride)
                j &+= size
            }
            i &+= size
        }
    }
    // What squares of eight leave is for those of four.
    var (wholeRows, wholeColumns) = (0, 0)
    #if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
        (wholeRows, wholeColumns) = (rows & ~7, columns & ~7)
        forEachSquare(8, 0..<wholeRows, 0..<wholeColumns) {
            eight_transpose($0, sourceStride, $1, destinationStride)
        }
    #endif
    @inline(__always)
    func rest(_ rows: Range<Int>, _ columns: Range<Int>) {
        forEachSquare(4, rows, columns) { from, to in
            typealias Four = SIMD4<Element>
            let a = from.loadUnaligned(as: Four.self)
            let b = (from + sourceStride).loadUnaligned(as: Four.self)
            let c = (from + 2 &* sourceStride).loadUnaligned(as: Four.self)
            let d = (from + 3 &* sourceStride).loadUnaligned(as: Four.self)
            to.storeBytes(of: Four(a[0], b[0], c[0], d[0]), as: Four.self)
            (to + destinationStride).storeBytes(of: Four(a[1], b[1], c[1], d[1]), as: Four.self)
            (to + 2 &* destinationStride).storeBytes(of: Four(a[2], b[2], c[2], d[2]), as: Four.self)
            (to + 3 &* destinationStride).storeBytes(of: Four(a[3], b[3], c[3], d[3]), as: Four.self)
        }
    }
    if wholeColumns < columns { rest(0..<rows, wholeColumns..<columns) }
    if wholeRows < rows && wholeColumns > 0 { rest(wholeRows..<rows, 0..<wholeColumns) }
}

/// As `transpose`, where one of the numbers is below four: an element at a time.
private func copyFew(
    _ source: UnsafeRawPointer, _ sourceStride: Int, _ destination: UnsafeMutableRawPointer,
    _ destinationStride: Int, _ rows: Int, _ columns: Int
) {
    @inline(__always)
    func copy(_ i: Int, _ j: Int) {
        let value = (source + i &* sourceStride).element(j).loadUnaligned(as: Element.self)
        (destination + j &* destinationStride).element(i).storeBytes(of: value, as: Element.self)
    }
    var i = 0
    while columns < 4 && i &+ 4 <= rows {
        for j in 0..<columns {
            copy(i, j)
            copy(i &+ 1, j)
            copy(i &+ 2, j)
            copy(i &+ 3, j)
        }
        i &+= 4
    }
    while i < rows {
        for j in 0..<columns { copy(i, j) }
        i &+= 1
    }
}

/// Copies elements, or `fill` where `mask` is 0.
func select(
    _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ mask: UnsafePointer<UInt8>,
    _ fill: Element, _ n: Int
) {
    var i = 0
    while i &+ lanes <= n {
        let value = vector_select_bytes(mask + i, vector_load(source.element(i)), splat(fill))
        vector_store(destination.element(i), value)
        i &+= lanes
    }
    while i < n {
        let value = mask[i] == 0 ? fill : source.element(i).loadUnaligned(as: Element.self)
        destination.element(i).storeBytes(of: value, as: Element.self)
        i &+= 1
    }
}
