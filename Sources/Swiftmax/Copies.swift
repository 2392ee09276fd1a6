// Slices with a mask, or of several dimensions: copied into scratch some at a time as columns or rows without gaps, computed
// there on the path that suits these, and copied back.

import CKernels
import CSupport
import CSwiftmax

extension Work {
    /// Whether a copy holds a slice.
    var fitsCopy: Bool { n &* wideBytes <= Work.copyBytes }

    /// What the copy of an operand may take: half of a pack, the other is for the path it takes.
    fileprivate static var copyBytes: Int { packBytes / 2 }

    /// What it should take: of rows with what the kernels keep in the first cache, of columns in the second; and of all columns
    /// of a group, which are read without a gap, twice as much.
    private var goodRowBytes: Int { 32768 }
    private var goodColumnBytes: Int { 262144 }

    /// The fewest columns of a copy that does not have all, and so how short the runs are that it is made of.
    private var fewestCopied: Int { 512 / wideBytes }

    /// The first of the dimensions of the batch along which slices are nearer to each other than their own elements: those are
    /// the columns of a copy.
    fileprivate var firstAcross: Int {
        let operand = isReduction ? 0 : output
        var own = Int.max
        for dimension in 0..<slice.count { own = min(own, Int(slice.stride(dimension, operand).magnitude)) }
        var first = batch.count
        while first > 0 && Int(batch.stride(first &- 1, operand).magnitude) < own { first &-= 1 }
        return first
    }

    fileprivate var copiedColumns: Int {
        var columns = 1
        for dimension in firstAcross..<batch.count { columns &*= batch.size(dimension) }
        return columns
    }

    /// Sets how many slices are copied at a time: some of the columns of a group, or all of one or more.
    ///
    /// - Returns: how many times that is.
    @_optimize(size)
    mutating func takeCopies() -> Int {
        let (columns, sliceBytes) = (copiedColumns, n &* wideBytes)
        let groups = slices / columns
        let fit = Work.copyBytes / sliceBytes
        let good = (columns == 1 ? goodRowBytes : goodColumnBytes) / sliceBytes
        if columns <= min(fit, max(2 &* good, fewestCopied)) {
            let together = max(1, good / columns)
            unitSlices = together &* columns
            return (groups &+ together &- 1) / together
        }
        // Tiles of about the same size, of whole lines.
        let most = min(fit, max(good, fewestCopied))
        let tiles = (columns &+ most &- 1) / most
        unitSlices = min(most, ((columns &+ tiles &- 1) / tiles &+ 15) & ~15)
        return groups &* ((columns &+ unitSlices &- 1) / unitSlices)
    }
}

/// Part of an array in the order of copies: as many rows of elements, and from one to the next.
private struct Part {
    let start: Int
    let rows: Int
    let width: Int
    let pitch: Int
}

/// The elements of an operand in the order of copies: groups of slices, the elements of a slice, and slices side by side.
private struct Ordered {
    let address: UnsafeMutableRawPointer
    let dimensions: Dimensions

    init(_ work: Work, _ operand: Int, _ memory: UnsafeMutableRawPointer) {
        var dimensions = Dimensions(memory)
        func append(_ source: Dimensions, _ range: Range<Int>) {
            for dimension in range {
                dimensions.append(size: source.size(dimension), operands: 1) { _ in
                    source.stride(dimension, operand)
                }
            }
        }
        append(work.batch, 0..<work.firstAcross)
        append(work.slice, 0..<work.slice.count)
        append(work.batch, work.firstAcross..<work.batch.count)
        address = work.pointer(operand)
        self.dimensions = dimensions
    }

    /// From one element to the next.
    var stride: Int { dimensions.count == 0 ? 0 : dimensions.stride(dimensions.count &- 1, 0) }

    /// A part whose elements, or those of each of whose rows, have one stride.
    func plain(_ part: Part) -> Work.Operand? {
        if dimensions.count > 1 { return nil }
        return Work.Operand(address: address + part.start &* stride, stride: part.pitch &* stride)
    }

