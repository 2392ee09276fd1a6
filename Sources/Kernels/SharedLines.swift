// Rows without gaps between them on their way past the caches, whose ends share cache lines.

import CKernels
import CVector

/// The lines that rows of results share. Each is written once, when both rows have given their parts: a part would go through the
/// caches, for which its line is read first.
struct SharedLines {
    /// Room for the part that the last row has given.
    let room: UnsafeMutableRawPointer
    /// Whether there are rows before these, and after them.
    let areBegun: Bool
    let areContinued: Bool

    /// Whether a kernel writes rows of at most a block past the caches: without gaps, or of whole lines.
    @inline(__always)
    static func areStreamed(_ out: UnsafeRawPointer, _ stride: Int, _ n: Int) -> Bool {
        areThere(out, stride, n) || n &* elementBytes % lineBytes == 0
    }

    /// Whether rows have no gaps between them, and vectors are whole lines.
    @inline(__always)
    static func areThere(_ out: UnsafeRawPointer, _ stride: Int, _ n: Int) -> Bool {
        vectorBytes == lineBytes && stride == n &* elementBytes
            && Int(bitPattern: out) & (elementBytes &- 1) == 0
    }

    #if SWIFTMAX_AVX512
        /// Calls `body(first, count)` for each vector of the row at `index` of `count`, which has whole lines, and stores what it
        /// returns.
        @inline(__always)
        func writeRow(
            _ index: Int, of count: Int, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ body: (Int, Int) -> Vector
        ) {
            var (i, end) = (0, headOfRow(out))
            while true {
                // The parts of lines that the row begins and ends with.
                if i < end {
                    // Less than a vector, as the compiler is to know.
                    let present = (end &- i) & (lanes &- 1)
                    let part = body(i, present)
                    if i > 0 && (areContinued || index &+ 1 < count) {
                        vector_store(room, part)
                    } else if i == 0 && (areBegun || index > 0) {
                        let line = vector_continued(vector_load(room), lanes &- present, part)
                        vector_stream(out.element(present &- lanes), line)
                    } else {
                        vector_store_partial(out.element(i), part, present)
                    }
                }
                if i > 0 { return }
                i = end
                while i &+ lanes <= n {
                    vector_stream(out.element(i), body(i, lanes))
                    i &+= lanes
                }
                end = n
            }
        }

        /// Writes the part of the row before `next`, which has none to give.
        @inline(never)
        @_optimize(size)
        static func end(before next: UnsafeMutableRawPointer, room: UnsafeMutableRawPointer) {
            let head = headOfRow(next)
            if head > 0 {
                vector_store_partial(next.element(head &- lanes), vector_load(room), lanes &- head)
            }
        }
    #endif
}
