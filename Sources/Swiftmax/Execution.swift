// The paths, each a function from a range of units to kernel calls. A unit is a slice, a tile of columns, a
// pack of slices or a block; what is computed for it does not depend on the range.

import CKernels
import CSupport
import CSwiftmax

/// How a call's slices are handed to the kernels.
enum Path {
    /// Elements of a slice are contiguous: whole rows, where they lie.
    case rows
    /// The same of 16-bit elements, for gradients.
    case halfRows
    /// Elements side by side belong to neighboring slices: whole columns, where they lie.
    case columns
    /// Anything else, 16-bit types and masks: slices are copied into scratch, some at a time, and back.
    case packedRows, shortRows, packedColumns, groupedColumns, turnedColumns
    /// Few long slices: one after another, by blocks.
    case blockStats, blockResults

    func run(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
        switch self {
        case .rows: runRows(work, first, end, scratch)
        case .halfRows: runHalfRows(work, first, end, scratch)
        case .columns: runColumns(work, first, end, scratch)
        case .packedRows: runPackedRows(work, first, end, scratch)
        case .shortRows: runShortRows(work, first, end, scratch)
        case .packedColumns: runPackedColumns(work, first, end, scratch)
        case .groupedColumns: runGroupedColumns(work, first, end, scratch)
        case .turnedColumns: runTurnedColumns(work, first, end, scratch)
        case .blockStats: runBlockStats(work, first, end, scratch)
        case .blockResults: runBlockResults(work, first, end, scratch)
        }
        // Once for many units: it waits for the stores.
        if work.pointee.streaming != 0 { support_stream_fence() }
    }
}

// MARK: Kernels

extension Work {
    /// One array's part in a kernel call: where its slices start, and how far apart their rows or elements are.
    struct Operand {
        var address: UnsafeMutableRawPointer
        var stride: Int
    }

    @inline(__always)
    func callRows(
        _ a: Operand, _ b: Operand, _ out: Operand, _ rows: Int, _ scratch: UnsafeMutableRawPointer
    ) {
        if kind == .forward {
            kernels.pointee.forward_rows(
                op, a.address, a.stride, out.address, out.stride, rows, n, scratch, streaming)
        } else {
            kernels.pointee.backward_rows(
                op, a.address, a.stride, b.address, b.stride, out.address, out.stride, rows, n, scratch,
                streaming)
        }
    }

    @inline(__always)
    func callColumns(
        _ a: Operand, _ b: Operand, _ out: Operand, _ columns: Int, _ scratch: UnsafeMutableRawPointer
    ) {
        if kind == .forward {
            kernels.pointee.forward_columns(
                op, a.address, a.stride, out.address, out.stride, columns, n, scratch, streaming)
        } else {
            kernels.pointee.backward_columns(
                op, a.address, a.stride, b.address, b.stride, out.address, out.stride, columns, n, scratch,
                streaming)
        }
    }

    /// Where slice `index` starts in an operand.
    @inline(__always)
    func start(_ index: Int, _ operand: Int) -> UnsafeMutableRawPointer {
        pointer(operand) + batch.offset(index, operand)
    }

    /// From one slice to the next.
    @inline(__always)
    func step(_ operand: Int) -> Int {
        batch.count == 0 ? 0 : batch.stride(batch.count &- 1, operand)
    }

    /// From one element of a slice that is a single dimension to the next.
    @inline(__always)
    func elementStride(_ operand: Int) -> Int { slice.count == 0 ? 0 : slice.stride(0, operand) }
}

// MARK: In place

func runRows(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
    var index = first
    while index < end {
        let rows = min(end &- index, work.pointee.batch.run(from: index))
        func operand(_ i: Int) -> Work.Operand {
            Work.Operand(address: work.pointee.start(index, i), stride: work.pointee.step(i))
        }
        work.pointee.callRows(
            operand(0), operand(work.pointee.inputs &- 1), operand(work.pointee.output), rows, scratch)
        index &+= rows
    }
}

