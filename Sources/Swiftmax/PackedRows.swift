// Slices that are copied into scratch some at a time, as rows, or turned into columns where they are short.

import CKernels
import CSupport
import CSwiftmax

extension Work {
    /// Calls `body(i, count)` for the elements first..<end of a slice, as far as they have one stride.
    @inline(__always)
    private func forEachRun(_ first: Int, _ end: Int, _ body: (Int, Int) -> Void) {
        var i = first
        while i < end {
            let count = min(end &- i, slice.run(from: i))
            body(i, count)
            i &+= count
        }
    }

    @inline(__always)
    private func runStride(_ operand: Int) -> Int {
        slice.count == 0 ? 0 : slice.stride(slice.count &- 1, operand)
    }

    /// Elements first..<end of slice `index` as a row; those the mask leaves out are -inf.
    @inline(never)
    @_optimize(size)
    func gatherRow(
        _ operand: Int, _ index: Int, _ first: Int, _ end: Int, _ row: UnsafeMutableRawPointer,
        _ packs: Packs
    ) {
        let origin = start(index, operand)
        forEachRun(first, end) { i, count in
            let (source, stride) = (origin + slice.offset(i, operand), runStride(operand))
            let target = row + (i &- first) &* wideBytes
            if hasMask {
                gather(source, stride, count, target, mask: maskRun(index, i), packs)
            } else {
                gather(source, stride, count, target, packs)
            }
        }
    }

    /// The way back; elements that the mask leaves out get their fixed result.
    @inline(never)
    @_optimize(size)
    func scatterRow(
        _ index: Int, _ first: Int, _ end: Int, _ row: UnsafeMutableRawPointer, _ packs: Packs
    ) {
        let origin = start(index, output)
        forEachRun(first, end) { i, count in
            let source = row + (i &- first) &* wideBytes
            let (target, stride) = (origin + slice.offset(i, output), runStride(output))
            if hasMask {
                scatter(source, count, target, stride, mask: maskRun(index, i), packs)
            } else {
                scatter(source, count, target, stride, packs)
            }
        }
    }

    /// The mask of slice `index` from element `i` on.
    private func maskRun(_ index: Int, _ i: Int) -> Operand {
        Operand(address: start(index, mask) + slice.offset(i, mask), stride: runStride(mask))
    }

    /// Gathers `rows` slices from `index` on, `rowStride` bytes apart.
    @inline(never)
    @_optimize(size)
    func gatherRows(
        _ operand: Int, _ index: Int, _ rows: Int, _ target: UnsafeMutableRawPointer, _ rowStride: Int,
        _ packs: Packs
    ) {
        if isTurned(operand) {
            let columns = target == packs.rows ? packs.input(operand) : packs.rows
            forEachRun(index, rows) { index, count, done in
                var (source, stride) = (start(index, operand), elementStride(operand))
                if !isTurnedInPlace(operand) {
                    gather(source, stride, step(operand), n, count, columns, packs)
                    (source, stride) = (columns, count &* wideBytes)
                }
                transpose(source, stride, target + done &* rowStride, rowStride, n, count, 0)
            }
        } else if isEven(index, rows) && rowStride == n &* wideBytes {
            gather(
                start(index, operand), step(operand), elementStride(operand), rows, n, target, packs)
        } else {
            for r in 0..<rows {
                gatherRow(operand, index &+ r, 0, n, target + r &* rowStride, packs)
            }
        }
    }

    /// The way back; slices without a gap between them at once.
    @inline(never)
    @_optimize(size)
    func scatterRows(
        _ index: Int, _ rows: Int, _ source: UnsafeMutableRawPointer, _ rowStride: Int, _ packs: Packs
    ) {
        if isTurned(output) {
            let columns = source == packs.rows ? packs.input(0) : packs.rows
            forEachRun(index, rows) { index, count, done in
                let (rows, target) = (source + done &* rowStride, start(index, output))
                let stride = elementStride(output)
                if isTurnedInPlace(output) { return transpose(rows, rowStride, target, stride, count, n, 0) }
                transpose(rows, rowStride, columns, count &* wideBytes, count, n, 0)
                scatter(columns, n, count, target, stride, step(output), packs)
            }
        } else if isEven(index, rows) && rowStride == n &* wideBytes
            && step(output) == n &* elementStride(output)
        {
            scatter(source, rows &* n, start(index, output), elementStride(output), packs)
        } else {
            for r in 0..<rows {
                scatterRow(index &+ r, 0, n, source + r &* rowStride, packs)
            }
        }
    }

    /// Whether the slices of an operand lie nearer to each other than their own elements, and are turned to become rows.
    func isTurned(_ operand: Int) -> Bool {
        !hasMask && slice.count == 1 && step(operand) != 0
            && step(operand).magnitude < elementStride(operand).magnitude
    }

    /// Whether they are where they lie, and not as columns of the wide type without gaps.
    private func isTurnedInPlace(_ operand: Int) -> Bool {
        isWide && step(operand) == elementBytes && elementStride(operand) > 0
    }

    /// Whether those of any operand are.
    var areTurned: Bool {
        for operand in 0...inputs where isTurned(operand) && !(isReduction && operand == output) {
            return true
        }
        return false
    }

    /// Whether slices have one stride between them.
    private func isEven(_ index: Int, _ rows: Int) -> Bool { batch.run(from: index) >= rows }

    /// Whether slices are rows in memory that need no change.
    func isRow(_ operand: Int) -> Bool {
        isWide && !hasMask && slice.count <= 1 && (n == 1 || elementStride(operand) == elementBytes)
    }

