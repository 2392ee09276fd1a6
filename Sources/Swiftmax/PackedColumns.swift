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
    for unit in first..<end {
        let column = unit % tiles &* width
        let end = column &+ min(width, columns &- column)

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
        let packedStride = count &* work.wideBytes

        for operand in 0..<work.inputs {
            let step = work.across.stride(0, operand)
            // Four rows ahead or, where these are few, two packs.
            work.gather(
                start(operand, column), work.elementStride(operand), step, work.n, count,
                packs.input(operand), packs,
                ahead: work.n < 16 ? 2 &* count &* step : 4 &* work.elementStride(operand))
        }
        let packed = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        let target = start(work.output, column)
        let following = (unit &+ 1) % tiles &* width
        let isNext = unit &+ 1 < end && work.kind == .forward
        let next = swiftmax_next(
            address: isNext
                ? work.start((unit &+ 1) / tiles, 0) + following &* work.across.stride(0, 0) : nil,
            row_stride: work.elementStride(0), column_stride: work.across.stride(0, 0))
        if work.isReduction {
            work.callColumns(packed, packed, other, count, packs.kernel, next: next)
            work.scatter(other.address, count, target, work.across.stride(0, work.output), packs)
            continue
        }
        let step = work.across.stride(0, work.output)
        let mayStayThere = work.streaming == 0 || work.areRunsWorthStreaming
        if work.isWide && step == work.elementBytes && mayStayThere {
            let results = Work.Operand(address: target, stride: work.elementStride(work.output))
            work.callColumns(
                packed, other, results, count, packs.kernel, streaming: work.streaming, next: next)
            continue
        }
        work.callColumns(packed, other, packed, count, packs.kernel, next: next)
        work.scatter(
            packed.address, work.n, count, target, work.elementStride(work.output), step, packs)
    }
}