func runHalfRows(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
    let work = work.pointee
    let kernel = work.kernels.pointee.backward_half_rows.unsafelyUnwrapped
    let isBFloat16: Int32 = work.dtype == Int32(SWIFTMAX_BFLOAT16) ? 1 : 0
    var index = first
    while index < end {
        let rows = min(end &- index, work.batch.run(from: index))
        let done = kernel(
            work.op, isBFloat16, work.start(index, 0), work.step(0), work.start(index, 1), work.step(1),
            work.start(index, 2), work.step(2), rows, work.n, scratch)
        index &+= done
        if done < rows {
            work.runOneByBlocks(index, scratch)
            index &+= 1
        }
    }
}

func runColumns(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
    let work = work.pointee
    let (columns, width) = (work.across.size(0), work.unitSlices)
    let tiles = (columns &+ width &- 1) / width
    for unit in first..<end {
        let column = unit % tiles &* width
        func operand(_ i: Int, _ column: Int) -> Work.Operand {
            Work.Operand(
                address: work.start(unit / tiles, i) + column &* work.elementBytes,
                stride: work.elementStride(i))
        }
        let end = column &+ min(width, columns &- column)
        let odd = work.oddColumns(end &- column)
        if end &- odd > column {
            work.callColumns(
                operand(0, column), operand(work.inputs &- 1, column), operand(work.output, column),
                end &- odd &- column, scratch)
        }
        for column in end &- odd..<end {
            work.callPackedColumn(
                operand(0, column), operand(work.inputs &- 1, column), operand(work.output, column),
                Work.Packs(scratch: scratch))
        }
    }
}

extension Work {
    /// How many of so many columns are better packed as rows, one by one: the last, where they would fill less than a
    /// quarter of a vector.
    fileprivate func oddColumns(_ columns: Int) -> Int {
        if hasMask || slice.count > 1 { return 0 }
        let lanes = 64 / wideBytes
        let odd = columns % lanes
        return odd < lanes / 4 && n >= 2 &* lanes && n &* wideBytes <= Work.packBytes ? odd : 0
    }

    /// Packs one column as a row.
    fileprivate func callPackedColumn(_ a: Operand, _ b: Operand, _ out: Operand, _ packs: Packs) {
        func packed(_ operand: Operand, _ index: Int) -> Operand {
            gather(operand.address, operand.stride, n, packs.input(index), packs)
            return Operand(address: packs.input(index), stride: 0)
        }
        let x = packed(a, 0)
        let other = inputs == 1 ? x : packed(b, 1)
        if isReduction {
            let result = Operand(address: packs.input(1), stride: 0)
            callRows(x, other, result, 1, packs.kernel)
            scatter(result.address, 1, out.address, elementBytes, packs)
        } else {
            callRows(x, other, x, 1, packs.kernel)
            scatter(x.address, n, out.address, out.stride, packs)
        }
    }
}

