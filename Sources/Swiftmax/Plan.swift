// From validated arrays to a path and its units.

import CKernels
import CSupport
import CSwiftmax

/// Whether slices are so short that they go through the kernels as columns, many at a time: as rows they would leave much
/// of their last vector empty, or have much to do besides. It is measured; the less a function costs, the less it pays.
private func areShort(_ work: Work) -> Bool {
    let (n, lanes, isDouble) = (work.n, 64 / work.wideBytes, work.wideBytes == 8)
    if work.slices < fewestShort { return false }
    let endInPart = n % lanes > 0
    let isLog = work.op == Int32(SWIFTMAX_OP_LOG_SOFTMAX)
    switch (work.kind, work.op) {
    case (.forward, _):
        let longest = isDouble ? 23 : isLog ? 42 : 47
        return n <= lanes || n <= longest && (endInPart || !isLog && (isDouble || work.isReduction))
    case (.backward, Int32(SWIFTMAX_OP_SOFTMAX)): return n <= (isDouble ? 3 : 4)
    case (.backward, _): return n <= 6 && endInPart
    }
}

/// Fewer slices are taken as rows, however short.
private var fewestShort: Int { 16 }

/// Fewer neighbors than this are not worth a vector across them.
private var fewColumns: Int { 8 }

/// The same of slices whose groups share vectors in the kernels.
private func fewColumns(_ work: Work) -> Int {
    if work.kind == .backward || !work.isWide || work.n > longestGrouped { return fewColumns }
    return work.wideBytes == 8 ? 4 : 7
}

/// Slices up to this long are taken with those of other groups, where they have few neighbors.
private var longestGrouped: Int { 256 }

/// Runs an operation on validated arrays of which none is empty.
func execute(
    _ kind: Work.Kind, _ op: Int32, _ arrays: (StridedArray, StridedArray, StridedArray, StridedArray),
    inputs: Int, hasMask: Bool, axes: UInt64
) -> Status {
    var status = Status(SWIFTMAX_OK)
    let hadMemory = withScratch { scratch in
        if !hasMask && runFewRows(kind, op, arrays, axes: axes, scratch) { return }
        let packs = Work.Packs(scratch: scratch)
        var slice = Dimensions(packs.dimensions(0))
        var batch = Dimensions(packs.dimensions(1))
        let x = arrays.0
        let operands = inputs &+ 1 &+ (hasMask ? 1 : 0)
        let reduces = kind == .forward && op == Int32(SWIFTMAX_OP_LOGSUMEXP)

        @inline(__always)
        func stride(_ dimension: Int, _ operand: Int) -> Int {
            switch operand {
            case 0: arrays.0.stride(dimension)
            case 1: arrays.1.stride(dimension)
            case 2: arrays.2.stride(dimension)
            default: arrays.3.stride(dimension)
            }
        }
        for dimension in 0..<x.rank where axes &>> UInt64(dimension) & 1 == 1 {
            slice.append(size: x.size(dimension), operands: operands) {
                reduces && $0 == inputs ? 0 : stride(dimension, $0)
            }
        }
        // The order of the slices is free: the one farthest apart in the output comes first, so that neighbors in
        // memory are neighbors here, whatever the order of the axes.
        var left = x.rank == 64 ? ~axes : ((1 &<< UInt64(x.rank)) &- 1) & ~axes
        while left != 0 {
            var (widest, reach) = (0, -1)
            for dimension in 0..<x.rank where left &>> UInt64(dimension) & 1 == 1 {
                let magnitude = Int(stride(dimension, inputs).magnitude)
                if magnitude > reach { (widest, reach) = (dimension, magnitude) }
            }
            left &= ~(1 &<< UInt64(widest))
            batch.append(size: x.size(widest), operands: operands) { stride(widest, $0) }
        }
        let elements = x.count
        let isDouble = x.dtype == Int32(SWIFTMAX_FLOAT64)
        let streams =
            !reduces && elements &* x.elementBytes >= streamingBytes
            && (x.elementBytes == 2
                || areWorthStreaming(
                    kind, op, slice.elements, x.elementBytes,
                    Int(bitPattern: inputs == 1 ? arrays.1.data : arrays.2.data)))
        var work = Work(
            kind: kind, op: op, dtype: x.dtype, elementBytes: x.elementBytes,
            kernels: activeKernels(isDouble: isDouble), inputs: inputs,
            data: (
                arrays.0.data.unsafelyUnwrapped, arrays.1.data.unsafelyUnwrapped,
                arrays.2.data ?? scratch, arrays.3.data ?? scratch
            ), hasMask: hasMask,
            streaming: streams ? 1 : 0,
            far: 0, slice: slice,
            batch: batch,
            across: Dimensions(packs.dimensions(2)), n: slice.elements, slices: batch.elements)
        if work.isFar(elements &* x.elementBytes) { work.far = 1 }
        if !run(&work, elements, scratch) { status = Status(SWIFTMAX_OUT_OF_MEMORY) }
    }
    return hadMemory ? status : Status(SWIFTMAX_OUT_OF_MEMORY)
}

