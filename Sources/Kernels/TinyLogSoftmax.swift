// log_softmax of slices of two to eight floats that lie side by side, from where they lie.
//
// Its constants are those of TinySlices.swift. A tile of slices (ForwardColumns.swift) would be copied, summed and written in steps,
// while here the next elements are read and results written as long as the steps of a logarithm wait for each other.

import CKernels
import CVector

#if SWIFTMAX_FLOAT32 && (SWIFTMAX_AVX2 || SWIFTMAX_AVX512)
    /// Whether the log_softmax of slices of `n` elements, `columns` of them side by side, is taken this way. Vectors overlap where
    /// columns end: few of them must, and there the elements must not be overwritten.
    @inline(__always)
    func areTinyLogSoftmax(
        _ op: Operation, _ elements: Elements, _ columns: Int, _ n: Int, inPlace: Bool, streaming: Bool
    ) -> Bool {
        guard op == .logSoftmax, case .own = elements else { return false }
        let twice = (0 &- columns) & (lanes &- 1)
        return areTiny(op, n) && columns >= lanes && n &* twice <= 4 &* columns && !(inPlace && twice > 0)
            && !streaming
    }

    /// As `forwardColumns`, for those that `areTinyLogSoftmax`: four vectors of slices at a time, the last repeated at the end.
    @inline(never)
    @_optimize(speed)
    func tinyLogSoftmaxColumns(
        _ x: UnsafeRawPointer, _ xStride: Int, _ out: UnsafeMutableRawPointer, _ outStride: Int,
        _ columns: Int, _ groups: swiftmax_groups, _ n: Int, _ scratch: Scratch
    ) {
        let table = scratch.table
        var places = TinyPlaces(x, out, columns, groups)
        while !places.isEmpty {
            let a = places.nextAsking(n, xStride, outStride)
            let b = places.isEmpty ? a : places.nextAsking(n, xStride, outStride)
            let c = places.isEmpty ? b : places.nextAsking(n, xStride, outStride)
            let d = places.isEmpty ? c : places.nextAsking(n, xStride, outStride)
            let x = TinyQuad(a.x, b.x, c.x, d.x, stride: xStride)
            var max = x.element(0)
            for i in 1..<n { max = max.map(x.element(i), maximum) }
            if setTinyResults(.logSoftmax, x, n, max, 0, table) {
                let results = Four(4 &* lanes) { table.logSoftmaxResult(from: $0 &* lanes) }
                for i in 0..<n {
                    let (x, row) = (x.element(i), i &* outStride)
                    vector_store(a.out + row, results.a(x.a))
                    vector_store(b.out + row, results.b(x.b))
                    vector_store(c.out + row, results.c(x.c))
                    vector_store(d.out + row, results.d(x.d))
                }
            } else {
                a.writeLongWay(.logSoftmax, xStride, outStride, n, scratch)
                if b.out != a.out { b.writeLongWay(.logSoftmax, xStride, outStride, n, scratch) }
                if c.out != b.out { c.writeLongWay(.logSoftmax, xStride, outStride, n, scratch) }
                if d.out != c.out { d.writeLongWay(.logSoftmax, xStride, outStride, n, scratch) }
            }
        }
    }
#endif
