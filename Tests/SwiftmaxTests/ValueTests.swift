import CSwiftmax
import Testing

/// Results against exact ones.
@Suite struct ValueTests {
    @Test(arguments: Function.allCases, ElementType.allCases)
    func rowsOfManyLengths(_ function: Function, _ type: ElementType) {
        for length in [1, 2, 3, 15, 16, 17, 63, 64, 65, 100, 255, 1000, 4096, 4097, 9001] {
            check(function, type, shape: [3, length], axis: 1, seed: length)
        }
    }

    @Test(arguments: Function.allCases, ElementType.allCases)
    func columnsOfManyCounts(_ function: Function, _ type: ElementType) {
        for columns in [1, 2, 7, 16, 33, 70] {
            check(function, type, shape: [37, columns], axis: 0, seed: columns)
        }
    }

    @Test(arguments: Function.forward, ElementType.allCases)
    func resultsNearZero(_ function: Function, _ type: ElementType) {
        for x in [[0, -9], [-9, 0, -9], [0, -4, -4], [3, 3, 3]] as [[Double]] {
            let out = StridedArray(type, function.resultShape([x.count], axes: nil))
            #expect(function([StridedArray(type, [x.count], x)], into: out, axes: nil) == SWIFTMAX_OK)
            #expect(largestError(out.values, function.exact([x]), type) <= type.errorLimit + exactError)
        }
    }

    @Test(arguments: [ElementType.float32, .float64])
    func largeOffsets(_ type: ElementType) {
        for offset in [1e4, -1e6, 1e30] {
            let x = uniform(5, 300).map { type.rounded(offset + 20 * $0) }
            for function in Function.forward {
                let out = StridedArray(type, function.resultShape([300], axes: nil))
                #expect(function([StridedArray(type, [300], x)], into: out, axes: nil) == SWIFTMAX_OK)
                #expect(largestError(out.values, function.exact([x]), type) <= type.errorLimit + exactError)
            }
        }
    }

    @Test(arguments: ElementType.allCases)
    func specialValues(_ type: ElementType) {
        let (nan, infinity) = (Double.nan, Double.infinity)
        func results(_ function: Function, _ x: [Double]) -> [Double] {
            let out = StridedArray(type, function.resultShape([x.count], axes: nil))
            #expect(function([StridedArray(type, [x.count], x)], into: out, axes: nil) == SWIFTMAX_OK)
            return out.values
        }
        func isAllNaN(_ values: [Double]) -> Bool { values.allSatisfy(\.isNaN) }

        for poison in [[1, nan, 2], [1, infinity, 2], [-infinity, -infinity]] {
            #expect(isAllNaN(results(.softmax, poison)))
            #expect(isAllNaN(results(.logSoftmax, poison)))
        }
        #expect(results(.softmax, [2, -infinity, 2]) == [0.5, 0, 0.5])
        #expect(results(.logSoftmax, [2, -infinity]) == [0, -infinity])
        #expect(isAllNaN(results(.logsumexp, [infinity, nan])))
        #expect(results(.logsumexp, [1, infinity]) == [infinity])
        #expect(results(.logsumexp, [-infinity, -infinity]) == [-infinity])
        #expect(results(.logsumexp, [-infinity, 3]) == [3])
    }

    private func check(_ function: Function, _ type: ElementType, shape: [Int], axis: Int, seed: Int) {
        let count = shape.reduce(1, *)
        let inputs = inputValues(function, type, seed, count).map { StridedArray(type, shape, $0) }
        let out = StridedArray(type, function.resultShape(shape, axes: [axis]))
        #expect(function(inputs, into: out, axes: [axis]) == SWIFTMAX_OK)
        // The axis last: a slice is a row of both.
        let order = axis == 0 ? [1, 0] : [0, 1]
        let slices = inputs.map { $0.transposed(order).values }
        let results = out.transposed(order).values
        let length = shape[axis]
        let resultLength = results.count * length / count
        for slice in 0..<count / length {
            let exact = function.exact(slices.map { Array($0[slice * length..<(slice + 1) * length]) })
            let result = Array(results[slice * resultLength..<(slice + 1) * resultLength])
            let error = largestError(result, exact, type)
            #expect(error <= type.errorLimit + exactError, "\(shape) along \(axis), slice \(slice)")
        }
    }
}