    /// Calls `body` for pieces of a part: `rows` runs of `count` elements, with the place of the first in the copy, where the
    /// runs follow each other without a gap, and their addresses.
    @inline(__always)
    func forEachPiece(
        _ part: Part, _ body: (_ index: Int, _ runs: Work.Operand, _ rows: Int, _ count: Int) -> Void
    ) {
        if let plain = plain(part) { return body(0, plain, part.rows, part.width) }
        let last = dimensions.count &- 1
        let (size, outerSize) = (dimensions.size(last), dimensions.size(last &- 1))
        let outerStride = dimensions.stride(last &- 1, 0)
        func runs(_ first: Int) -> Work.Operand {
            Work.Operand(address: address + dimensions.offset(first, 0), stride: outerStride)
        }
        if part.rows > 1 && size == part.pitch {
            var row = 0
            while row < part.rows {
                let first = part.start &+ row &* size
                let rows = min(part.rows &- row, outerSize &- first / size % outerSize)
                body(row &* part.width, runs(first), rows, part.width)
                row &+= rows
            }
            return
        }
        for row in 0..<part.rows {
            var i = 0
            while i < part.width {
                let first = part.start &+ row &* part.pitch &+ i
                let count = min(part.width &- i, size &- first % size)
                let rows =
                    count < size ? 1 : min((part.width &- i) / size, outerSize &- first / size % outerSize)
                var runs = runs(first)
                // Whole ones of the next dimension too, which saves divisions.
                var (planes, planeStride) = (1, 0)
                if rows == outerSize && last > 1 {
                    let planeSize = dimensions.size(last &- 2)
                    planeStride = dimensions.stride(last &- 2, 0)
                    planes = min(
                        (part.width &- i) / (rows &* size), planeSize &- first / (rows &* size) % planeSize)
                }
                for _ in 0..<planes {
                    body(row &* part.width &+ i, runs, rows, count)
                    runs.address += planeStride
                    i &+= rows &* count
                }
            }
        }
    }
}

/// The mask of a copy: a byte for each element, in rows.
private struct CopiedMask {
    /// The first column it was copied for, and how many groups.
    var column = -1
    var groups = 0

    /// That of a part, where it lies or copied. One that is the same for all groups is copied once.
    mutating func of(
        _ part: Part, _ mask: Ordered, column: Int, groups: Int, isRepeated: Bool, _ work: Work,
        _ packs: Work.Packs
    ) -> Work.Operand {
        if mask.stride == 1, let plain = mask.plain(part) { return plain }
        let copied = Work.Operand(address: packs.mask, stride: part.width)
        if isRepeated && column == self.column && groups <= self.groups { return copied }
        work.copy(.mask, part, mask, packs.mask, packs)
        (self.column, self.groups) = (column, groups)
        return copied
    }
}

@_optimize(size)
func runCopies(_ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let (columns, width) = (work.copiedColumns, min(work.copiedColumns, work.unitSlices))
    let (tiles, most) = ((columns &+ width &- 1) / width, max(1, work.unitSlices / columns))
    func ordered(_ operand: Int) -> Ordered { Ordered(work, operand, packs.dimensions(3 &+ operand)) }
    let (a, b, c) = (ordered(0), ordered(1), ordered(2))
    let results = work.inputs == 1 ? b : c
    var mask = CopiedMask()
    var isMaskRepeated = true
    for dimension in 0..<work.firstAcross where work.batch.stride(dimension, work.mask) != 0 {
        isMaskRepeated = false
    }

    /// Where the slices of a unit begin.
    func place(_ unit: Int) -> (group: Int, column: Int) { (unit / tiles &* most, unit % tiles &* width) }

    for unit in first..<end {
        let (group, column) = place(unit)
        let groups = min(most, work.slices / columns &- group)
        let count = min(width, columns &- column)
        let isWhole = count == columns
        let rowElements = work.n &* columns
        let part = Part(
            start: group &* rowElements &+ column, rows: isWhole ? 1 : work.n,
            width: isWhole ? groups &* rowElements : count, pitch: columns)
        let selected =
            work.hasMask
            ? mask.of(part, c, column: column, groups: groups, isRepeated: isMaskRepeated, work, packs)
            : nil

        work.copyIn(part, a, to: packs.copy(0), mask: selected, packs)
        if work.inputs > 1 { work.copyIn(part, b, to: packs.copy(1), mask: nil, packs) }
        let slices = groups &* count
        // What the kernels ask for has the shape of what they are given: rows, or the columns of one group.
        var next = swiftmax_next()
        if unit &+ 1 < end && work.kind == .forward && (columns == 1 || !isWhole) {
            let (group, column) = place(unit &+ 1)
            let start = group &* rowElements &+ column
            if let plain = a.plain(Part(start: start, rows: 1, width: 1, pitch: 1)) {
                next = swiftmax_next(
                    address: plain.address, row_stride: (columns == 1 ? work.n : columns) &* a.stride,
                    column_stride: a.stride)
            }
        }
        // Short slices are not worth a look at each, and rows of doubles so short are better written by the copy of all (measured on a
        // Zen 5).
        let areShort = work.n < 24
        let areAside = areShort && columns == 1 && work.wideBytes == 8
        let inPlace = work.resultsInPlace(part, results)
        let copied = Work.Operand(
            address: packs.copy(work.copiedResults(areRows: columns == 1)), stride: count &* work.wideBytes)
        let target = areAside ? copied : inPlace ?? copied
        work.computeCopies(slices / count, count, packs, results: target, next: next)
        if work.isReduction {
            work.scatterResults(target.address, group &* columns &+ column, slices, packs)
            continue
        }
        if let selected, areShort || work.isAnyNaN(slices / count, count, target) {
            work.select(target, inPlace ?? target, selected, part, work.absentResult)
        }
        if inPlace == nil { work.copy(.results, part, results, target.address, packs) }
    }
}