    /// Whether the results of packed rows take the place of their elements: not of rows that end in a part of a vector, whose store
    /// would hold up the loads of the next row, nor of long ones, whose exponentials are kept in the place of the results.
    var arePackedRowsInPlace: Bool {
        kind == .backward || n &* wideBytes % 64 == 0 && n <= Int(SWIFTMAX_BLOCK)
    }

    /// Calls `body` for those of `count` slices or groups from `first` on that are one distance apart in all arrays, with how many were
    /// before them.
    @inline(__always)
    func forEachRun(_ first: Int, _ count: Int, _ body: (_ index: Int, _ run: Int, _ done: Int) -> Void) {
        var done = 0
        while done < count {
            let run = min(count &- done, batch.run(from: first &+ done))
            body(first &+ done, run, done)
            done &+= run
        }
    }

    /// Whether columns of results are turned fast to where their rows lie, past the caches too.
    var areResultsTurned: Bool {
        n > 2 && n <= Int(kernels.pointee.most_turned) && isRow(output) && step(output) == n &* wideBytes
    }

    /// The results of a reduction, one for each of `count` slices.
    func scatterResults(
        _ results: UnsafeMutableRawPointer, _ first: Int, _ count: Int, _ packs: Packs
    ) {
        forEachRun(first, count) { index, run, done in
            scatter(results + done &* wideBytes, run, start(index, output), step(output), packs)
        }
    }
}

/// Packs of slices as rows. Operands whose slices are rows already stay where they lie.
@_optimize(size)
func runPackedRows(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let size = work.unitSlices
    let dense = work.n &* work.wideBytes
    let rowBytes = dense &+ (work.areTurned ? Work.gap(after: dense, size) : 0)
    for unit in first..<end {
        let slice = unit &* size
        let rows = min(size, work.slices &- slice)
        let isRun = work.batch.run(from: slice) >= rows

        func input(_ operand: Int) -> Work.Operand {
            if isRun && work.isRow(operand) {
                return Work.Operand(address: work.start(slice, operand), stride: work.step(operand))
            }
            work.gatherRows(operand, slice, rows, packs.input(operand), rowBytes, packs)
            return Work.Operand(address: packs.input(operand), stride: rowBytes)
        }
        let x = input(0)
        let other = work.inputs == 1 ? x : input(1)
        let isNext = unit &+ 1 < end
        let next = swiftmax_next(
            address: isNext ? work.start(slice &+ rows, 0) : nil, row_stride: work.step(0),
            column_stride: work.elementStride(0))
        if work.isReduction {
            let results = packs.input(1)
            work.callRows(
                x, x, Work.Operand(address: results, stride: work.wideBytes), rows, packs.kernel, next: next)
            work.scatterResults(results, slice, rows, packs)
        } else if isRun && work.isRow(work.output) {
            let target = Work.Operand(
                address: work.start(slice, work.output), stride: work.step(work.output))
            work.callRows(x, other, target, rows, packs.kernel, streaming: work.streaming, next: next)
        } else {
            let packed = Work.Operand(
                address: work.arePackedRowsInPlace ? packs.input(0) : packs.rows, stride: rowBytes)
            work.callRows(x, other, packed, rows, packs.kernel, next: next)
            work.scatterRows(slice, rows, packed.address, rowBytes, packs)
        }
    }
}

/// Packs of short slices, turned into columns, so that a vector takes many of them at once.
@_optimize(size)
func runShortRows(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let transpose = work.kernels.pointee.transpose.unsafelyUnwrapped
    let (n, rowBytes, size) = (work.n, work.n &* work.wideBytes, work.unitSlices)
    let columnStride = size &* work.wideBytes
    for unit in first..<end {
        let slice = unit &* size
        let rows = min(size, work.slices &- slice)
        for operand in 0..<work.inputs {
            let columns = packs.input(operand)
            if work.isRow(operand) {
                work.forEachRun(slice, rows) { index, count, r in
                    transpose(
                        work.start(index, operand), work.step(operand),
                        columns + r &* work.wideBytes, columnStride, count, n, 0)
                }
            } else {
                work.gatherRows(operand, slice, rows, packs.rows, rowBytes, packs)
                transpose(packs.rows, rowBytes, columns, columnStride, rows, n, 0)
            }
        }
        let packed = Work.Operand(address: packs.input(0), stride: columnStride)
        let other = Work.Operand(address: packs.input(1), stride: columnStride)
        // The rows of the next unit are as many lines as these columns.
        let isNext = unit &+ 1 < end && work.kind == .forward && work.isRow(0)
        let next = swiftmax_next(
            address: isNext ? work.start(slice &+ rows, 0) : nil, row_stride: columnStride,
            column_stride: work.wideBytes)
        if work.isReduction {
            work.callColumns(packed, packed, other, rows, packs.kernel, next: next)
            work.scatterResults(other.address, slice, rows, packs)
            continue
        }
        work.callColumns(packed, other, packed, rows, packs.kernel, next: next)
        if work.isRow(work.output) && work.streaming == 0 || work.areResultsTurned {
            work.forEachRun(slice, rows) { index, count, r in
                transpose(
                    packed.address + r &* work.wideBytes, columnStride,
                    work.start(index, work.output), work.step(work.output), n, count, work.streaming)
            }
        } else {
            transpose(packed.address, columnStride, packs.rows, rowBytes, n, rows, 0)
            work.scatterRows(slice, rows, packs.rows, rowBytes, packs)
        }
    }
}
