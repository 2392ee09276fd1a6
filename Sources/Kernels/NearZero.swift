// logsumexp between max and -max, max < 0, where the maximum and the logarithm cancel.

import CKernels
import CVector

/// Whether a logsumexp has lost so much to the cancellation of max + log that it must be computed anew: at half of
/// |max| the error of the logarithm is three times as large in the result.
@inline(__always)
func cancels(_ result: Element, max: Element) -> Bool {
    max < 0 && result.magnitude < max.magnitude * 0.5 && max.isFinite
}

/// logsumexp of a slice where it cancels, right to half an ULP and a little: from a sum in double where that is enough for
/// Float, else from an exact one.
func nearZeroLogsumexp(
    _ x: UnsafeRawPointer, _ stride: Int, _ n: Int, max: Double, _ scratch: Scratch
) -> Double {
    #if SWIFTMAX_FLOAT32
        if n <= block {
            var row = x
            if stride != elementBytes {
                for i in 0..<n {
                    let element = (x + i &* stride).loadUnaligned(as: Element.self)
                    scratch.spare.element(i).storeBytes(of: element, as: Element.self)
                }
                row = UnsafeRawPointer(scratch.spare)
            }
            let result = wideLogsumexp(row, n, scratch.laneSums)
            // The sum is off by less than n + 8 roundings; this is an eighth of an ULP of the result.
            if result.magnitude > Double(n &+ 8) * 0x1p-26 { return result }
        }
    #endif
    var sum = swiftmax_exact_sum(limbs: (0, 0, 0, 0))
    addExact(x, stride, n, max: max, &sum)
    return logOfExact(sum, max: max)
}

#if SWIFTMAX_FLOAT32
    /// log(sum(exp(x))) in double, of at most a block of elements below 0, in the order of the virtual lanes.
    @inline(never)
    private func wideLogsumexp(_ x: UnsafeRawPointer, _ n: Int, _ laneSums: LaneSums) -> Double {
        var firstLane = 0
        while firstLane < virtualLanes {
            var sum = splatWide(0)
            var i = firstLane
            while i < n {
                let value = load(x.element(i), min(lanes, n &- i), fill: -.infinity)
                let (k, tail) = wideExponent(max: vector_widen(value))
                let power = widePowerOfTwo(k)
                sum += wide_fma(tail, power, power)
                i &+= virtualLanes
            }
            laneSums.set(firstLane: firstLane, Pair(high: sum, low: splatWide(0)))
            firstLane &+= lanes
        }
        return log1p(splatWide(laneSums.totals.high[0]) - splatWide(1), logPolynomial)[0]
    }
#endif