extension Work {
    /// Of what there are copies.
    fileprivate enum Copied { case input, results, mask }

    /// Copies a part of an array to a copy without gaps or, of results, back.
    @inline(never)
    @_optimize(size)
    fileprivate func copy(
        _ copied: Copied, _ part: Part, _ array: Ordered, _ room: UnsafeMutableRawPointer, _ packs: Packs
    ) {
        array.forEachPiece(part) { index, runs, rows, count in
            switch copied {
            case .input:
                gather(runs.address, runs.stride, array.stride, rows, count, room + index &* wideBytes, packs)
            case .results:
                scatter(
                    room + index &* wideBytes, rows, count, runs.address, runs.stride, array.stride, packs)
            case .mask:
                for r in 0..<rows {
                    let bytes = room + (index &+ r &* count)
                    Swiftmax.copy(runs.address + r &* runs.stride, array.stride, bytes, 1, count, 1)
                }
            }
        }
    }

    /// Runs so long are read and written beside their mask; of shorter ones a copy.
    private func isRun(_ count: Int, _ stride: Int) -> Bool {
        isWide && stride == elementBytes && count &* elementBytes >= 256
    }

    /// Copies a part of an input, with -inf in the place of what the mask leaves out.
    @_optimize(size)
    fileprivate func copyIn(
        _ part: Part, _ input: Ordered, to copy: UnsafeMutableRawPointer, mask: Operand?, _ packs: Packs
    ) {
        let target = Operand(address: copy, stride: part.width &* wideBytes)
        if let mask, let plain = input.plain(part), isRun(part.width, input.stride) {
            return select(plain, target, mask, part, -.infinity)
        }
        self.copy(.input, part, input, copy, packs)
        if let mask { select(target, target, mask, part, -.infinity) }
    }

    /// The results of a masked part where they lie, if the kernels can write them there and none goes past the caches.
    fileprivate func resultsInPlace(_ part: Part, _ results: Ordered) -> Operand? {
        if !hasMask || isReduction || !isWide || results.stride != elementBytes || streaming != 0 {
            return nil
        }
        return results.plain(part)
    }

    fileprivate func select(
        _ source: Operand, _ target: Operand, _ mask: Operand, _ part: Part, _ fill: Double
    ) {
        kernels.pointee.select(
            source.address, source.stride, target.address, target.stride,
            mask.address.assumingMemoryBound(to: UInt8.self), mask.stride, fill, part.rows, part.width)
    }

    /// The copy that holds the results: that of the first input but for a reduction, for long slices, whose exponentials are kept in the
    /// place of the results, and for rows that are not computed in place.
    fileprivate func copiedResults(areRows: Bool) -> Int {
        if isReduction || areRows && !arePackedRowsInPlace { return 1 }
        return kind == .forward && n > Int(SWIFTMAX_BLOCK) ? 1 : 0
    }

    /// The operation on the copies.
    fileprivate func computeCopies(
        _ groups: Int, _ columns: Int, _ packs: Packs, results: Operand, next: swiftmax_next
    ) {
        let first = packs.copy(0)
        var copied = Work(
            kind: kind, op: op, dtype: Int32(wideBytes == 8 ? SWIFTMAX_FLOAT64 : SWIFTMAX_FLOAT32),
            elementBytes: wideBytes, kernels: kernels, inputs: inputs,
            data: (first, inputs > 1 ? packs.copy(1) : results.address, results.address, first),
            hasMask: false,
            streaming: 0, far: 0, slice: Dimensions(packs.dimensions(6)),
            batch: Dimensions(packs.dimensions(7)), across: Dimensions(packs.dimensions(8)), n: n,
            slices: groups &* columns)
        func rowBytes(_ operand: Int) -> Int { operand == inputs ? results.stride : columns &* wideBytes }
        func isReduced(_ operand: Int) -> Bool { isReduction && operand == inputs }
        copied.slice.append(size: n, operands: inputs &+ 1) { isReduced($0) ? 0 : rowBytes($0) }
        copied.batch.append(size: groups, operands: inputs &+ 1) { (isReduced($0) ? 1 : n) &* rowBytes($0) }
        copied.batch.append(size: columns, operands: inputs &+ 1) { _ in wideBytes }
        // One that fits in a copy is never taken by blocks.
        if let chosen = plan(&copied, n &* groups &* columns, threads: 1) {
            if chosen.units == 1 || columns == 1 { copied.next = next }
            chosen.path.run(&copied, 0, chosen.units, packs.scratch)
        }
    }
}

extension Work.Packs {
    /// The copy of an input, or of results, after what the path of a copy packs itself.
    fileprivate func copy(_ operand: Int) -> UnsafeMutableRawPointer {
        input(operand) + (Work.copyBytes &+ Work.gapBytes)
    }
}
