// Slices that lie side by side in groups of so few that a vector across them would be part empty: several groups are widened together,
// copied as columns or, where they are longer, turned into rows.

import CKernels
import CSupport
import CSwiftmax

/// Groups of slices side by side.
private struct Groups {
    let address: UnsafeMutableRawPointer
    /// From one element of a slice to the next, and from one group to the next.
    let elementStride: Int
    let groupStride: Int

    /// Copies the `n` elements of `count` groups, in runs of slices side by side: an element of all groups at a time or, where
    /// these are fewer, a group.
    ///
    /// - Parameter asks: whether as many groups after these are asked for.
    func copy(_ count: Int, _ n: Int, to target: Groups, _ runBytes: Int, asks: Bool = false) {
        if runBytes == 8 && n > 1 {
            // Pairs of floats are turned as doubles.
            let transpose = activeKernels(isDouble: true).pointee.transpose.unsafelyUnwrapped
            if elementStride == runBytes {
                return transpose(address, groupStride, target.address, target.elementStride, count, n, 0)
            }
            if target.elementStride == runBytes {
                return transpose(address, elementStride, target.address, target.groupStride, n, count, 0)
            }
        }
        let ahead = asks ? count &* groupStride : 0
        for i in 0..<min(n, count) {
            if n <= count {
                copyRuns(
                    address + i &* elementStride, groupStride, target.address + i &* target.elementStride,
                    target.groupStride, count, runBytes, ahead: ahead)
            } else {
                copyRuns(
                    address + i &* groupStride, elementStride, target.address + i &* target.groupStride,
                    target.elementStride, n, runBytes, ahead: ahead)
            }
        }
    }

    /// Turns the slices of `count` groups of `n` elements and `columns` columns into rows, those of a column after those of the one
    /// before, `columnBytes` bytes from it.
    func turn(
        _ count: Int, _ n: Int, _ columns: Int, into rows: Work.Operand, _ columnBytes: Int, _ work: Work
    ) {
        forEachPart(count, n, rows.stride == n &* work.wideBytes) { group, part, n in
            work.transpose(
                group, elementStride, rows.address + part &* rows.stride, columnBytes, n, columns,
                work.kind == .backward && work.isWide ? work.streaming : 0)
        }
    }

    /// The way back.
    func turnBack(
        _ count: Int, _ n: Int, _ columns: Int, from rows: Work.Operand, _ columnBytes: Int, _ work: Work
    ) {
        forEachPart(count, n, rows.stride == n &* work.wideBytes) { group, part, n in
            work.transpose(
                rows.address + part &* rows.stride, columnBytes, group, elementStride, columns, n,
                work.isWide ? work.streaming : 0)
        }
    }

    /// Calls `body` for each of `count` groups of `n` elements or, where they and their rows follow each other without a gap, for all
    /// as one.
    @inline(__always)
    private func forEachPart(
        _ count: Int, _ n: Int, _ areRowsDense: Bool,
        _ body: (_ group: UnsafeMutableRawPointer, _ part: Int, _ n: Int) -> Void
    ) {
        if areRowsDense && groupStride == n &* elementStride { return body(address, 0, count &* n) }
        for part in 0..<count { body(address + part &* groupStride, part, n) }
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
        let first = unit &* work.unitSlices
        work.forEachRun(first, min(work.unitSlices, work.batch.elements &- first)) { group, count, _ in
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

        func packed(_ operand: Int, _ offset: Int) -> Groups {
            Groups(
                address: packs.input(operand) + offset, elementStride: packedStride, groupStride: runBytes)
        }
        for operand in 0..<work.inputs {
            work.forEachRun(group, count) { group, run, done in
                // Of forward functions the kernels ask for what is next.
                work.wideGroups(group, run, operand, in: packs.rows, packs).copy(
                    run, work.n, to: packed(operand, done &* runBytes), runBytes,
                    asks: work.kind == .backward && work.isWide && work.streaming != 0)
            }
        }
        let input = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        work.callColumns(
            input, other, work.isReduction ? other : input, count &* columns, packs.kernel,
            next: work.following(group &+ count, isThere: unit &+ 1 < end, rowBytes: packedStride))
        let results = work.isReduction ? 1 : work.n
        work.forEachRun(group, count) { group, run, done in
            work.writeWideGroups(group, run, results, packs) { target in
                packed(work.isReduction ? 1 : 0, done &* runBytes).copy(run, results, to: target, runBytes)
            }
        }
    }
}

/// The same, turned into rows.
@_optimize(size)
func runTurnedColumns(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let (columns, size) = (work.across.size(0), work.unitSlices)
    for unit in first..<end {
        let group = unit &* size
        let count = min(size, work.batch.elements &- group)
        let dense = work.n &* work.wideBytes
        let rowBytes = dense &+ Work.gap(after: count &* dense, columns)
        func turned(_ pack: Int, _ stride: Int, from row: Int = 0) -> Work.Operand {
            Work.Operand(address: packs.input(pack) + row &* stride, stride: stride)
        }
        for operand in 0..<work.inputs {
            work.forEachRun(group, count) { group, run, done in
                work.wideGroups(group, run, operand, in: packs.rows, packs).turn(
                    run, work.n, columns, into: turned(operand, rowBytes, from: done), count &* rowBytes, work
                )
            }
        }
        let isOther = work.isReduction || !work.arePackedRowsInPlace
        let results = work.isReduction ? 1 : work.n
        let (pack, resultBytes) = (isOther ? 1 : 0, work.isReduction ? work.wideBytes : rowBytes)
        work.callRows(
            turned(0, rowBytes), turned(1, rowBytes), turned(pack, resultBytes), count &* columns,
            packs.kernel,
            next: work.following(
                group &+ count, isThere: unit &+ 1 < end, rowBytes: dense))
        work.forEachRun(group, count) { group, run, done in
            work.writeWideGroups(group, run, results, packs) { target in
                target.turnBack(
                    run, results, columns, from: turned(pack, resultBytes, from: done),
                    count &* resultBytes, work)
            }
        }
    }
}

extension Work {
    /// The groups from `group` on, as many elements as the rows or columns that are computed before them.
    fileprivate func following(_ group: Int, isThere: Bool, rowBytes: Int) -> swiftmax_next {
        let isAsked = isThere && kind == .forward && isWide
        return swiftmax_next(
            address: isAsked ? start(group, 0) : nil, row_stride: rowBytes, column_stride: wideBytes)
    }
}