/// Runs rows that lie in order, the last of at most two dimensions, if there is little of them: to plan them could take as long as to
/// compute them. False for anything else.
private func runFewRows(
    _ kind: Work.Kind, _ op: Int32,
    _ arrays: (StridedArray, StridedArray, StridedArray, StridedArray), axes: UInt64,
    _ scratch: UnsafeMutableRawPointer
) -> Bool {
    let (x, output) = (arrays.0, kind == .forward ? arrays.1 : arrays.2)
    let last = x.rank &- 1
    if last < 0 || last > 1 || axes != 1 &<< UInt64(last) || x.elementBytes < 4 { return false }
    let (rows, n) = (last == 0 ? 1 : x.size(0), x.size(last))
    // Of many rows only such as are never taken for columns, and by one thread.
    let areFew = rows < fewestShort && rows &* n <= Int(SWIFTMAX_BLOCK)
    let areLong = n >= 64 && rows &* n < 2 &* elementsPerThread
    if n > Int(SWIFTMAX_BLOCK) || !areFew && !areLong { return false }
    func isInOrder(_ array: StridedArray) -> Bool {
        array.stride(last) == array.elementBytes || array.size(last) == 1
    }
    func rowStride(_ array: StridedArray) -> Int { last == 0 ? 0 : array.stride(0) }
    if !isInOrder(x) || !isInOrder(arrays.1) || !isInOrder(output) { return false }
    let kernels = activeKernels(isDouble: x.elementBytes == 8).pointee
    let (a, b, out) = (
        x.data.unsafelyUnwrapped, arrays.1.data.unsafelyUnwrapped, output.data.unsafelyUnwrapped
    )
    if kind == .forward {
        kernels.forward_rows(
            op, a, rowStride(x), out, rowStride(output), rows, n, scratch, 0, 0, swiftmax_next())
    } else {
        kernels.backward_rows(
            op, a, rowStride(x), b, rowStride(arrays.1), out, rowStride(output), rows, n, scratch, 0, 0,
            kernels.eights)
    }
    return true
}

/// From this size on an output will not be found in a cache by its reader, and is better written past them.
private var streamingBytes: Int { 12 &* 1024 &* 1024 }

/// Whether rows are long enough to be streamed. Those that go through phases many at a time are written in short turns,
/// which must not have parts of cache lines at their ends, nor the shorter of them at the ends of rows. For gradients it
/// pays where memory takes longer than their arithmetic: for those of softmax.
private func areWorthStreaming(
    _ kind: Work.Kind, _ op: Int32, _ n: Int, _ elementBytes: Int, _ output: Int
) -> Bool {
    if n > Int(SWIFTMAX_BLOCK) { return true }
    let isAligned = output % 64 == 0
    if kind == .backward && (op != Int32(SWIFTMAX_OP_SOFTMAX) || !isAligned) { return false }
    return n &* elementBytes % 64 == 0 && n >= (isAligned ? 64 : 512)
}

extension Work {
    /// Rows are units of their own. Those without gaps go past the caches even if they share lines, which a kernel puts together
    /// (see `SharedLines`), where that pays: for gradients later, and not for what takes longer than memory (measured on a Zen 5).
    @_optimize(size)
    fileprivate mutating func wholeRows(_ elements: Int) -> Int {
        let (bytes, rowBytes) = (elements &* elementBytes, n &* elementBytes)
        if bytes < streamingBytes || !isWide || isReduction || step(output) != rowBytes { return slices }
        let isLog = op == Int32(SWIFTMAX_OP_LOG_SOFTMAX)
        let isWorthIt =
            kind == .forward
            ? elementBytes == 4 && rowBytes >= (isLog ? 1536 : 1024)
            : !isLog && bytes >= 2 &* streamingBytes && rowBytes >= 1024
        if isWorthIt { streaming = 1 }
        return slices
    }
}