// MARK: Packed rows

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
    func gatherRow(
        _ operand: Int, _ index: Int, _ first: Int, _ end: Int, _ row: UnsafeMutableRawPointer,
        _ packs: Packs
    ) {
        let origin = start(index, operand)
        forEachRun(first, end) { i, count in
            gather(
                origin + slice.offset(i, operand), runStride(operand), count,
                row + (i &- first) &* wideBytes, packs)
        }
        if hasMask { applyMask(index, first, end, row, -.infinity, packs) }
    }

    /// The way back; elements that the mask leaves out get their fixed result.
    func scatterRow(
        _ index: Int, _ first: Int, _ end: Int, _ row: UnsafeMutableRawPointer, _ packs: Packs
    ) {
        if hasMask { applyMask(index, first, end, row, absentResult, packs) }
        let origin = start(index, output)
        forEachRun(first, end) { i, count in
            scatter(
                row + (i &- first) &* wideBytes, count, origin + slice.offset(i, output),
                runStride(output), packs)
        }
    }

    private func applyMask(
        _ index: Int, _ first: Int, _ end: Int, _ row: UnsafeMutableRawPointer, _ fill: Double,
        _ packs: Packs
    ) {
        let origin = start(index, mask)
        forEachRun(first, end) { i, count in
            copy(origin + slice.offset(i, mask), runStride(mask), packs.mask, 1, count, 1)
            kernels.pointee.fill_where_false(
                row + (i &- first) &* wideBytes, packs.mask.assumingMemoryBound(to: UInt8.self), fill,
                count)
        }
    }

    /// Gathers `rows` slices from `index` on, one after another.
    func gatherRows(
        _ operand: Int, _ index: Int, _ rows: Int, _ target: UnsafeMutableRawPointer, _ packs: Packs
    ) {
        if isEven(index, rows) {
            gather(
                start(index, operand), step(operand), elementStride(operand), rows, n, target, packs)
            return
        }
        for r in 0..<rows {
            gatherRow(operand, index &+ r, 0, n, target + r &* n &* wideBytes, packs)
        }
    }

    /// The way back; slices without a gap between them at once.
    func scatterRows(
        _ index: Int, _ rows: Int, _ source: UnsafeMutableRawPointer, _ packs: Packs
    ) {
        if isEven(index, rows) && step(output) == n &* elementStride(output) {
            scatter(source, rows &* n, start(index, output), elementStride(output), packs)
            return
        }
        for r in 0..<rows {
            scatterRow(index &+ r, 0, n, source + r &* n &* wideBytes, packs)
        }
    }

    /// Whether the elements of a slice have one stride, and no mask.
    fileprivate var isSimple: Bool { !hasMask && slice.count == 1 }

    /// Whether slices also have one stride between them.
    private func isEven(_ index: Int, _ rows: Int) -> Bool { isSimple && batch.run(from: index) >= rows }

    /// Whether slices are rows in memory that need no change.
    func isRow(_ operand: Int) -> Bool {
        isWide && !hasMask && slice.count <= 1 && (n == 1 || elementStride(operand) == elementBytes)
    }

    /// The results of a reduction, one for each of `count` slices.
    func scatterResults(
        _ results: UnsafeMutableRawPointer, _ first: Int, _ count: Int, _ packs: Packs
    ) {
        var index = first
        while index < first &+ count {
            let run = min(first &+ count &- index, batch.run(from: index))
            scatter(
                results + (index &- first) &* wideBytes, run, start(index, output), step(output), packs)
            index &+= run
        }
    }
}

/// Packs of slices as rows. Operands whose slices are rows already stay where they lie.
func runPackedRows(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let (rowBytes, size) = (work.n &* work.wideBytes, work.unitSlices)
    for unit in first..<end {
        let slice = unit &* size
        let rows = min(size, work.slices &- slice)
        let isRun = work.batch.run(from: slice) >= rows

        func input(_ operand: Int) -> Work.Operand {
            if isRun && work.isRow(operand) {
                return Work.Operand(address: work.start(slice, operand), stride: work.step(operand))
            }
            work.gatherRows(operand, slice, rows, packs.input(operand), packs)
            return Work.Operand(address: packs.input(operand), stride: rowBytes)
        }
        let x = input(0)
        let other = work.inputs == 1 ? x : input(1)
        if work.isReduction {
            let results = packs.input(1)
            work.callRows(
                x, x, Work.Operand(address: results, stride: work.wideBytes), rows, packs.kernel)
            work.scatterResults(results, slice, rows, packs)
        } else if isRun && work.isRow(work.output) {
            let target = Work.Operand(
                address: work.start(slice, work.output), stride: work.step(work.output))
            work.callRows(x, other, target, rows, packs.kernel)
        } else {
            let packed = Work.Operand(address: packs.input(0), stride: rowBytes)
            work.callRows(x, other, packed, rows, packs.kernel)
            work.scatterRows(slice, rows, packed.address, packs)
        }
    }
}

