import Foundation

#if arch(x86_64)
    /// The type that results are judged in. Where Double has to do, it is itself off by about an ULP of float64.
    typealias Exact = Float80
    let exactError = 0.01
#else
    typealias Exact = Double
    let exactError = 2.0
#endif

extension Function {
    /// The results of one slice, and for each the magnitude whose ULP its error is counted in.
    func exact(_ inputs: [[Double]]) -> (values: [Exact], scales: [Exact]) {
        let a = inputs[0].map { Exact($0) }
        if isBackward {
            let y = inputs[1].map { Exact($0) }
            let factors = self == .softmaxBackward ? y : y.map { exp($0) }
            let sum = self == .softmaxBackward ? compensatedSum(zip(a, y).map { $0 * $1 }) : compensatedSum(a)
            let values = a.indices.map {
                self == .softmaxBackward ? y[$0] * (a[$0] - sum) : a[$0] - factors[$0] * sum
            }
            let scales = a.indices.map {
                max(
                    abs(self == .softmaxBackward ? y[$0] * a[$0] : a[$0]), abs(factors[$0] * sum),
                    abs(values[$0]))
            }
            return (values, scales)
        }
        let largest = a.max() ?? -.infinity
        // One maximum is left out of the sum, for the logarithm near 1.
        var others = a.map { exp($0 - largest) }
        others.remove(at: a.firstIndex(of: largest)!)
        let rest = compensatedSum(others)
        let logarithm = log1p(rest)
        let values: [Exact] =
            switch self {
            case .softmax: a.map { exp($0 - largest) / (1 + rest) }
            case .logSoftmax: a.map { ($0 - largest) - logarithm }
            default: [largest + logarithm]
            }
        return (values, values)
    }
}

/// Neumaier's sum.
private func compensatedSum(_ terms: [Exact]) -> Exact {
    var (sum, lost): (Exact, Exact) = (0, 0)
    for term in terms {
        let next = sum + term
        lost += abs(sum) >= abs(term) ? (sum - next) + term : (term - next) + sum
        sum = next
    }
    return sum + lost
}

/// The largest error of `results`, in ULP of their type.
func largestError(_ results: [Double], _ exact: (values: [Exact], scales: [Exact]), _ type: ElementType)
    -> Double
{
    precondition(results.count == exact.values.count && !results.isEmpty)
    return zip(results, zip(exact.values, exact.scales)).map { result, wanted in
        result.isFinite ? Double(abs(Exact(result) - wanted.0) / type.ulp(wanted.1)) : .infinity
    }.max() ?? 0
}

// MARK: Inputs

/// Numbers in [0, 1), the same in every run: the finalizer of SplitMix64 over a counter.
func uniform(_ seed: Int, _ count: Int) -> [Double] {
    (1...max(count, 1)).prefix(count).map { i in
        var z = (UInt64(seed) << 32 + UInt64(i)) &* 0x9e37_79b9_7f4a_7c15
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return Double((z ^ (z >> 31)) >> 11) * 0x1p-53
    }
}

/// What `function` may be given: logits; or gradients and an output of the forward function.
func inputValues(_ function: Function, _ type: ElementType, _ seed: Int, _ count: Int, spread: Double = 10)
    -> [[Double]]
{
    let values = uniform(seed, count).map { type.rounded(spread * (2 * $0 - 1)) }
    switch function {
    case .softmax, .logSoftmax, .logsumexp: return [values]
    case .softmaxBackward: return [values, uniform(seed + 1, count).map { type.rounded($0) }]
    case .logSoftmaxBackward: return [values, uniform(seed + 1, count).map { type.rounded(-spread * $0) }]
    }
}