/// The same of columns, whose output leaves the inner caches between their tiles.
private var columnStreamingBytes: Int { 4 &* 1024 &* 1024 }

/// Inputs of gradients up to this size are taken for found in the second cache, and columns of them not asked for.
private var nearColumnBytes: Int { 512 &* 1024 }

/// Columns that are taken by one call of a kernel, where they are short: less would not be worth a call.
private var unitBytes: Int { 65536 }

/// Takes the path that is chosen. False without memory for it.
private func run(_ work: inout Work, _ elements: Int, _ scratch: UnsafeMutableRawPointer) -> Bool {
    let threads = min(threadLimit(), elements / (4 &* Int(SWIFTMAX_BLOCK)))
    guard let plan = plan(&work, elements, threads: threads) else { return runBlocks(&work, scratch) }
    share(plan.path, &work, plan.units, elements: elements, scratch)
    return true
}

/// Chooses the path, and its units; none for slices that are taken by blocks.
///
/// - Parameter threads: as many as long slices are worth.
func plan(_ work: inout Work, _ elements: Int, threads: Int) -> (path: Path, units: Int)? {
    let n = work.n
    let sliceBytes = n &* work.wideBytes
    let bytes = elements &* work.wideBytes
    // Few long slices are shared out among threads by blocks, as are slices that no scratch holds.
    let isByBlocks = n >= 16 &* Int(SWIFTMAX_BLOCK) && work.slices < threads
    if work.hasMask || work.slice.count > 1 {
        let masked = maskedColumnDimension(work)
        if masked >= 0 { return (.columns, takeWholeColumns(&work, masked, elements)) }
        if areMaskedRows(work) { return (.otherRows, work.wholeRows(elements)) }
        return isByBlocks || !work.fitsCopy ? nil : (.copies, work.takeCopies())
    }
    let isLarge = bytes >= columnStreamingBytes
    var areRows = work.isRow(work.output) || work.isReduction && work.isWide
    for operand in 0..<work.inputs where !work.isRow(operand) { areRows = false }

    if areRows && isByBlocks { return nil }
    let areShort = areShort(work)
    let areOther = areOtherRows(work) && !isByBlocks
    if areOther && (work.kind == .backward || !areShort) {
        return (.otherRows, work.wholeRows(elements))
    }
    if areRows && !areShort {
        return (.rows, work.wholeRows(elements))
    }

    let few = columnDimension(work, from: 2)
    if few >= 0, let path = pathOfFew(work, work.batch.size(few)) {
        work.takeColumns(few)
        let isFar = work.kind == .forward && bytes >= columnStreamingBytes
        let grouped = isFar ? work.tileColumns : max(64, min(256, groupBytes / sliceBytes))
        let columns = path == .groupedColumns ? grouped : min(256, groupBytes / sliceBytes)
        work.unitSlices = max(1, columns / work.across.size(0))
        // Beside two inputs less is left of the last cache.
        let leastStreamed = work.kind == .forward ? streamingBytes : 2 &* columnStreamingBytes
        work.streaming = bytes >= leastStreamed && !work.isReduction ? 1 : 0
        let units = (work.batch.elements &+ work.unitSlices &- 1) / work.unitSlices
        return (path, units)
    }
    let neighbors = columnDimension(work, from: fewColumns(work))
    if neighbors >= 0 && areWidenedGroups(work, neighbors) {
        work.takeColumns(neighbors)
        work.unitSlices = max(1, widenedBytes / (sliceBytes &* work.across.size(0)))
        if areNarrow(work) { work.kernels = narrowKernels() }
        let units = (work.batch.elements &+ work.unitSlices &- 1) / work.unitSlices
        return (.widenedGroups, units)
    }
    let fits = sliceBytes &* 16 <= Work.packBytes
    let readsAlternate = work.kind == .forward && work.isWide && neighbors < 0
    let columns = readsAlternate ? columnDimension(work, from: fewColumns, apart: 2) : neighbors
    if columns >= 0 && areColumns(work, columns) {
        return (.columns, takeWholeColumns(&work, columns, elements))
    }
    let nearest =
        neighbors < 0 && !areRows ? nearestDimension(work, from: fewColumns, 0, work.inputs) : neighbors
    // Where results are rows, inputs that are columns are turned.
    let areRowsWritten = !work.isReduction && work.elementStride(work.output) == work.elementBytes
    if nearest >= 0 && fits && (areShort || !areRowsWritten) {
        work.takeColumns(nearest)
        work.streaming = 2 &* bytes >= columnStreamingBytes ? 1 : 0
        work.far = work.distance(elements)
        let most = max(16, min(1024, work.widePackBytes / sliceBytes) & ~15)
        work.unitSlices = unitColumns(work, elements, most: most)
        return (.packedColumns, work.columnUnits)
    }
    if areShort {
        work.unitSlices =
            work.kind == .forward ? work.tileColumns : max(16, min(256, work.cachedBytes / sliceBytes) & ~15)
        work.streaming = isLarge && (work.kind == .forward || work.areResultsTurned) ? 1 : 0
        return (.shortRows, work.rowUnits)
    }
    if areRows {
        return (.rows, work.slices)
    }
    if sliceBytes > Work.packBytes || isByBlocks { return nil }
    let turned = turnedDimension(work)
    if turned >= 0 { work.batch.moveToEnd(turned) }
    if work.areTurned {
        // So many that they fill a few lines side by side where they come from or go to, and fit in the second cache.
        let share = work.slices / (2 &* max(1, threadsWorth(elements)))
        let good = min(64, min(share, 256 &* 1024 / sliceBytes)) & ~15
        work.unitSlices = min(max(16, good), Work.packBytes / sliceBytes)
    } else {
        work.unitSlices = max(1, work.cachedBytes / sliceBytes)
    }
    return (.packedRows, work.rowUnits)
}

