import CSwiftmax
import Testing

/// The same slices in other layouts: the same bytes as in C order, and no byte written beside the elements.
@Suite struct LayoutTests {
    /// A way to lay out an array of some shape.
    struct Layout: CustomTestStringConvertible {
        let testDescription: String
        let make: @Sendable (ElementType, [Int]) -> StridedArray
    }

    static let layouts = [
        Layout(testDescription: "one byte off alignment") { StridedArray($0, $1, offset: 1) },
        Layout(testDescription: "transposed") { type, shape in
            StridedArray(type, shape.reversed()).transposed(Array(shape.indices.reversed()))
        },
        Layout(testDescription: "middle axis innermost") { type, shape in
            StridedArray(type, [shape[0], shape[2], shape[1]]).transposed([0, 2, 1])
        },
        Layout(testDescription: "every third of the last axis") { type, shape in
            StridedArray(type, [shape[0], shape[1], 3 * shape[2]]).every(3, along: 2)
        },
        Layout(testDescription: "every second of the first axis, backwards") { type, shape in
            StridedArray(type, [2 * shape[0], shape[1], shape[2]]).every(-2, along: 0)
        },
        Layout(testDescription: "backwards along all axes") { type, shape in
            StridedArray(type, shape).every(-1, along: 0).every(-1, along: 1).every(-1, along: 2)
        },
    ]

    static let axisSets: [[Int]?] = [nil, [], [0], [1], [2], [-1], [0, 1], [1, 2], [2, 0], [0, 1, 2]]

    @Test(arguments: Function.allCases, LayoutTests.layouts)
    func anyLayoutGivesTheSameBytes(_ function: Function, _ layout: Layout) {
        for type in ElementType.allCases {
            for shape in [[3, 5, 4], [2, 70, 33], [1, 1, 300]] {
                let values = inputValues(function, type, 1, shape.reduce(1, *))
                for axes in LayoutTests.axisSets {
                    let resultShape = function.resultShape(shape, axes: axes)
                    let expected = StridedArray(type, resultShape)
                    let dense = values.map { StridedArray(type, shape, $0) }
                    #expect(function(dense, into: expected, axes: axes) == SWIFTMAX_OK)

                    let inputs = values.map { values in
                        let input = layout.make(type, shape)
                        input.assign(values)
                        return input
                    }
                    let out = layout.make(type, resultShape)
                    #expect(function(inputs, into: out, axes: axes) == SWIFTMAX_OK)
                    #expect(out.bytes == expected.bytes, "\(type), \(shape) along \(axes ?? [])")
                    #expect(out.strayBytes == 0)
                }
            }
        }
    }

    /// A slice over several axes is its elements in order.
    @Test(arguments: Function.allCases, ElementType.allCases)
    func severalAxesAreOneSlice(_ function: Function, _ type: ElementType) {
        let values = inputValues(function, type, 2, 5 * 4 * 6)
        let flat = StridedArray(type, function.resultShape([5, 24], axes: [1]))
        #expect(
            function(values.map { StridedArray(type, [5, 24], $0) }, into: flat, axes: [1]) == SWIFTMAX_OK)
        let split = StridedArray(type, function.resultShape([5, 4, 6], axes: [-1, 1]))
        #expect(
            function(values.map { StridedArray(type, [5, 4, 6], $0) }, into: split, axes: [-1, 1])
                == SWIFTMAX_OK)
        #expect(split.bytes == flat.bytes)
    }

    @Test(arguments: Function.allCases)
    func aRepeatedInput(_ function: Function) {
        for axis in 0..<2 {
            let values = inputValues(function, .float32, 3, 40)
            let shape = axis == 0 ? [40, 9] : [9, 40]
            let once = values.map { StridedArray(.float32, axis == 0 ? [40, 1] : [1, 40], $0) }
            let repeated = once.map { $0.repeated(9, along: 1 - axis) }
            let dense = repeated.map { StridedArray(.float32, shape, $0.values) }
            for axes in [[0], [1]] {
                let (a, b) = (
                    StridedArray(.float32, function.resultShape(shape, axes: axes)),
                    StridedArray(.float32, function.resultShape(shape, axes: axes))
                )
                #expect(function(repeated, into: a, axes: axes) == SWIFTMAX_OK)
                #expect(function(dense, into: b, axes: axes) == SWIFTMAX_OK)
                #expect(a.bytes == b.bytes)
            }
        }
    }

    @Test(arguments: ElementType.allCases)
    func noAxisMakesEachElementASlice(_ type: ElementType) {
        let x = StridedArray(type, [2, 3], [0, 1, -2, 3, 4, 5])
        let out = StridedArray(type, [2, 3])
        #expect(Function.softmax([x], into: out, axes: []) == SWIFTMAX_OK)
        #expect(out.values == [1, 1, 1, 1, 1, 1])
        #expect(Function.logsumexp([x], into: out, axes: []) == SWIFTMAX_OK)
        #expect(out.values == x.values)
    }

    @Test(arguments: Function.allCases, ElementType.allCases)
    func rankZero(_ function: Function, _ type: ElementType) {
        let inputs = (0..<function.inputCount).map { _ in StridedArray(type, [], [0.5]) }
        let out = StridedArray(type, [])
        #expect(function(inputs, into: out, axes: nil) == SWIFTMAX_OK)
        let error = largestError(out.values, function.exact(inputs.map(\.values)), type)
        #expect(error <= type.errorLimit + exactError)
    }

    @Test func rank64() {
        var shape = [Int](repeating: 1, count: 64)
        (shape[0], shape[63]) = (2, 3)
        let values = inputValues(.softmax, .float32, 4, 6)
        let out = StridedArray(.float32, shape)
        #expect(
            Function.softmax([StridedArray(.float32, shape, values[0])], into: out, axes: [63]) == SWIFTMAX_OK
        )
        let expected = StridedArray(.float32, [2, 3])
        #expect(
            Function.softmax([StridedArray(.float32, [2, 3], values[0])], into: expected, axes: [1])
                == SWIFTMAX_OK)
        #expect(out.bytes == expected.bytes)
    }

    // MARK: Empty arrays

    @Test(arguments: Function.allCases, ElementType.allCases)
    func arraysWithoutElements(_ function: Function, _ type: ElementType) {
        for (shape, axes) in [([0], [0]), ([3, 0], [1]), ([0, 3], [1]), ([2, 0, 4], [0, 2])] {
            let inputs = (0..<function.inputCount).map { _ in StridedArray(type, shape) }
            let out = StridedArray(type, function.resultShape(shape, axes: axes))
            #expect(function(inputs, into: out, axes: axes) == SWIFTMAX_OK)
            if function == .logsumexp {
                #expect(out.values.allSatisfy { $0 == -.infinity })
            } else {
                #expect(out.isUntouched)
            }
        }
    }

    @Test func emptyArraysMayHaveNoData() {
        let (x, out) = (StridedArray(.float32, [2, 0]), StridedArray(.float32, [2, 0]))
        (x.descriptor.pointee.data, out.descriptor.pointee.data) = (nil, nil)
        #expect(Function.softmax([UnsafePointer(x.descriptor)], out.descriptor, [1], 1) == SWIFTMAX_OK)
        withExtendedLifetime((x, out)) {}
    }
}
