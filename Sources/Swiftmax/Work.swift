// One call, planned: which elements lie where, and which kernels take them how.

import CKernels
import CSupport
import CSwiftmax

struct Work {
    enum Kind { case forward, backward }

    let kind: Kind
    let op: Int32
    let dtype: Int32
    let elementBytes: Int
    var kernels: UnsafePointer<swiftmax_kernels>
    /// How many of the operands are inputs; the output follows them, and then the mask.
    let inputs: Int
    let data:
        (
            UnsafeMutableRawPointer, UnsafeMutableRawPointer, UnsafeMutableRawPointer,
            UnsafeMutableRawPointer
        )
    let hasMask: Bool
    /// Whether the output is large enough to go past the caches.
    var streaming: Int32
    /// Whether an input is so large that it is not found in the inner caches; of columns, how far away it is: `SWIFTMAX_NEAR` and
    /// so on.
    var far: Int32
    /// Along a slice; over the slices; and, where columns are taken, over those side by side, which are then not
    /// part of `batch`.
    var slice: Dimensions
    var batch: Dimensions
    var across: Dimensions
    /// Elements of a slice, and slices.
    let n: Int
    let slices: Int
    /// Slices that a unit takes.
    var unitSlices = 1
    /// Columns before those whose results begin with a line: units of columns are counted from these on.
    var headColumns = 0
    /// What is read after the only unit, and asked for meanwhile.
    var next = swiftmax_next()
    /// For a slice that is shared out: which it is, and the stats of its blocks; then those of the whole.
    var current = 0
    var stats: UnsafeMutablePointer<swiftmax_stats>?
    /// The maximum its blocks are to be summed against, if not their own; of a backward, the scale of the gradients.
    var known: UnsafePointer<Double>?

    var output: Int { inputs }
    var mask: Int { inputs &+ 1 }
    /// Of the type the kernels compute in.
    var wideBytes: Int { max(elementBytes, 4) }
    var isReduction: Bool { kind == .forward && op == Int32(SWIFTMAX_OP_LOGSUMEXP) }
    /// How elements lie for the kernels, so many bytes apart.
    @inline(__always)
    func elements(stride: Int) -> Int32 {
        if dtype == Int32(SWIFTMAX_FLOAT16) {
            return Int32(stride < 0 ? SWIFTMAX_ELEMENTS_REVERSED_FLOAT16 : SWIFTMAX_ELEMENTS_FLOAT16)
        }
        if dtype == Int32(SWIFTMAX_BFLOAT16) {
            return Int32(stride < 0 ? SWIFTMAX_ELEMENTS_REVERSED_BFLOAT16 : SWIFTMAX_ELEMENTS_BFLOAT16)
        }
        if stride < 0 { return Int32(SWIFTMAX_ELEMENTS_REVERSED) }
        return Int32(stride == elementBytes ? SWIFTMAX_ELEMENTS_OWN : SWIFTMAX_ELEMENTS_ALTERNATE)
    }

    @inline(__always)
    func pointer(_ operand: Int) -> UnsafeMutableRawPointer {
        switch operand {
        case 0: data.0
        case 1: data.1
        case 2: data.2
        default: data.3
        }
    }
}

// MARK: Scratch

extension Work {
    /// What a pack may hold, in bytes.
    static var packBytes: Int { 4096 &* 1024 }
    /// What its rows may have between them: a line after each of those that a unit takes.
    static var gapBytes: Int { 256 &* 64 }
    /// What `rows` rows have between them that are turned and lie `distance` bytes apart: nothing, or a line where the first cache would
    /// hold fewer of the lines that are written together, as they share its sets.
    static func gap(after distance: Int, _ rows: Int) -> Int { rows <= 8 || distance % 2048 != 0 ? 0 : 64 }
    /// What a pack of columns should hold: more than the inner caches do, so that its rows are long enough to be read ahead
    /// in. Of forward functions in Double only so much that the second cache also holds the next, which is asked for.
    var widePackBytes: Int {
        let asked: Int = 512 &* 1024
        return kind == .forward && wideBytes == 8 && 64 &* n &* wideBytes <= asked ? asked : 1024 &* 1024
    }
    /// What a pack of rows should hold, so that all packs and the elements they are made of stay in the first cache. The
    /// phases of forward kernels want many rows.
    var cachedBytes: Int { kind == .backward ? 4096 : 12288 }
    /// Elements on their way to or from another type.
    static var stagingBytes: Int { 16384 }

    /// Elements that are worth going past the caches with, of which the first and the last lines never do.
    static var streamedRun: Int { 512 }

    /// The next unit of each part of a call that is shared out, a line apart.
    static var counterBytes: Int { 64 &* 64 }

    static var scratchBytes: Int {
        Int(SWIFTMAX_KERNEL_SCRATCH_BYTES) &+ 3 &* (packBytes &+ gapBytes) &+ packBytes / 4 &+ stagingBytes
            &+ 9 &* Dimensions.bytes &+ counterBytes
    }

    /// The parts of a thread's scratch.
    struct Packs {
        let scratch: UnsafeMutableRawPointer

        /// For the kernels themselves.
        var kernel: UnsafeMutableRawPointer { scratch }
        /// The elements of an input; the first then holds the results.
        func input(_ operand: Int) -> UnsafeMutableRawPointer {
            scratch + (Int(SWIFTMAX_KERNEL_SCRATCH_BYTES) &+ operand &* (packBytes &+ gapBytes))
        }
        /// Rows that are yet to be turned into columns.
        var rows: UnsafeMutableRawPointer { input(2) }
        var mask: UnsafeMutableRawPointer { input(3) }
        var staging: UnsafeMutableRawPointer { mask + packBytes / 4 }
        /// Those of the plan, in the thread that made it; then those of copies.
        func dimensions(_ list: Int) -> UnsafeMutableRawPointer {
            staging + (stagingBytes &+ list &* Dimensions.bytes)
        }
        var counters: UnsafeMutableRawPointer { dimensions(9) }
    }
}
