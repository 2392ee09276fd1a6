import CVector

/// The mask of rows, or of columns: a byte for each element, those of a row side by side, `stride` bytes from one row to the
/// next. Elements whose byte is 0 are taken for -inf.
struct Mask {
    let address: UnsafePointer<UInt8>
    let stride: Int

    init?(_ address: UnsafePointer<UInt8>?, _ stride: Int) {
        guard let address else { return nil }
        (self.address, self.stride) = (address, stride)
    }

    private init(address: UnsafePointer<UInt8>, stride: Int) {
        (self.address, self.stride) = (address, stride)
    }

    @inline(__always)
    func moved(by bytes: Int) -> Mask { Mask(address: address + bytes, stride: stride) }

    /// `count` elements of row i from `column` on, with -inf in the place of those that it leaves out.
    @inline(__always)
    func select(_ elements: Vector, _ i: Int, _ column: Int, _ count: Int) -> Vector {
        vector_select_bytes(address + (i &* stride &+ column), count, elements, splat(-.infinity))
    }

    /// Copies rows of at least a vector, `copyStride` bytes apart, perhaps to where they lie; sets their maxima in the table.
    @inline(never)
    func copy(
        _ rows: RowBatch, to copies: UnsafeMutableRawPointer, _ copyStride: Int, _ table: SliceTable
    ) {
        for r in 0..<rows.count {
            let (row, copy) = (rows.row(r), copies + r &* copyStride)
            var largest = splat(-.infinity)
            var i = 0
            while i < rows.n {
                // The last vector may begin in the one before.
                let first = min(i, rows.n &- lanes)
                let value = select(vector_load(row.element(first)), r, first, lanes)
                vector_store(copy.element(first), value)
                largest = maximum(largest, value)
                i &+= lanes
            }
            table.setMax(r, vector_largest(largest))
        }
    }
}