/// Packs of short slices, turned into columns, so that a vector takes many of them at once.
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

        /// Calls `body` for rows that are one distance apart where they lie.
        @inline(__always)
        func forEachRunOfRows(_ body: (_ r: Int, _ count: Int) -> Void) {
            var r = 0
            while r < rows {
                let count = min(rows &- r, work.batch.run(from: slice &+ r))
                body(r, count)
                r &+= count
            }
        }

        for operand in 0..<work.inputs {
            let columns = packs.input(operand)
            if work.isRow(operand) {
                forEachRunOfRows { r, count in
                    transpose(
                        work.start(slice &+ r, operand), work.step(operand),
                        columns + r &* work.wideBytes, columnStride, count, n)
                }
            } else {
                work.gatherRows(operand, slice, rows, packs.rows, packs)
                transpose(packs.rows, rowBytes, columns, columnStride, rows, n)
            }
        }
        let packed = Work.Operand(address: packs.input(0), stride: columnStride)
        let other = Work.Operand(address: packs.input(1), stride: columnStride)
        if work.isReduction {
            work.callColumns(packed, packed, other, rows, packs.kernel)
            work.scatterResults(other.address, slice, rows, packs)
            continue
        }
        work.callColumns(packed, other, packed, rows, packs.kernel)
        if work.isRow(work.output) {
            forEachRunOfRows { r, count in
                transpose(
                    packed.address + r &* work.wideBytes, columnStride,
                    work.start(slice &+ r, work.output), work.step(work.output), n, count)
            }
        } else {
            transpose(packed.address, columnStride, packs.rows, rowBytes, n, rows)
            work.scatterRows(slice, rows, packs.rows, packs)
        }
    }
}

// MARK: Packed columns

/// Packs of slices that lie side by side, as columns.
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

        /// Sets what the mask leaves out in row `i` of a pack.
        func applyMask(_ i: Int, _ row: UnsafeMutableRawPointer, _ fill: Double) {
            copy(
                start(work.mask, column) + work.slice.offset(i, work.mask),
                work.across.stride(0, work.mask), packs.mask, 1, count, 1)
            work.kernels.pointee.fill_where_false(
                row, packs.mask.assumingMemoryBound(to: UInt8.self), fill, count)
        }

        for operand in 0..<work.inputs {
            let (source, step) = (start(operand, column), work.across.stride(0, operand))
            let pack = packs.input(operand)
            if work.isSimple {
                work.gather(source, work.elementStride(operand), step, work.n, count, pack, packs)
                continue
            }
            for i in 0..<work.n {
                let row = pack + i &* packedStride
                work.gather(source + work.slice.offset(i, operand), step, count, row, packs)
                if work.hasMask { applyMask(i, row, -.infinity) }
            }
        }
        let packed = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        let target = start(work.output, column)
        if work.isReduction {
            work.callColumns(packed, packed, other, count, packs.kernel)
            work.scatter(other.address, count, target, work.across.stride(0, work.output), packs)
            continue
        }
        work.callColumns(packed, other, packed, count, packs.kernel)
        let step = work.across.stride(0, work.output)
        if work.isSimple && work.elementStride(work.output) == count &* step {
            work.scatter(packed.address, work.n &* count, target, step, packs)
            continue
        }
        for i in 0..<work.n {
            let row = packed.address + i &* packedStride
            if work.hasMask { applyMask(i, row, work.absentResult) }
            work.scatter(row, count, target + work.slice.offset(i, work.output), step, packs)
        }
    }
}

