// The paths, each a function from a range of units to kernel calls. A unit is a slice, a tile of columns, a
// pack of slices or a block; what is computed for it does not depend on the range.

import CKernels
import CSupport
import CSwiftmax

/// How a call's slices are handed to the kernels.
enum Path {
    /// Elements of a slice are contiguous: whole rows, where they lie.
    case rows
    /// The same of 16-bit elements, of inputs in reverse order or every other element, and with a mask.
    case otherRows
    /// Elements side by side belong to neighboring slices: whole columns, where they lie.
    case columns
    /// Anything else of one dimension, and 16-bit types: slices are packed into scratch, some at a time, and brought back.
    case packedRows, shortRows, packedColumns, widenedGroups, groupedColumns, turnedColumns
    /// Masks, and slices of several dimensions: copies, which are taken on another of these paths.
    case copies
    /// Few long slices: one after another, by blocks.
    case blockStats, blockResults

    @inline(never)
    func run(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
        switch self {
        case .rows: runRows(work, first, end, scratch)
        case .otherRows: runOtherRows(work, first, end, scratch)
        case .columns: runColumns(work, first, end, scratch)
        case .packedRows: runPackedRows(work, first, end, scratch)
        case .shortRows: runShortRows(work, first, end, scratch)
        case .packedColumns: runPackedColumns(work, first, end, scratch)
        case .widenedGroups: runWidenedGroups(work, first, end, scratch)
        case .groupedColumns: runGroupedColumns(work, first, end, scratch)
        case .turnedColumns: runTurnedColumns(work, first, end, scratch)
        case .copies: runCopies(work, first, end, scratch)
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
        _ a: Operand, _ b: Operand, _ out: Operand, _ rows: Int, _ scratch: UnsafeMutableRawPointer,
        streaming: Int32 = 0, far: Int32 = 0, next: swiftmax_next = swiftmax_next()
    ) {
        if kind == .forward {
            kernels.pointee.forward_rows(
                op, a.address, a.stride, out.address, out.stride, rows, n, scratch, streaming, far, next)
        } else {
            kernels.pointee.backward_rows(
                op, a.address, a.stride, b.address, b.stride, out.address, out.stride, rows, n, scratch,
                streaming, far, kernels.pointee.eights)
        }
    }

    @inline(never)
    func callColumns(
        _ a: Operand, _ b: Operand, _ out: Operand, _ columns: Int, _ scratch: UnsafeMutableRawPointer,
        groups: swiftmax_groups = swiftmax_single_group(),
        elements: Int32 = Int32(SWIFTMAX_ELEMENTS_OWN), mask: Operand? = nil, streaming: Int32 = 0,
        far: Int32 = 0, next: swiftmax_next = swiftmax_next()
    ) {
        if kind == .forward {
            kernels.pointee.forward_columns(
                op, elements, a.address, a.stride, mask?.address.assumingMemoryBound(to: UInt8.self),
                mask?.stride ?? 0, out.address, out.stride, columns, groups, n, scratch, streaming, next,
                kernels.pointee.recomputes)
        } else {
            kernels.pointee.backward_columns(
                op, a.address, a.stride, b.address, b.stride, out.address, out.stride, columns, groups, n,
                next.address.map { $0 - UnsafeRawPointer(a.address) } ?? 0, scratch, streaming, far,
                kernels.pointee.ways)
        }
    }

    /// Where slice `index` starts in an operand.
    @inline(never)
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
            operand(0), operand(work.pointee.inputs &- 1), operand(work.pointee.output), rows, scratch,
            streaming: work.pointee.streaming, far: work.pointee.far, next: work.pointee.next)
        index &+= rows
    }
}

