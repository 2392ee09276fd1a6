// Slices that lie side by side and are copied into scratch some at a time, as columns.

import CKernels
import CSupport
import CSwiftmax

/// Packs of slices that lie side by side, as columns. For size, as other paths here: the kernels take the time, and the whole
/// extension is to stay below a megabyte.
@_optimize(size)
func runPackedColumns(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let columns = work.across.size(0)
    let width = min(columns, work.unitSlices)
    let tiles = (columns &+ width &- 1) / width
    // Groups in memory are better read ahead by a copy of each.
    let areFar = tiles == 1 && work.slices &* work.n &* work.wideBytes >= 24 &* 1024 &* 1024
    /// Whether an input is read where it lies.
    func isInOrder(_ i: Int) -> Bool {
        work.isWide && !areFar && work.across.stride(0, i) == work.elementBytes
    }
    let far = isInOrder(0) || isInOrder(work.inputs &- 1) ? work.far : 0
    for unit in first..<end {
        let column = unit % tiles &* width
        let end = column &+ min(width, columns &- column)

        @inline(never)
        func start(_ operand: Int, _ column: Int) -> UnsafeMutableRawPointer {
            work.start(unit / tiles, operand) + column &* work.across.stride(0, operand)
        }
        let odd = work.oddColumns(end &- column)
        for column in end &- odd..<end {
            func operand(_ i: Int) -> Work.Operand {
                Work.Operand(address: start(i, column), stride: work.elementStride(i))
            }
            work.callPackedColumn(operand(0), operand(work.inputs &- 1), operand(work.output), packs)
        }
        let count = end &- odd &- column
        if count == 0 { continue }
        /// Columns where they lie, if in order, or packed: a single row of those whose elements are all the same.
        @inline(never)
        func input(_ i: Int) -> Work.Operand {
            let (step, stride) = (work.across.stride(0, i), work.elementStride(i))
            if isInOrder(i) { return Work.Operand(address: start(i, column), stride: stride) }
            let packed = Work.Operand(
                address: packs.input(i), stride: stride == 0 ? 0 : count &* work.wideBytes)
            // Four rows ahead or, where these are few, two packs.
            work.gather(
                start(i, column), stride, step, stride == 0 ? 1 : work.n, count, packed.address, packs,
                ahead: work.n < 16 ? 2 &* count &* step : 4 &* stride)
            return packed
        }
        let x = input(0)
        let other =
            work.inputs > 1
            ? input(1) : Work.Operand(address: packs.input(1), stride: count &* work.wideBytes)
        let target = start(work.output, column)
        let following = (unit &+ 1) % tiles &* width
        let isNext = unit &+ 1 < end && work.kind == .forward
        let next = swiftmax_next(
            address: isNext
                ? work.start((unit &+ 1) / tiles, 0) + following &* work.across.stride(0, 0) : nil,
            row_stride: work.elementStride(0), column_stride: work.across.stride(0, 0))
        if work.isReduction {
            work.callColumns(x, x, other, count, packs.kernel, next: next)
            work.scatter(other.address, count, target, work.across.stride(0, work.output), packs)
            continue
        }
        let step = work.across.stride(0, work.output)
        let mayStayThere = work.streaming == 0 || work.areRunsWorthStreaming
        if work.isWide && step == work.elementBytes && mayStayThere {
            let results = Work.Operand(address: target, stride: work.elementStride(work.output))
            work.callColumns(
                x, other, results, count, packs.kernel, streaming: work.streaming, far: far, next: next)
            continue
        }
        let packed = Work.Operand(
            address: x.stride == 0 ? packs.rows : packs.input(0), stride: count &* work.wideBytes)
        work.callColumns(x, other, packed, count, packs.kernel, far: far, next: next)
        work.scatter(
            packed.address, work.n, count, target, work.elementStride(work.output), step, packs)
    }
}