/// Slices that lie side by side but are too few for a vector across them: those of several groups, packed as columns.
func runGroupedColumns(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let (columns, size) = (work.across.size(0), work.unitSlices)
    let runBytes = columns &* work.elementBytes
    for unit in first..<end {
        let group = unit &* size
        let count = min(size, work.batch.elements &- group)
        let packedStride = count &* runBytes
        for operand in 0..<work.inputs {
            for g in 0..<count {
                copyRuns(
                    work.start(group &+ g, operand), work.elementStride(operand),
                    packs.input(operand) + g &* runBytes, packedStride, work.n, runBytes)
            }
        }
        let packed = Work.Operand(address: packs.input(0), stride: packedStride)
        let other = Work.Operand(address: packs.input(1), stride: packedStride)
        let result = work.isReduction ? other : packed
        work.callColumns(packed, other, result, count &* columns, packs.kernel)
        for g in 0..<count {
            copyRuns(
                result.address + g &* runBytes, packedStride, work.start(group &+ g, work.output),
                work.isReduction ? 0 : work.elementStride(work.output), work.isReduction ? 1 : work.n,
                runBytes)
        }
    }
}

/// The same, where the slices are long enough to become rows. A unit is one group.
func runTurnedColumns(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let transpose = work.kernels.pointee.transpose.unsafelyUnwrapped
    let (columns, n, rowBytes) = (work.across.size(0), work.n, work.n &* work.wideBytes)
    for group in first..<end {
        for operand in 0..<work.inputs {
            transpose(
                work.start(group, operand), work.elementStride(operand), packs.input(operand), rowBytes, n,
                columns)
        }
        let packed = Work.Operand(address: packs.input(0), stride: rowBytes)
        let other = Work.Operand(address: packs.input(1), stride: rowBytes)
        let target = work.start(group, work.output)
        if work.isReduction {
            let results = Work.Operand(address: target, stride: work.elementBytes)
            work.callRows(packed, packed, results, columns, packs.kernel)
        } else {
            work.callRows(packed, other, packed, columns, packs.kernel)
            transpose(packed.address, rowBytes, target, work.elementStride(work.output), columns, n)
        }
    }
}

// MARK: Blocks

extension Work {
    /// Elements first..<end of the current slice, in place where they can be read there.
    func blockElements(
        _ operand: Int, _ first: Int, _ end: Int, _ packs: Packs
    ) -> UnsafeMutableRawPointer {
        if isRow(operand) { return start(current, operand) + first &* elementBytes }
        gatherRow(operand, current, first, end, packs.input(operand), packs)
        return packs.input(operand)
    }
}

extension Work {
    /// The stats of a slice from those of its blocks; whether they must be taken again, with the max of these as
    /// `known`.
    func merge(
        _ blocks: UnsafePointer<swiftmax_stats>, _ count: Int, _ total: UnsafeMutablePointer<swiftmax_stats>
    ) -> Bool {
        kind == .forward
            ? kernels.pointee.merge_stats(op, blocks, count, total) != 0
            : kernels.pointee.merge_sums(blocks, count, total) != 0
    }
}

extension Work {
    /// The logsumexp of the current slice from its stats; where it is next to 0, from its elements once more.
    func writeLogsumexp(_ total: UnsafePointer<swiftmax_stats>, _ scratch: UnsafeMutableRawPointer) {
        let packs = Packs(scratch: scratch)
        let result = packs.rows
        kernels.pointee.row_output(op, result, result, 1, total, packs.kernel, 0)
        let value = wideBytes == 8 ? result.load(as: Double.self) : Double(result.load(as: Float.self))
        let max = total.pointee.max
        if swiftmax_logsumexp_cancels(value, max) {
            var sum = swiftmax_exact_sum(limbs: (0, 0, 0, 0))
            var first = 0
            while first < n {
                let end = min(first &+ Int(SWIFTMAX_BLOCK), n)
                let x = blockElements(0, first, end, packs)
                swiftmax_add_exact(x, wideBytes, wideBytes, end &- first, max, &sum)
                first = end
            }
            let exact = kernels.pointee.exact_log(&sum, max)
            if wideBytes == 8 {
                result.storeBytes(of: exact, as: Double.self)
            } else {
                result.storeBytes(of: Float(exact), as: Float.self)
            }
        }
        scatterResults(result, current, 1, packs)
    }
}