@_optimize(size)
func runOtherRows(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let kernels = work.kernels.pointee
    let areReversed =
        work.kind == .backward && work.elementStride(0) < 0 && work.elementStride(1) == work.elementStride(0)
    let elements = work.elements(
        stride: work.isWide || areReversed ? work.elementStride(0) : work.elementBytes)
    let rowBytes = work.n &* work.elementBytes
    let room = work.n &* work.wideBytes <= Work.packBytes ? packs.input(1) : nil

    /// Whether the rows of an input are of 16 bits, and neither in order nor reversed as the kernels read them.
    func isPacked(_ i: Int) -> Bool {
        !work.isWide && !areReversed && work.elementStride(i) != work.elementBytes
    }
    let areAnyPacked = isPacked(0) || isPacked(work.inputs &- 1)

    var index = first
    while index < end {
        var rows = min(end &- index, work.batch.run(from: index))
        if areAnyPacked { rows = min(rows, max(1, 2 &* work.cachedBytes / rowBytes)) }

        /// Where the rows of an input lie, or a copy of them in order.
        func input(_ i: Int) -> Work.Operand {
            let source = work.start(index, i)
            if !isPacked(i) { return Work.Operand(address: source, stride: work.step(i)) }
            for r in 0..<rows {
                kernels.gather_halves(
                    source + r &* work.step(i), work.elementStride(i), packs.input(i) + r &* rowBytes, work.n)
            }
            return Work.Operand(address: packs.input(i), stride: rowBytes)
        }
        let a = input(0)
        let out = Work.Operand(address: work.start(index, work.output), stride: work.step(work.output))
        var done: Int
        if work.kind == .forward {
            let mask =
                work.hasMask
                ? Work.Operand(address: work.start(index, work.mask), stride: work.step(work.mask)) : nil
            done = kernels.forward_other_rows.unsafelyUnwrapped(
                work.op, elements, a.address, a.stride, mask?.address.assumingMemoryBound(to: UInt8.self),
                mask?.stride ?? 0, out.address, out.stride, rows, work.n, packs.kernel, room, work.streaming,
                work.far)
            if let mask, !work.isReduction { work.writeAbsent(out, mask, rows, areRows: true) }
        } else {
            let b = input(1)
            done = kernels.backward_other_rows.unsafelyUnwrapped(
                work.op, elements, a.address, a.stride, b.address, b.stride, out.address, out.stride, rows,
                work.n, packs.kernel, kernels.eights)
        }
        if done < rows {
            work.runOneByBlocks(index &+ done, scratch)
            done &+= 1
        }
        index &+= done
    }
}

@_optimize(size)
func runColumns(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
    let work = work.pointee
    let (columns, width, head) = (work.across.size(0), work.unitSlices, work.headColumns)
    let tiles = work.columnTiles
    let elements = work.elements(stride: work.across.stride(0, 0))
    let other = work.inputs &- 1
    let takesGroups = work.takesGroups
    var unit = first
    while unit < end {
        @inline(never)
        func operand(_ i: Int, _ unit: Int, _ column: Int) -> Work.Operand {
            Work.Operand(
                address: work.start(unit / tiles, i) + column &* work.across.stride(0, i),
                stride: work.elementStride(i))
        }
        @inline(never)
        func call(
            _ unit: Int, _ column: Int, _ count: Int, groups: Int = 1, streaming: Int32 = 0,
            next: swiftmax_next = swiftmax_next()
        ) {
            let out = operand(work.output, unit, column)
            let mask = work.hasMask ? operand(work.mask, unit, column) : nil
            let groups = swiftmax_groups(
                count: groups, input_stride: work.step(0), other_input_stride: work.step(other),
                out_stride: work.step(work.output))
            work.callColumns(
                operand(0, unit, column), operand(other, unit, column), out, count, scratch, groups: groups,
                elements: elements, mask: mask, streaming: streaming, far: work.far, next: next)
            if let mask, !work.isReduction { work.writeAbsent(out, mask, count, areRows: false) }
        }
        /// The first column of a unit, but those before a line.
        func first(_ unit: Int) -> Int { head &+ unit % tiles &* width }
        let column = first(unit)
        let groups = takesGroups ? min(end &- unit, work.batch.run(from: unit)) : 1
        let next = unit &+ groups
        /// From these units to the next.
        func distance(_ i: Int) -> Int {
            operand(i, next, first(next)).address - operand(i, unit, column).address
        }
        let count = min(width, columns &- column)
        let odd = work.oddColumns(count)
        if work.kind == .backward && !work.isWide {
            work.runHalfColumns(unit / tiles, column, count &- odd, Work.Packs(scratch: scratch))
        } else if count > odd {
            if column == head && head > 0 { call(unit, 0, head) }
            let isWorthIt = work.n &* count >= 1024
            let isNext = isWorthIt && next < end && distance(0) == distance(other)
            let x = operand(0, unit, column)
            let next =
                isNext
                ? swiftmax_next(
                    address: x.address + distance(0), row_stride: x.stride,
                    column_stride: work.across.stride(0, 0)) : work.next
            call(unit, column, count &- odd, groups: groups, streaming: work.streaming, next: next)
        }
        for column in column &+ count &- odd..<column &+ count {
            work.callPackedColumn(
                operand(0, unit, column), operand(other, unit, column), operand(work.output, unit, column),
                Work.Packs(scratch: scratch))
        }
        unit = next
    }
}