/// Takes slices that lie side by side along a dimension as columns.
///
/// - Returns: the units.
@_optimize(size)
private func takeWholeColumns(_ work: inout Work, _ dimension: Int, _ elements: Int) -> Int {
    let sliceBytes = work.n &* work.wideBytes
    let bytes = elements &* work.wideBytes
    work.takeColumns(dimension)
    let leavesCaches = bytes >= work.leastPastCaches
    work.streaming = leavesCaches && work.areRunsWorthStreaming ? 1 : 0
    work.far = work.distance(elements)
    work.headColumns = work.columnsBeforeLine
    let most =
        leavesCaches && work.areTakenAsRows
        ? work.across.size(0) : max(256, unitBytes / sliceBytes & ~255)
    work.unitSlices = min(work.across.size(0), unitColumns(work, elements, most: most))
    if work.isWide && areNarrow(work) { work.kernels = narrowKernels() }
    return work.columnUnits
}

/// `most` columns, or fewer where not every thread would have two units. Tiles begin at a cache line where arrays do.
private func unitColumns(_ work: Work, _ elements: Int, most: Int) -> Int {
    let threads = threadsWorth(elements)
    if threads <= 1 { return most }
    let share = work.across.size(0) &* work.batch.elements / (2 &* threads)
    return min(most, (max(1, share) &+ 63) & ~63)
}

/// Whether the kernels read rows that do not lie in order, or are of 16 bits, and write them as they lie; see
/// `runOtherRows`.
@_optimize(size)
private func areOtherRows(_ work: Work) -> Bool {
    if !work.isReduction && work.elementStride(work.output) != work.elementBytes { return false }
    return work.kind == .forward ? areOtherForwardRows(work) : areOtherGradients(work)
}

/// Rows with a mask, of a block at most, which are copied: in order, reversed, or every other element.
@_optimize(size)
private func areMaskedRows(_ work: Work) -> Bool {
    if !work.hasMask || !work.isWide || work.slice.count != 1
        || work.kernels.pointee.forward_other_rows == nil
    {
        return false
    }
    let (bytes, stride) = (work.elementBytes, work.elementStride(0))
    let areInOrder = work.isReduction || work.elementStride(work.output) == bytes
    return areInOrder && (stride.magnitude == bytes || stride == 2 &* bytes)
        && work.elementStride(work.mask) == 1
        && work.n >= 192 / work.elementBytes && work.n <= Int(SWIFTMAX_BLOCK)
}

