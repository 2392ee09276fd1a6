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

/// Groups of slices side by side.
private struct Groups {
    let address: UnsafeMutableRawPointer
    /// From one element of a slice to the next, and from one group to the next.
    let elementStride: Int
    let groupStride: Int

    /// Copies the `n` elements of `count` groups, in runs of slices side by side: an element of all groups at a time or, where
    /// these are fewer, a group.
    func copy(_ count: Int, _ n: Int, to target: Groups, _ runBytes: Int) {
        for i in 0..<min(n, count) {
            if n <= count {
                copyRuns(
                    address + i &* elementStride, groupStride, target.address + i &* target.elementStride,
                    target.groupStride, count, runBytes)
            } else {
                copyRuns(
                    address + i &* groupStride, elementStride, target.address + i &* target.groupStride,
                    target.elementStride, n, runBytes)
            }
        }
    }
}

extension Work {
    /// Groups that are one distance apart, where they lie in an array.
    private func groups(_ group: Int, _ operand: Int) -> Groups {
        Groups(
            address: start(group, operand), elementStride: elementStride(operand), groupStride: step(operand))
    }

    /// Groups of `n` elements in scratch, of the wide type.
    private func wideGroups(_ n: Int, in room: UnsafeMutableRawPointer) -> Groups {
        let rowBytes = across.size(0) &* wideBytes
        return Groups(address: room, elementStride: rowBytes, groupStride: n &* rowBytes)
    }

    /// Calls `body` for each of `count` groups of 16-bit elements and its place in scratch, or for all as one if there are no gaps.
    @inline(__always)
    private func forEachGroup(
        _ groups: Groups, _ count: Int, _ n: Int, _ wide: Groups,
        _ body: (_ group: UnsafeMutableRawPointer, _ wide: UnsafeMutableRawPointer, _ rows: Int) -> Void
    ) {
        let rowBytes = across.size(0) &* elementBytes
        if groups.elementStride == rowBytes && groups.groupStride == n &* rowBytes {
            return body(groups.address, wide.address, n &* count)
        }
        for g in 0..<count {
            body(groups.address + g &* groups.groupStride, wide.address + g &* wide.groupStride, n)
        }
    }

    /// `count` groups of an input as elements of the wide type: where they lie, or in scratch.
    @inline(never)
    fileprivate func wideGroups(
        _ group: Int, _ count: Int, _ operand: Int, in room: UnsafeMutableRawPointer, _ packs: Packs
    ) -> Groups {
        let (groups, wide) = (groups(group, operand), wideGroups(n, in: room))
        if isWide { return groups }
        forEachGroup(groups, count, n, wide) { group, wide, rows in
            gather(group, groups.elementStride, elementBytes, rows, across.size(0), wide, packs)
        }
        return wide
    }

    /// Calls `write` with where `count` groups of results are to go, so many along each slice, and brings them there.
    @inline(never)
    fileprivate func writeWideGroups(
        _ group: Int, _ count: Int, _ results: Int, _ packs: Packs, _ write: (_ target: Groups) -> Void
    ) {
        let (groups, wide) = (groups(group, output), wideGroups(results, in: packs.rows))
        write(isWide ? groups : wide)
        if isWide { return }
        forEachGroup(groups, count, results, wide) { group, wide, rows in
            scatter(wide, rows, across.size(0), group, groups.elementStride, elementBytes, packs)
        }
    }
}

/// Groups of a few short columns of 16 bits, widened several at a time.
@_optimize(size)
func runWidenedGroups(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    for unit in first..<end {
        var group = unit &* work.unitSlices
        let end = min(group &+ work.unitSlices, work.batch.elements)
        while group < end {
            let count = min(end &- group, work.batch.run(from: group))
            func input(_ i: Int) -> Groups { work.wideGroups(group, count, i, in: packs.input(i), packs) }
            let a = input(0)
            let b = work.inputs == 1 ? a : input(1)
            work.writeWideGroups(group, count, work.n, packs) { out in
                work.callColumns(
                    Work.Operand(address: a.address, stride: a.elementStride),
                    Work.Operand(address: b.address, stride: b.elementStride),
                    Work.Operand(address: out.address, stride: out.elementStride), work.across.size(0),
                    packs.kernel,
                    groups: swiftmax_groups(
                        count: count, input_stride: a.groupStride, other_input_stride: b.groupStride,
                        out_stride: out.groupStride))
            }
            group &+= count
        }
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

        /// Calls `body` for groups that are one distance apart in all arrays, with their place in a pack.
        @inline(__always)
        func forEachRun(_ body: (_ group: Int, _ count: Int, _ offset: Int) -> Void) {
            var done = 0
            while done < count {
                let run = min(count &- done, work.batch.run(from: group &+ done))
                body(group &+ done, run, done &* runBytes)
                done &+= run
            }
        }
        func packed(_ operand: Int, _ offset: Int) -> Groups {
            Groups(
                address: packs.input(operand) + offset, elementStride: packedStride, groupStride: runBytes)
        }
        for operand in 0..<work.inputs {
            forEachRun { group, count, offset in
                work.wideGroups(group, count, operand, in: packs.rows, packs).copy(
                    count, work.n, to: packed(operand, offset), runBytes)
            }
        }
        let input = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        work.callColumns(input, other, work.isReduction ? other : input, count &* columns, packs.kernel)
        let results = work.isReduction ? 1 : work.n
        forEachRun { group, count, offset in
            work.writeWideGroups(group, count, results, packs) { target in
                packed(work.isReduction ? 1 : 0, offset).copy(count, results, to: target, runBytes)
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
            let source = work.wideGroups(group, 1, operand, in: packs.rows, packs)
            transpose(source.address, source.elementStride, packs.input(operand), rowBytes, n, columns)
        }
        let packed = Work.Operand(address: packs.input(0), stride: rowBytes)
        let other = Work.Operand(address: packs.input(1), stride: rowBytes)
        if work.isReduction {
            work.writeWideGroups(group, 1, 1, packs) { target in
                let results = Work.Operand(address: target.address, stride: work.wideBytes)
                work.callRows(packed, packed, results, columns, packs.kernel)
            }
            continue
        }
        work.callRows(packed, other, packed, columns, packs.kernel)
        work.writeWideGroups(group, 1, n, packs) { target in
            transpose(packed.address, rowBytes, target.address, target.elementStride, columns, n)
        }
    }
}
