import CSwiftmax
import Testing

/// `where`: elements that take no part.
@Suite struct MaskTests {
    /// What is left out has no influence, not even as NaN, and gives 0 or -inf.
    @Test(arguments: Function.forward, ElementType.allCases)
    func maskedElementsTakeNoPart(_ function: Function, _ type: ElementType) {
        for (shape, axis) in [([4, 37], 1), ([37, 20], 0), ([2, 5000], 1)] {
            let count = shape[0] * shape[1]
            let isIn = uniform(8, count).map { $0 < 0.6 }
            let values = inputValues(function, type, 7, count)[0]
            let poisoned = zip(values, isIn).map { $1 ? $0 : .nan }
            let minusInfinity = zip(values, isIn).map { $1 ? $0 : -.infinity }
            let resultShape = function.resultShape(shape, axes: [axis])
            let (out, expected) = (StridedArray(type, resultShape), StridedArray(type, resultShape))
            #expect(
                function(
                    [StridedArray(type, shape, poisoned)], into: out, axes: [axis],
                    mask: StridedArray(shape, isIn))
                    == SWIFTMAX_OK)
            #expect(
                function([StridedArray(type, shape, minusInfinity)], into: expected, axes: [axis])
                    == SWIFTMAX_OK)
            #expect(out.values == expected.values)
        }
    }

    @Test(arguments: Function.forward, ElementType.allCases)
    func aSliceWithNothingLeft(_ function: Function, _ type: ElementType) {
        let shape = [2, 3]
        let x = StridedArray(type, shape, [1, 2, .nan, 1, 2, 3])
        let out = StridedArray(type, function.resultShape(shape, axes: [1]))
        let mask = StridedArray(shape, [false, false, false, true, true, true])
        #expect(function([x], into: out, axes: [1], mask: mask) == SWIFTMAX_OK)
        let perSlice = out.values.count / 2
        #expect(out.values.prefix(perSlice).allSatisfy { $0 == function.valueOfNothing })
        let whole = StridedArray(type, function.resultShape([1, 3], axes: [1]))
        #expect(function([StridedArray(type, [1, 3], [1, 2, 3])], into: whole, axes: [1]) == SWIFTMAX_OK)
        #expect(Array(out.values.suffix(perSlice)) == whole.values)
    }

    /// Strides of 0 broadcast a mask along either axis.
    @Test(arguments: Function.forward, [0, 1])
    func broadcastMasks(_ function: Function, _ repeatedAxis: Int) {
        let shape = [6, 21]
        let isIn = (0..<21).map { $0 % 3 != 1 }
        let small =
            repeatedAxis == 0 ? StridedArray([1, 21], isIn) : StridedArray([6, 1], Array(isIn.prefix(6)))
        let mask = small.repeated(shape[repeatedAxis], along: repeatedAxis)
        let full = StridedArray(
            shape, (0..<6 * 21).map { repeatedAxis == 0 ? isIn[$0 % 21] : isIn[$0 / 21] })
        let x = StridedArray(.float32, shape, inputValues(function, .float32, 9, 6 * 21)[0])
        for axis in 0..<2 {
            let resultShape = function.resultShape(shape, axes: [axis])
            let (a, b) = (StridedArray(.float32, resultShape), StridedArray(.float32, resultShape))
            #expect(function([x], into: a, axes: [axis], mask: mask) == SWIFTMAX_OK)
            #expect(function([x], into: b, axes: [axis], mask: full) == SWIFTMAX_OK)
            #expect(a.bytes == b.bytes)
        }
    }

    @Test(arguments: Function.forward)
    func anyByteButZeroIsTrue(_ function: Function) {
        let x = StridedArray(.float32, [40], inputValues(function, .float32, 10, 40)[0])
        let mask = StridedArray([40], [Bool](repeating: true, count: 40))
        for (i, address) in mask.addresses.enumerated() {
            address.storeBytes(of: UInt8(1 + 6 * i), as: UInt8.self)
        }
        let resultShape = function.resultShape([40], axes: nil)
        let (a, b) = (StridedArray(.float32, resultShape), StridedArray(.float32, resultShape))
        #expect(function([x], into: a, axes: nil, mask: mask) == SWIFTMAX_OK)
        #expect(function([x], into: b, axes: nil) == SWIFTMAX_OK)
        #expect(a.bytes == b.bytes)
    }
}