/// Rows in order of 16 bits; reversed, or every other element, of a block, which is copied.
private func areOtherForwardRows(_ work: Work) -> Bool {
    if work.kernels.pointee.forward_other_rows == nil || work.n < 16 { return false }
    let stride = work.elementStride(0)
    if !work.isWide && stride == work.elementBytes { return work.n < longestByBlocks }
    return work.n <= Int(SWIFTMAX_BLOCK) && (stride == -work.elementBytes || stride == 2 &* work.elementBytes)
}

/// Rows of 16 bits, or with both inputs in reverse order or every other element. Shorter ones go through scratch many at a time; the
/// stats of the blocks of longer ones would leave their place in it. Of rows of 16 bits those that alone are reversed are copied, which
/// pays for fewer lengths.
private func areOtherGradients(_ work: Work) -> Bool {
    if work.kernels.pointee.backward_other_rows == nil { return false }
    let (bytes, stride, otherStride) = (work.elementBytes, work.elementStride(0), work.elementStride(1))
    if work.isWide {
        if stride != otherStride || stride != -bytes && stride != 2 &* bytes { return false }
    } else if stride != otherStride || stride.magnitude != bytes {
        let areNextToEachOther = stride.magnitude == bytes && otherStride.magnitude == bytes
        return areNextToEachOther && work.n >= 128 && work.n &* bytes <= Work.packBytes
    }
    return work.n >= (bytes == 8 ? 16 : 32) && work.n < longestByBlocks
}

/// Rows up to this long have the stats of their blocks in scratch.
private var longestByBlocks: Int {
    Work.packBytes / MemoryLayout<swiftmax_stats>.stride &* Int(SWIFTMAX_BLOCK) / 2
}

/// Whether slices of 16 bits lie side by side in groups so small that it takes longer to call a kernel for each than to widen
/// many. The kernels of the forward functions take several groups where they lie, which is only slow for few elements or columns; those
/// of the gradients are slow where the last vector of a group is a large part of it. Measured on a Zen 5.
private func areWidenedGroups(_ work: Work, _ dimension: Int) -> Bool {
    if work.isWide || work.slice.count != 1 || work.isReduction { return false }
    let (n, columns) = (work.n, work.batch.size(dimension))
    if n &* columns &* work.wideBytes &* 2 > widenedBytes { return false }
    let isLog = work.op == Int32(SWIFTMAX_OP_LOG_SOFTMAX)
    if work.kind == .backward { return columns < 64 && n <= (isLog ? 8 : 16) }
    return columns <= 16 || n <= (isLog ? 8 : 3)
}

/// What groups take as wide elements that are widened together.
private var widenedBytes: Int { 12288 }

/// What the columns of several groups take together, which go through a kernel at once.
private var groupBytes: Int { 32768 }

/// The path of slices with so many neighbors, where these are too few for a vector across them, or nil.
private func pathOfFew(_ work: Work, _ neighbors: Int) -> Path? {
    let runBytes = neighbors &* work.wideBytes
    if work.slice.count != 1 { return nil }
    if areBetterTurned(work, neighbors) { return .turnedColumns }
    if runBytes >= 64 || neighbors > 10 { return nil }
    // These are columns where they lie.
    let isShort = work.n <= longestGrouped
    if work.isWide && (work.kind == .backward || isShort) && neighbors >= fewColumns(work) { return nil }
    if isShort && areBetterGrouped(work, neighbors) {
        return work.batch.elements >= 16 ? .groupedColumns : nil
    }
    return work.n &* runBytes <= Work.packBytes ? .turnedColumns : nil
}