extension Work {
    /// Whether a unit is a group of so few and short columns that a kernel had better take several: the forward functions in
    /// one tile; the backward ones still one by one, which only saves calls.
    fileprivate var takesGroups: Bool {
        let columns = across.size(0)
        let savesVectors = swiftmax_groups_share_vectors(columns, 64 / wideBytes)
        let most = kind == .backward ? 8192 : savesVectors ? 3072 : 1024
        if unitSlices < columns || headColumns > 0 || n &* columns > most || oddColumns(columns) > 0 {
            return false
        }
        if kind == .backward && !isWide || hasMask { return false }
        // A kernel leaves no gaps between the results of reductions.
        return !isReduction || step(output) == columns &* elementBytes
    }
}

extension Work {
    /// The gradients of `count` columns of 16 bits from `first` on.
    @inline(never)
    @_optimize(size)
    fileprivate func runHalfColumns(_ index: Int, _ first: Int, _ count: Int, _ packs: Packs) {
        let kernel = kernels.pointee.backward_half_columns.unsafelyUnwrapped
        func operand(_ i: Int, _ column: Int) -> Operand {
            Operand(
                address: start(index, i) + (first &+ column) &* elementBytes, stride: elementStride(i))
        }
        var column = 0
        while column < count {
            let (g, y, out) = (operand(0, column), operand(1, column), operand(2, column))
            column &+= kernel(
                op, elements(stride: elementBytes), g.address, g.stride, y.address, y.stride, out.address,
                out.stride, count &- column, n, packs.kernel, streaming)
            // Those of a tile with a sum that needs care, one by one.
            for column in column..<min(count, column &+ 128) {
                callPackedColumn(operand(0, column), operand(1, column), operand(2, column), packs)
            }
            column = min(count, column &+ 128)
        }
    }

    /// How many of so many columns are better packed as rows, one by one: the last, where they would fill less than a quarter of a
    /// vector and are long; of gradients one alone, as its two inputs are packed, but sooner of 16 bits, as these are widened
    /// (measured on a Zen 5).
    func oddColumns(_ columns: Int) -> Int {
        let lanes = 64 / wideBytes
        let odd = columns % lanes
        let most = kind == .forward ? lanes / 4 &- 1 : 1
        let fewest = kind == .forward || isWide ? 160 : 2 &* lanes
        return odd <= most && !hasMask && n >= fewest && n &* wideBytes <= Work.packBytes ? odd : 0
    }

    /// Packs one column as a row.
    @inline(never)
    @_optimize(size)
    func callPackedColumn(_ a: Operand, _ b: Operand, _ out: Operand, _ packs: Packs) {
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
