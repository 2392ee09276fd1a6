// Rows turned into columns and back: in tiles that registers hold, and a few columns or rows without gaps by permutes.

import CVector

/// Up to so many columns without gaps, or rows to be so, are turned fast.
#if SWIFTMAX_AVX512
    @inline(__always) var mostTurned: Int { Int(SWIFTMAX_MOST_INTERLEAVED) }
#else
    @inline(__always) var mostTurned: Int { 3 }
#endif

#if SWIFTMAX_AVX512
    /// Transposes a few columns without gaps, or rows that come to lie so: the former are asked for ahead, the latter go past the
    /// caches, if they are `far`. False for others.
    @inline(never)
    func transposeInterleaved(
        _ source: UnsafeRawPointer, _ sourceStride: Int, _ destination: UnsafeMutableRawPointer,
        _ destinationStride: Int, _ rows: Int, _ columns: Int, far: Bool
    ) -> Bool {
        /// Two take fewer operations in the other way, which does not go past the caches.
        @inline(__always)
        func areFew(_ few: Int, _ many: Int, _ stride: Int, from fewest: Int) -> Bool {
            few >= fewest && few <= mostTurned && many >= lanes && stride == few &* elementBytes
        }
        if areFew(columns, rows, sourceStride, from: 3) {
            transpose_interleaved(source, destination, destinationStride, rows, Int32(columns), false, far)
            return true
        }
        if areFew(rows, columns, destinationStride, from: far ? 2 : 3) {
            transpose_interleaved(source, destination, sourceStride, columns, Int32(rows), true, far)
            return true
        }
        return false
    }
#endif

/// destination[j][i] = source[i][j].
@inline(never)
@_optimize(speed)
func transpose(
    _ source: UnsafeRawPointer, _ sourceStride: Int, _ destination: UnsafeMutableRawPointer,
    _ destinationStride: Int, _ rows: Int, _ columns: Int
) {
    #if SWIFTMAX_AVX512
        if transposeInterleaved(
            source, sourceStride, destination, destinationStride, rows, columns, far: false)
        {
            return
        }
    #endif
    if rows < 4 || columns < 4 {
        transposeFew(source, sourceStride, destination, destinationStride, rows, columns)
        return
    }
    /// Calls `tile` for tiles of `height` by `width` that cover rows and columns; the last may overlap those before.
    @inline(__always)
    func forEachTile(
        _ height: Int, _ width: Int, _ rows: Range<Int>, _ columns: Range<Int>,
        _ tile: (_ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer) -> Void
    ) {
        var i = rows.lowerBound
        while i < rows.upperBound {
            let row = min(i, rows.upperBound &- height)
            let (from, to) = (source + row &* sourceStride, destination.element(row))
            var j = columns.lowerBound
            while j < columns.upperBound {
                let column = min(j, columns.upperBound &- width)
                tile(from.element(column), to + column &* destinationStride)
                j &+= width
            }
            i &+= height
        }
    }
    #if SWIFTMAX_AVX512
        // Of few columns less is turned twice.
        if rows >= lanes && columns < 16 {
            return forEachTile(lanes, 4, 0..<rows, 0..<columns) {
                tall_transpose($0, sourceStride, $1, destinationStride)
            }
        }
        if rows >= 8 && columns >= 8 {
            return forEachTile(8, 8, 0..<rows, 0..<columns) {
                eight_transpose($0, sourceStride, $1, destinationStride)
            }
        }
    #endif
    // What squares of eight leave is for those of four.
    var (wholeRows, wholeColumns) = (0, 0)
    #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
        (wholeRows, wholeColumns) = (rows & ~7, columns & ~7)
        forEachTile(8, 8, 0..<wholeRows, 0..<wholeColumns) {
            eight_transpose($0, sourceStride, $1, destinationStride)
        }
    #endif
    @inline(__always)
    func rest(_ rows: Range<Int>, _ columns: Range<Int>) {
        forEachTile(4, 4, rows, columns) { from, to in
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

/// As `transpose`, where one of the numbers is below four: two or three side by side without gaps many at a time, what is
/// left an element at a time.
@_optimize(speed)
private func transposeFew(
    _ source: UnsafeRawPointer, _ sourceStride: Int, _ destination: UnsafeMutableRawPointer,
    _ destinationStride: Int, _ rows: Int, _ columns: Int
) {
    typealias Four = SIMD4<Element>
    let areTogether = sourceStride == columns &* elementBytes
    let comeTogether = destinationStride == rows &* elementBytes
    var (row, column) = (0, 0)
    if columns == 2 && areTogether {
        while row &+ lanes <= rows {
            let pairs = source.element(2 &* row)
            vector_store(destination.element(row), loadAlternate(pairs))
            vector_store((destination + destinationStride).element(row), loadAlternate(pairs.element(1)))
            row &+= lanes
        }
    } else if rows == 2 && comeTogether {
        while column &+ lanes <= columns {
            let a = vector_load(source.element(column))
            let b = vector_load((source + sourceStride).element(column))
            let pairs = destination.element(2 &* column)
            vector_store(pairs, vector_interleaved_low(a, b))
            vector_store(pairs + vectorBytes, vector_interleaved_high(a, b))
            column &+= lanes
        }
    } else if columns == 3 && areTogether {
        // With the next row's first element.
        while row &+ 4 < rows {
            let from = source.element(3 &* row)
            let a = from.loadUnaligned(as: Four.self)
            let b = from.element(3).loadUnaligned(as: Four.self)
            let c = from.element(6).loadUnaligned(as: Four.self)
            let d = from.element(9).loadUnaligned(as: Four.self)
            let to = destination.element(row)
            to.storeBytes(of: Four(a[0], b[0], c[0], d[0]), as: Four.self)
            (to + destinationStride).storeBytes(of: Four(a[1], b[1], c[1], d[1]), as: Four.self)
            (to + 2 &* destinationStride).storeBytes(of: Four(a[2], b[2], c[2], d[2]), as: Four.self)
            row &+= 4
        }
    } else if rows == 3 && comeTogether {
        // The next row's first element is overwritten by its own.
        while column &+ 4 < columns {
            let a = source.element(column).loadUnaligned(as: Four.self)
            let b = (source + sourceStride).element(column).loadUnaligned(as: Four.self)
            let c = (source + 2 &* sourceStride).element(column).loadUnaligned(as: Four.self)
            let to = destination.element(3 &* column)
            to.storeBytes(of: Four(a[0], b[0], c[0], c[0]), as: Four.self)
            to.element(3).storeBytes(of: Four(a[1], b[1], c[1], c[1]), as: Four.self)
            to.element(6).storeBytes(of: Four(a[2], b[2], c[2], c[2]), as: Four.self)
            to.element(9).storeBytes(of: Four(a[3], b[3], c[3], c[3]), as: Four.self)
            column &+= 4
        }
    }
    for i in row..<rows {
        for j in column..<columns {
            let value = (source + i &* sourceStride).element(j).loadUnaligned(as: Element.self)
            (destination + j &* destinationStride).element(i).storeBytes(of: value, as: Element.self)
        }
    }
}