/// Whether slices with few neighbors take less time as columns, with those of other groups, than as rows: those that are not
/// turned fast, and those of a few vectors, of gradients where the last would not be full. Not where memory takes longer than
/// all that, as turned ones are asked for and written past the caches (measured on a Zen 5).
private func areBetterGrouped(_ work: Work, _ neighbors: Int) -> Bool {
    let (n, lanes) = (work.n, 64 / work.wideBytes)
    if neighbors > Int(work.kernels.pointee.most_turned) { return true }
    for operand in 0...work.inputs where work.isWide && !(work.isReduction && operand == work.output) {
        if work.slice.stride(0, operand) != neighbors &* work.elementBytes { return true }
    }
    let isFar = work.isWide && work.slices &* n &* work.wideBytes >= 2 &* columnStreamingBytes
    if isFar && neighbors > 2 && !work.isReduction && n >= (work.kind == .forward ? 7 &* lanes / 4 : 10) {
        return false
    }
    if work.kind == .forward { return n < 48 }
    let isSoftmax = work.op == Int32(SWIFTMAX_OP_SOFTMAX)
    return n % lanes != 0 && n < (isSoftmax ? 48 : 32)
}

/// Whether so many tall columns take less time as rows: where a sixth of the vectors across them were empty or, of doubles, where the
/// second cache does not hold what is kept of the exponentials. Not where results are far, which are written late then; those of a
/// reduction are few, and little of a column is kept for them (measured on a Zen 5).
private func areBetterTurned(_ work: Work, _ columns: Int) -> Bool {
    let (n, lanes, isSoftmax) = (work.n, 64 / work.wideBytes, work.op == Int32(SWIFTMAX_OP_SOFTMAX))
    if work.kind == .backward || columns < 8 || columns >= 64
        || n &* columns &* work.wideBytes > Work.packBytes
    {
        return false
    }
    if work.wideBytes == 8 && isSoftmax && n >= 8000 { return true }
    // Others are packed as rows then.
    if !work.isWide && n > Int(SWIFTMAX_BLOCK) && columns < lanes { return true }
    let places = (columns &+ lanes &- 1) / lanes &* lanes
    if 5 &* places < 6 &* columns || work.oddColumns(columns) > 0 { return false }
    if work.wideBytes == 8 { return work.hasSoonLastCache ? n >= 1000 : isSoftmax && n >= 4000 }
    if !work.isWide || !work.hasSoonLastCache {
        return isSoftmax || !work.isWide && !work.isReduction ? n >= 1500 : columns > lanes && n >= 2000
    }
    if work.isReduction { return n >= 500 }
    let isNear = work.slices &* n &* work.wideBytes < columnStreamingBytes
    if columns < lanes { return isNear && isSoftmax && n >= 4000 }
    return isNear ? n >= 1500 : isSoftmax && n >= 4000
}

/// The dimension of the batch along which at least so many slices lie side by side in all arrays but the mask, those of the
/// input `apart` elements from each other, or -1.
private func columnDimension(_ work: Work, from fewest: Int, apart: Int = 1) -> Int {
    for dimension in 0..<work.batch.count where work.batch.size(dimension) >= fewest {
        var isColumn = true
        for operand in 0...work.inputs {
            let step = operand == 0 ? apart &* work.elementBytes : work.elementBytes
            if work.batch.stride(dimension, operand) != step { isColumn = false }
        }
        if isColumn { return dimension }
    }
    return -1
}

/// The dimension of the batch along which slices with a mask lie side by side, as do the bytes of that, or -1: if the kernels had
/// better read them where they lie. Small groups are copied, several at a time (measured on a Zen 5).
@_optimize(size)
private func maskedColumnDimension(_ work: Work) -> Int {
    let (n, lanes) = (work.n, 64 / work.wideBytes)
    if !work.hasMask || work.slice.count != 1 || n < 8 || n > Int(SWIFTMAX_BLOCK) { return -1 }
    let dimension = columnDimension(work, from: max(4 &* lanes, 2048 / n))
    return dimension >= 0 && work.batch.stride(dimension, work.mask) == 1 ? dimension : -1
}

/// Whether the kernels read the slices along a dimension as columns where they lie, and write them so.
private func areColumns(_ work: Work, _ dimension: Int) -> Bool {
    if work.kind == .backward {
        let fits = work.n &* work.wideBytes <= Work.packBytes
        return work.isWide || fits && work.kernels.pointee.backward_half_columns != nil
    }
    let isOwn = work.isWide && work.batch.stride(dimension, 0) == work.elementBytes
    return isOwn || work.n <= Int(SWIFTMAX_BLOCK)
}

