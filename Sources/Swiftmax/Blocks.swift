// Slices taken one after another, by blocks: first the stats of each block, then the results.

import CKernels
import CSupport
import CSwiftmax

extension Work {
    /// Elements first..<end of the current slice, in place where they can be read there. Others are gathered: where their results
    /// will be if these are a row, so that they are found there for the results, `again`.
    func blockElements(
        _ operand: Int, _ first: Int, _ end: Int, _ packs: Packs, again: Bool = false
    ) -> UnsafeMutableRawPointer {
        if isRow(operand) { return start(current, operand) + first &* elementBytes }
        let areKept = kind == .forward && !isReduction && isRow(output)
        let room = areKept ? start(current, output) + first &* elementBytes : packs.input(operand)
        if !(areKept && again) { gatherRow(operand, current, first, end, room, packs) }
        return room
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
    @_optimize(size)
    func writeLogsumexp(_ total: UnsafePointer<swiftmax_stats>, _ scratch: UnsafeMutableRawPointer) {
        let packs = Packs(scratch: scratch)
        // Where the stats of a slice that one thread takes begin too.
        let result = packs.rows
        let max = total.pointee.max
        kernels.pointee.row_output(op, result, result, 1, total, packs.kernel, 0)
        let value = wideBytes == 8 ? result.load(as: Double.self) : Double(result.load(as: Float.self))
        if swiftmax_logsumexp_cancels(value, max) {
            var sum = swiftmax_exact_sum(limbs: (0, 0, 0, 0))
            var first = 0
            while first < n {
                let end = min(first &+ Int(SWIFTMAX_BLOCK), n)
                let x = blockElements(0, first, end, packs)
                swiftmax_add_exact(x, wideBytes, wideBytes, end &- first, max, &sum)
                first = end
            }
            let exact = swiftmax_kernels_exact_log(&sum, max)
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
@_optimize(size)
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
            let isNext = end < work.n && work.slice.count == 1
            let next = swiftmax_next(
                address: isNext ? work.start(work.current, 0) + end &* work.elementStride(0) : nil,
                row_stride: 0,
                column_stride: work.elementStride(0))
            work.kernels.pointee.row_stats(
                work.op, x, end &- start, work.known, stats, packs.kernel, next)
        } else {
            let y = work.blockElements(1, start, end, packs)
            work.kernels.pointee.row_sum(
                work.op, x, y, end &- start, work.known, stats, packs.kernel,
                work.kernels.pointee.eights)
        }
    }
}

/// The results of blocks first..<end of the current slice, whose stats are the first of `Work.stats`.
@_optimize(size)
func runBlockResults(
    _ work: UnsafePointer<Work>, _ first: Int, _ end: Int, _ scratch: UnsafeMutableRawPointer
) {
    let work = work.pointee
    let packs = Work.Packs(scratch: scratch)
    let isInPlace = work.isRow(work.output)
    for b in first..<end {
        let start = b &* Int(SWIFTMAX_BLOCK)
        let end = min(start &+ Int(SWIFTMAX_BLOCK), work.n)
        let x = work.blockElements(0, start, end, packs, again: true)
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
                work.op, x, y, target, end &- start, work.stats, packs.kernel, streaming)
        }
        if !isInPlace { work.scatterRow(work.current, start, end, target, packs) }
    }
}

extension Work {
    /// One slice by blocks, in this thread.
    func runOneByBlocks(_ index: Int, _ scratch: UnsafeMutableRawPointer) {
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
        if isReduction {
            own.writeLogsumexp(total, scratch)
        } else {
            runBlockResults(&own, 0, blocks, scratch)
        }
    }
}

/// Slices one after another, each shared out by blocks. False without memory for the stats.
@_optimize(size)
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