/// The stats of blocks first..<end of the current slice.
func runBlockStats(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let block = Int(SWIFTMAX_BLOCK)
    for b in first..<end {
        let start = b &* block
        let end = min(start &+ block, work.n)
        let x = work.blockElements(0, start, end, packs)
        let stats = work.stats.unsafelyUnwrapped + b
        if work.kind == .forward {
            work.kernels.pointee.row_stats(work.op, x, end &- start, work.known, stats, packs.kernel)
        } else {
            let y = work.blockElements(1, start, end, packs)
            work.kernels.pointee.row_sum(
                work.op, x, y, end &- start, work.known, stats, packs.kernel)
        }
    }
}

/// The results of blocks first..<end of the current slice, whose stats are the first of `Work.stats`.
func runBlockResults(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let isInPlace = work.isRow(work.output)
    for b in first..<end {
        let start = b &* Int(SWIFTMAX_BLOCK)
        let end = min(start &+ Int(SWIFTMAX_BLOCK), work.n)
        let x = work.blockElements(0, start, end, packs)
        let target =
            isInPlace
            ? work.start(work.current, work.output) + start &* work.elementBytes : packs.input(0)
        let streaming = isInPlace ? work.streaming : 0
        if work.kind == .forward {
            work.kernels.pointee.row_output(
                work.op, x, target, end &- start, work.stats, packs.kernel, streaming)
        } else {
            let y = work.blockElements(1, start, end, packs)
            work.kernels.pointee.row_grad_input(
                work.op, x, y, target, end &- start, work.stats, streaming)
        }
        if !isInPlace { work.scatterRow(work.current, start, end, target, packs) }
    }
}

extension Work {
    /// One slice by blocks, in this thread.
    fileprivate func runOneByBlocks(_ index: Int, _ scratch: UnsafeMutableRawPointer) {
        let blocks = (n &+ Int(SWIFTMAX_BLOCK) &- 1) / Int(SWIFTMAX_BLOCK)
        let total = Packs(scratch: scratch).rows.assumingMemoryBound(to: swiftmax_stats.self)
        var own = self
        own.current = index
        own.stats = total + 1
        runBlockStats(&own, 0, blocks, scratch)
        if merge(total + 1, blocks, total) {
            var known = total.pointee.max
            withUnsafePointer(to: &known) { known in
                own.known = known
                runBlockStats(&own, 0, blocks, scratch)
            }
            _ = merge(total + 1, blocks, total)
        }
        own.stats = total
        runBlockResults(&own, 0, blocks, scratch)
    }
}

/// Slices one after another, each shared out by blocks. False without memory for the stats.
func runBlocks(_ work: UnsafeMutablePointer<Work>, _ scratch: UnsafeMutableRawPointer) -> Bool {
    let n = work.pointee.n
    let blocks = (n &+ Int(SWIFTMAX_BLOCK) &- 1) / Int(SWIFTMAX_BLOCK)
    let bytes = (blocks &+ 1) &* MemoryLayout<swiftmax_stats>.stride
    guard let memory = malloc(bytes) else { return false }
    let total = memory.assumingMemoryBound(to: swiftmax_stats.self)
    let stats = total + 1
    for slice in 0..<work.pointee.slices {
        work.pointee.current = slice
        work.pointee.stats = stats
        work.pointee.known = nil
        share(.blockStats, work, blocks, elements: n, scratch)
        if work.pointee.merge(stats, blocks, total) {
            var known = total.pointee.max
            withUnsafePointer(to: &known) { known in
                work.pointee.known = known
                share(.blockStats, work, blocks, elements: n, scratch)
            }
            _ = work.pointee.merge(stats, blocks, total)
        }
        work.pointee.stats = total
        if work.pointee.isReduction {
            work.pointee.writeLogsumexp(total, scratch)
        } else {
            share(.blockResults, work, blocks, elements: n, scratch)
        }
    }
    free(memory)
    return true
}