/// Whether gradients of columns are better taken by vectors of 8 than by a part of one of 16: those that are fused, so that
/// no part of a vector is stored; of log_softmax one vector alone.
private func areNarrow(_ work: Work) -> Bool {
    if work.kind == .forward || work.wideBytes != 4 || work.n > 160 { return false }
    let (columns, isSoftmax) = (work.across.size(0), work.op == Int32(SWIFTMAX_OP_SOFTMAX))
    return columns >= 8 && columns < (isSoftmax ? 16 : 9) && narrowKernels().pointee.backward_columns != nil
}

/// The dimension of the batch along which at least so many slices lie nearest to each other in the operands from `first` to `end`, if
/// nearer than their own elements do in each, or -1. An operand may have one element for all of them, if they are twice as many.
@_optimize(size)
private func nearestDimension(_ work: Work, from fewest: Int, _ first: Int, _ end: Int) -> Int {
    if work.slice.count != 1 { return -1 }
    var (nearest, distance) = (-1, Int.max)
    for dimension in 0..<work.batch.count where work.batch.size(dimension) >= fewest {
        var (isNear, farthest) = (true, 0)
        for operand in first..<end {
            let apart = Int(work.batch.stride(dimension, operand).magnitude)
            let own = Int(work.slice.stride(0, operand).magnitude)
            let areAlike = apart == 0 && own == 0 && work.batch.size(dimension) >= 2 &* fewest
            if apart >= own && !areAlike { isNear = false }
            farthest = max(farthest, apart)
        }
        if isNear && farthest < distance { (nearest, distance) = (dimension, farthest) }
    }
    return nearest
}

/// That along which the slices of the first operand that is to be turned do so, or -1.
@_optimize(size)
private func turnedDimension(_ work: Work) -> Int {
    for operand in 0...work.inputs where !work.isReduction {
        let nearest = nearestDimension(work, from: 16, operand, operand &+ 1)
        if nearest >= 0 && work.batch.stride(nearest, operand) != 0 { return nearest }
    }
    return -1
}

extension Work {
    /// As many short columns as fill one tile of the forward kernels, so that all that is next is asked for.
    fileprivate var tileColumns: Int { swiftmax_tile_columns(n, wideBytes) }

    /// Makes a dimension of the batch that of the columns.
    fileprivate mutating func takeColumns(_ dimension: Int) {
        let source = batch
        across.append(size: source.size(dimension), operands: operandLimit) {
            source.stride(dimension, $0)
        }
        batch.moveToEnd(dimension)
        batch.removeLast()
    }

    fileprivate var hasSoonLastCache: Bool { kernels.pointee.last_cache == Int32(SWIFTMAX_SOON) }

    /// Whether rows of so many bytes are not found in the inner caches. Of gradients of short rows the batches that suit memory are
    /// large enough to suit the second cache too; a last cache that answers soon likes larger ones (measured on a Zen 5).
    fileprivate func isFar(_ bytes: Int) -> Bool {
        let mebibyte = 1024 &* 1024
        if kind == .forward {
            // What a last cache that answers soon has of long rows, or of results that tails were kept in, is only delayed.
            let isSoftmax = op == Int32(SWIFTMAX_OP_SOFTMAX)
            let comesSoon =
                hasSoonLastCache && elementBytes == 4 && (n > Int(SWIFTMAX_BLOCK) || isSoftmax && n >= 384)
            return bytes >= (comesSoon ? 8 : 4) &* mebibyte
        }
        if hasSoonLastCache { return bytes >= 6 &* mebibyte }
        return bytes >= (n &* elementBytes <= 512 ? mebibyte : 4 &* mebibyte)
    }

    /// How far away columns are.
    @_optimize(size)
    fileprivate func distance(_ elements: Int) -> Int32 {
        let bytes = elements &* wideBytes
        if bytes >= leastInMemory { return Int32(SWIFTMAX_IN_MEMORY) }
        if bytes >= leastPastCaches {
            return Int32(hasSoonLastCache ? SWIFTMAX_SOON_ASIDE : SWIFTMAX_IN_MEMORY)
        }
        let isNear = !hasSoonLastCache && elements &* elementBytes <= nearColumnBytes
        return isNear ? Int32(SWIFTMAX_NEAR) : kernels.pointee.last_cache
    }

