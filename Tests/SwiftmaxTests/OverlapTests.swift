import CSwiftmax
import Testing

/// Outputs in the memory of an input: the input itself, or refused.
@Suite struct OverlapTests {
    @Test(arguments: Function.allCases.filter { $0 != .logsumexp }, ElementType.allCases)
    func inPlace(_ function: Function, _ type: ElementType) {
        for (shape, axis) in [([7, 33], 1), ([33, 70], 0), ([2, 9001], 1), ([2, 9001], 0)] {
            let values = inputValues(function, type, 11, shape[0] * shape[1])
            let expected = StridedArray(type, shape)
            #expect(
                function(values.map { StridedArray(type, shape, $0) }, into: expected, axes: [axis])
                    == SWIFTMAX_OK)
            for target in values.indices {
                for isStrided in [false, true] {
                    let inputs = values.map { values in
                        let whole = StridedArray(type, [shape[0], 2 * shape[1]])
                        let input = isStrided ? whole.every(-2, along: 1) : StridedArray(type, shape)
                        input.assign(values)
                        return input
                    }
                    #expect(function(inputs, into: inputs[target], axes: [axis]) == SWIFTMAX_OK)
                    #expect(inputs[target].bytes == expected.bytes)
                }
            }
        }
    }

    @Test(arguments: Function.allCases)
    func anyOtherOverlapIsRefused(_ function: Function) {
        let memory = StridedArray(.float32, [9, 8], inputValues(function, .float32, 12, 72)[0])
        let before = memory.bytes
        let (upper, lower) = (memory.dropping(1, along: 0), memory.every(-1, along: 0).dropping(1, along: 0))
        let other = StridedArray(.float32, [8, 8], [Double](repeating: 0.5, count: 64))
        var pairs = [(lower, upper), (upper, lower)]
        pairs.append((upper, upper.transposed([1, 0])))
        for (x, out) in pairs {
            if function == .logsumexp {
                let small = out.every(8, along: 0)
                #expect(function([x], into: small, axes: [0]) == SWIFTMAX_OVERLAP)
            } else if function.isBackward {
                #expect(function([x, other], into: out, axes: [0]) == SWIFTMAX_OVERLAP)
                #expect(function([other, x], into: out, axes: [0]) == SWIFTMAX_OVERLAP)
            } else {
                #expect(function([x], into: out, axes: [0]) == SWIFTMAX_OVERLAP)
            }
        }
        #expect(memory.bytes == before, "a refused call writes nothing")
    }

    @Test(arguments: Function.forward)
    func theMaskIsAnInputToo(_ function: Function) {
        let x = StridedArray(.float32, [1], [0])
        let out = StridedArray(.float32, [1])
        let mask = StridedArray([1], [true])
        mask.descriptor.pointee.data = out.descriptor.pointee.data + 3
        #expect(function([x], into: out, axes: [0], mask: mask) == SWIFTMAX_OVERLAP)
        #expect(out.isUntouched)
    }

    /// Even where it is one element in the same place.
    @Test func logsumexpIsNeverInPlace() {
        let x = StridedArray(.float32, [1], [2])
        #expect(Function.logsumexp([x], into: x, axes: [0]) == SWIFTMAX_OVERLAP)
    }

    @Test func neighborsDoNotOverlap() {
        let memory = StridedArray(.float32, [4, 8])
        let (x, out) = (memory.every(2, along: 0).dropping(1, along: 0), memory.dropping(3, along: 0))
        x.assign(inputValues(.softmax, .float32, 13, 8)[0])
        let expected = StridedArray(.float32, [1, 8])
        #expect(Function.softmax([x], into: expected, axes: [1]) == SWIFTMAX_OK)
        #expect(Function.softmax([x], into: out, axes: [1]) == SWIFTMAX_OK)
        #expect(out.values == expected.values)
    }
}
