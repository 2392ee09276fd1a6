// Slices that lie side by side and are copied into scratch some at a time, as columns, or turned into rows where these
// are few and long.

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

        /// The mask of row `i` of a pack.
        func maskRow(_ i: Int) -> Work.Operand {
            Work.Operand(
                address: start(work.mask, column) + work.slice.offset(i, work.mask),
                stride: work.across.stride(0, work.mask))
        }

        for operand in 0..<work.inputs {
            let (source, step) = (start(operand, column), work.across.stride(0, operand))
            let pack = packs.input(operand)
            if work.isSimple {
                // Four rows ahead or, where these are few, two packs.
                work.gather(
                    source, work.elementStride(operand), step, work.n, count, pack, packs,
                    ahead: work.n < 16 ? 2 &* count &* step : 4 &* work.elementStride(operand))
                continue
            }
            for i in 0..<work.n {
                let row = pack + i &* packedStride
                let source = source + work.slice.offset(i, operand)
                if work.hasMask {
                    work.gather(source, step, count, row, mask: maskRow(i), packs)
                } else {
                    work.gather(source, step, count, row, packs)
                }
            }
        }
        let packed = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        let target = start(work.output, column)
        let following = (unit &+ 1) % tiles &* width
        let isNext = unit &+ 1 < end && work.kind == .forward && work.slice.count == 1
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
        if work.isWide && work.isSimple && step == work.elementBytes && mayStayThere {
            let results = Work.Operand(address: target, stride: work.elementStride(work.output))
            work.callColumns(
                packed, other, results, count, packs.kernel, streaming: work.streaming, next: next)
            continue
        }
        work.callColumns(packed, other, packed, count, packs.kernel, next: next)
        if work.isSimple {
            work.scatter(
                packed.address, work.n, count, target, work.elementStride(work.output), step, packs)
            continue
        }
        for i in 0..<work.n {
            let row = packed.address + i &* packedStride
            let target = target + work.slice.offset(i, work.output)
            if work.hasMask {
                work.scatter(row, count, target, step, mask: maskRow(i), packs)
            } else {
                work.scatter(row, count, target, step, packs)
            }
        }
    }
}

extension Work {
    /// The elements of a group of slices side by side, as elements of the wide type: where they lie, or in scratch.
    @inline(never)
    fileprivate func wideGroup(_ group: Int, _ operand: Int, _ packs: Packs) -> Operand {
        let source = Operand(address: start(group, operand), stride: elementStride(operand))
        if isWide { return source }
        let columns = across.size(0)
        gather(source.address, source.stride, elementBytes, n, columns, packs.rows, packs)
        return Operand(address: packs.rows, stride: columns &* wideBytes)
    }

    /// Calls `write` with where the results of a group are to go, so many along each slice, and brings them there.
    @inline(never)
    fileprivate func writeWideGroup(
        _ group: Int, _ count: Int, _ packs: Packs, _ write: (_ target: Operand) -> Void
    ) {
        let target = Operand(address: start(group, output), stride: elementStride(output))
        if isWide {
            write(target)
            return
        }
        let columns = across.size(0)
        let rowBytes = columns &* wideBytes
        write(Operand(address: packs.rows, stride: rowBytes))
        scatter(packs.rows, count, columns, target.address, target.stride, elementBytes, packs)
    }
}

/// Slices that lie side by side but are too few for a vector across them: those of several groups, packed as columns.
@_optimize(size)
func runGroupedColumns(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let (columns, size) = (work.across.size(0), work.unitSlices)
    let runBytes = columns &* work.wideBytes
    for unit in first..<end {
        let group = unit &* size
        let count = min(size, work.batch.elements &- group)
        let packedStride = count &* runBytes
        for operand in 0..<work.inputs {
            for g in 0..<count {
                let source = work.wideGroup(group &+ g, operand, packs)
                copyRuns(
                    source.address, source.stride, packs.input(operand) + g &* runBytes, packedStride, work.n,
                    runBytes)
            }
        }
        let packed = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        let result = work.isReduction ? other : packed
        work.callColumns(packed, other, result, count &* columns, packs.kernel)
        let results = work.isReduction ? 1 : work.n
        for g in 0..<count {
            work.writeWideGroup(group &+ g, results, packs) { target in
                copyRuns(
                    result.address + g &* runBytes, packedStride, target.address, target.stride, results,
                    runBytes)
            }
        }
    }
}

/// The same, where the slices are long enough to become rows. A unit is one group.
@_optimize(size)
func runTurnedColumns(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let transpose = work.kernels.pointee.transpose.unsafelyUnwrapped
    let (columns, n, rowBytes) = (work.across.size(0), work.n, work.n &* work.wideBytes)
    for group in first..<end {
        for operand in 0..<work.inputs {
            let source = work.wideGroup(group, operand, packs)
            transpose(source.address, source.stride, packs.input(operand), rowBytes, n, columns)
        }
        let packed = Work.Operand(address: packs.input(0), stride: rowBytes)
        let other = Work.Operand(address: packs.input(1), stride: rowBytes)
        if work.isReduction {
            work.writeWideGroup(group, 1, packs) { target in
                let results = Work.Operand(address: target.address, stride: work.wideBytes)
                work.callRows(packed, packed, results, columns, packs.kernel)
            }
            continue
        }
        work.callRows(packed, other, packed, columns, packs.kernel)
        work.writeWideGroup(group, n, packs) { target in
            transpose(packed.address, rowBytes, target.address, target.stride, columns, n)
        }
    }
}