    /// From which size on columns are hardly found in the last cache. Those of gradients share it with two more arrays, which tells
    /// where the CPU does not read ahead well by itself: in groups of some lines whose rows end in the middle of one (measured on a
    /// Zen 5).
    fileprivate var leastInMemory: Int {
        let groupBytes = n &* runBytes
        let areUneven = runBytes % 64 != 0 && groupBytes >= 1024 && groupBytes <= 16384
        return kind == .backward && hasSoonLastCache && areUneven
            ? 5 &* 1024 &* 1024 : 3 &* columnStreamingBytes
    }

    /// From which size on columns are written past the caches where they lie. A last cache that answers soon is filled further first
    /// (measured on a Zen 5): by what goes through registers, and with rows that have parts of lines at their ends, of which gradients
    /// that do little for an element are never written past it, nor small groups, and others that are not large only once they are far
    /// larger than it; nor is what would take longer in the other way than memory does, the gradients of groups of few elements and the
    /// log_softmax of slices of few.
    fileprivate var leastPastCaches: Int {
        let twice = 2 &* columnStreamingBytes
        if !isWide || !hasSoonLastCache { return columnStreamingBytes }
        let hasLines = runBytes % 64 == 0
        if kind == .forward && op == Int32(SWIFTMAX_OP_LOG_SOFTMAX) && elementBytes == 4 && n <= 8 {
            return n < 4 || !hasLines ? Int.max : 2 &* twice
        }
        if !hasLines {
            if kind == .forward { return twice }
            let groupBytes = n &* runBytes
            if !isSoftmaxGradient || n <= 16 || groupBytes <= 4096 { return Int.max }
            return groupBytes <= 16384 ? 5 &* columnStreamingBytes : twice
        }
        if kind == .backward && runBytes < 256 && n <= 16 { return n &* runBytes <= 1024 ? Int.max : twice }
        return isSoftmaxGradient && n <= 64 ? twice : columnStreamingBytes
    }

    /// Whether columns may be written past the caches where they lie: not where their rows are so short that the parts of
    /// lines at the ends cost more than it brings.
    var areRunsWorthStreaming: Bool {
        runBytes % 64 == 0 || runBytes >= (isSoftmaxGradient ? 1024 : 1536) || areTakenAsRows
    }

    /// Whether the kernel takes all columns of a row at a time when it writes past the caches, with the rows that follow without
    /// a gap: where none of them would end with a line, and the second cache holds a slice of each column and the next ones, or the last
    /// one answers soon.
    fileprivate var areTakenAsRows: Bool {
        let mostColumns = n &* runBytes <= 192 &* 1024 || hasSoonLastCache ? Int(SWIFTMAX_TABLE_SLICES) : 256
        return isSoftmaxGradient && slice.stride(0, output) == runBytes && runBytes % 64 != 0
            && across.size(0) <= mostColumns
    }

    private var runBytes: Int { across.size(0) &* elementBytes }

    private var isSoftmaxGradient: Bool { kind == .backward && op == Int32(SWIFTMAX_OP_SOFTMAX) && isWide }

    /// Units of columns side by side.
    var columnTiles: Int { max(1, (across.size(0) &- headColumns &+ unitSlices &- 1) / unitSlices) }

    fileprivate var columnUnits: Int { batch.elements &* columnTiles }

    /// Columns before the first that begin with a line, in rows so long that these are worth a call of their own, where that is the same
    /// in all rows: of the results, if they go past the caches, else of the inputs of gradients (measured on a Zen 5). Those of a
    /// reduction are few, and do not lie as the elements do.
    @_optimize(size)
    fileprivate var columnsBeforeLine: Int {
        let streams = streaming != 0
        if !isWide || isReduction || !streams && kind == .forward { return 0 }
        if n < (streams ? 16 : 64) || runBytes < (streams ? 1024 : 512 &* wideBytes) { return 0 }
        let (first, last) = streams ? (output, output) : (0, inputs &- 1)
        let start = Int(bitPattern: pointer(first))
        var uneven = start & (elementBytes &- 1) | (start ^ Int(bitPattern: pointer(last)))
        for operand in first...last {
            uneven |= elementStride(operand)
            for dimension in 0..<batch.count { uneven |= batch.stride(dimension, operand) }
        }
        return uneven & 63 == 0 ? (0 &- start) & 63 / elementBytes : 0
    }

    fileprivate var rowUnits: Int { (slices &+ unitSlices &- 1) / unitSlices }
}
