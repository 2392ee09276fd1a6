// The results of what a mask leaves out: 0 of softmax, -inf of log_softmax. The kernels take such elements for -inf, and in most
// slices give just that. They give NaN instead where the sum is not a number, or all elements are -inf; and then the first result is NaN
// too, as every other.

import CKernels
import CSwiftmax

extension Work {
    /// What elements give that the mask leaves out.
    var absentResult: Double { op == Int32(SWIFTMAX_OP_SOFTMAX) ? 0 : -.infinity }

    /// Writes those of `count` slices whose results are NaN: rows, or columns side by side, in operands of the kernels.
    @inline(never)
    @_optimize(size)
    func writeAbsent(_ results: Operand, _ mask: Operand, _ count: Int, areRows: Bool) {
        for slice in 0..<count {
            let first = results.address + slice &* (areRows ? results.stride : elementBytes)
            if !isNaN(first, dtype) { continue }
            let bytes = mask.address + slice &* (areRows ? mask.stride : 1)
            for i in 0..<n where (bytes + i &* (areRows ? 1 : mask.stride)).load(as: UInt8.self) == 0 {
                storeAbsent(first + i &* (areRows ? elementBytes : results.stride))
            }
        }
    }

    private func storeAbsent(_ result: UnsafeMutableRawPointer) {
        switch dtype {
        case Int32(SWIFTMAX_FLOAT64): result.storeBytes(of: absentResult, as: Double.self)
        case Int32(SWIFTMAX_FLOAT32): result.storeBytes(of: Float(absentResult), as: Float.self)
        default:
            let infinity: UInt16 = dtype == Int32(SWIFTMAX_FLOAT16) ? 0xfc00 : 0xff80
            result.storeBytes(of: absentResult == 0 ? 0 : infinity, as: UInt16.self)
        }
    }

    /// Whether one of `columns` slices side by side in each of `groups`, of the wide type, has NaN for its first result.
    func isAnyNaN(_ groups: Int, _ columns: Int, _ results: Operand) -> Bool {
        let wide = Int32(wideBytes == 8 ? SWIFTMAX_FLOAT64 : SWIFTMAX_FLOAT32)
        for group in 0..<groups {
            for column in 0..<columns {
                let first = results.address + (group &* n &* results.stride &+ column &* wideBytes)
                if isNaN(first, wide) { return true }
            }
        }
        return false
    }
}

@inline(__always)
private func isNaN(_ result: UnsafeMutableRawPointer, _ dtype: Int32) -> Bool {
    switch dtype {
    case Int32(SWIFTMAX_FLOAT64): result.loadUnaligned(as: Double.self).isNaN
    case Int32(SWIFTMAX_FLOAT32): result.loadUnaligned(as: Float.self).isNaN
    case Int32(SWIFTMAX_FLOAT16): result.loadUnaligned(as: UInt16.self) & 0x7fff > 0x7c00
    default: result.loadUnaligned(as: UInt16.self) & 0x7fff > 0x7f80
    }
}
