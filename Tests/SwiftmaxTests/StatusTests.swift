import CSwiftmax
import Testing

/// Every way to be wrong, in every argument of every function: the status, and nothing written.
@Suite struct StatusTests {
    /// Calls with good arguments after `spoil` had them.
    private func expect(
        _ status: Int, _ function: Function, hasMask: Bool = false, axes: [Int32]? = [1],
        axisCount: Int32? = nil,
        _ location: SourceLocation = #_sourceLocation,
        _ spoil: (_ inputs: [StridedArray], _ out: StridedArray, _ mask: StridedArray) -> Void
    ) {
        let shape = [3, 4]
        let inputs = inputValues(function, .float32, 14, 12).map { StridedArray(.float32, shape, $0) }
        let out = StridedArray(.float32, function.resultShape(shape, axes: [1]))
        let mask = StridedArray(shape, [Bool](repeating: true, count: 12))
        spoil(inputs, out, mask)
        let result = withExtendedLifetime((inputs, out, mask)) {
            let count = axisCount ?? Int32(axes?.count ?? 0)
            let descriptors = inputs.map { UnsafePointer<swiftmax_array>?($0.descriptor) }
            return axes.map {
                function(descriptors, out.descriptor, $0, count, hasMask ? mask.descriptor : nil)
            }
                ?? function(descriptors, out.descriptor, nil, count, hasMask ? mask.descriptor : nil)
        }
        #expect(result == status, sourceLocation: location)
        #expect(out.isUntouched, sourceLocation: location)
    }

    /// Spoils each array argument in turn; `change` may alter the descriptor only.
    private func expectForEachArray(
        _ status: Int, _ function: Function, _ location: SourceLocation = #_sourceLocation,
        _ change: (inout swiftmax_array) -> Void
    ) {
        for i in 0..<function.inputCount {
            expect(status, function, location) { inputs, _, _ in change(&inputs[i].descriptor.pointee) }
        }
        expect(status, function, location) { _, out, _ in change(&out.descriptor.pointee) }
        if !function.isBackward {
            expect(status, function, hasMask: true, location) { _, _, mask in change(&mask.descriptor.pointee)
            }
        }
    }

    /// Puts one number into the first entry of a shape or of strides.
    private func first(_ sizes: UnsafePointer<Int64>?, _ value: Int64) {
        UnsafeMutablePointer(mutating: sizes!)[0] = value
    }

    @Test(arguments: Function.allCases)
    func goodArguments(_ function: Function) {
        let inputs = inputValues(function, .float32, 14, 12).map { StridedArray(.float32, [3, 4], $0) }
        let out = StridedArray(.float32, function.resultShape([3, 4], axes: [1]))
        #expect(function(inputs, into: out, axes: [1]) == SWIFTMAX_OK)
        #expect(!out.isUntouched)
    }

    @Test(arguments: Function.allCases)
    func nullPointers(_ function: Function) {
        expectForEachArray(SWIFTMAX_NULL_POINTER, function) { $0.data = nil }
        expectForEachArray(SWIFTMAX_NULL_POINTER, function) { $0.shape = nil }
        expectForEachArray(SWIFTMAX_NULL_POINTER, function) { $0.strides = nil }
        expect(SWIFTMAX_NULL_POINTER, function, axes: nil, axisCount: 1) { _, _, _ in }

        let array = StridedArray(.float32, [1], [0])
        let descriptor = UnsafePointer(array.descriptor)
        for i in 0..<function.inputCount {
            var inputs = [UnsafePointer<swiftmax_array>?](repeating: descriptor, count: function.inputCount)
            inputs[i] = nil
            #expect(function(inputs, descriptor, [0], 1) == SWIFTMAX_NULL_POINTER)
        }
        let inputs = [UnsafePointer<swiftmax_array>?](repeating: descriptor, count: function.inputCount)
        #expect(function(inputs, nil, [0], 1) == SWIFTMAX_NULL_POINTER)
        withExtendedLifetime(array) {}
    }

    @Test(arguments: Function.allCases, [0, 6, -1, Int32.max, .min])
    func unknownDtypes(_ function: Function, _ dtype: Int32) {
        expectForEachArray(SWIFTMAX_BAD_DTYPE, function) { $0.dtype = dtype }
    }

    @Test(arguments: Function.allCases)
    func boolIsForMasksAlone(_ function: Function) {
        for i in 0..<function.inputCount {
            expect(SWIFTMAX_BAD_DTYPE, function) { inputs, _, _ in
                inputs[i].descriptor.pointee.dtype = Int32(SWIFTMAX_BOOL)
            }
        }
        expect(SWIFTMAX_BAD_DTYPE, function) { _, out, _ in
            out.descriptor.pointee.dtype = Int32(SWIFTMAX_BOOL)
        }
        if !function.isBackward {
            expect(SWIFTMAX_BAD_DTYPE, function, hasMask: true) { _, _, mask in
                mask.descriptor.pointee.dtype = Int32(SWIFTMAX_FLOAT32)
            }
        }
    }

    @Test(arguments: Function.allCases, [-1, 65, Int32.max, .min])
    func badRanks(_ function: Function, _ rank: Int32) {
        expectForEachArray(SWIFTMAX_BAD_RANK, function) { $0.ndim = rank }
    }

    @Test(arguments: Function.allCases, [-1, Int64.min])
    func negativeSizes(_ function: Function, _ size: Int64) {
        expectForEachArray(SWIFTMAX_NEGATIVE_SIZE, function) { first($0.shape, size) }
    }

    @Test(arguments: Function.allCases)
    func arraysThatAreTooLarge(_ function: Function) {
        // The extent, by its size and by its strides, of either sign.
        expectForEachArray(SWIFTMAX_TOO_LARGE, function) { first($0.shape, .max) }
        for stride in [Int64.max, .max / 2, .min / 2, .min] {
            expectForEachArray(SWIFTMAX_TOO_LARGE, function) { first($0.strides, stride) }
        }
        // The number of elements, where strides of 0 keep the extent small.
        expectForEachArray(SWIFTMAX_TOO_LARGE, function) {
            first($0.shape, .max)
            first($0.strides, 0)
        }
    }

    @Test(arguments: Function.allCases)
    func axesOutOfRange(_ function: Function) {
        for axis in [2, -3, 64, Int32.max, .min] {
            expect(SWIFTMAX_BAD_AXIS, function, axes: [axis]) { _, _, _ in }
            expect(SWIFTMAX_BAD_AXIS, function, axes: [0, axis]) { _, _, _ in }
        }
        for count in [-2, Int32.min] {
            expect(SWIFTMAX_BAD_AXIS, function, axisCount: count) { _, _, _ in }
        }
    }

    @Test(arguments: Function.allCases)
    func repeatedAxes(_ function: Function) {
        expect(SWIFTMAX_REPEATED_AXIS, function, axes: [1, 1]) { _, _, _ in }
        expect(SWIFTMAX_REPEATED_AXIS, function, axes: [1, 0, -1]) { _, _, _ in }
    }

    @Test(arguments: Function.allCases)
    func otherShapes(_ function: Function) {
        expectForEachArray(SWIFTMAX_SHAPE_MISMATCH, function) { first($0.shape, 2) }
        expect(SWIFTMAX_SHAPE_MISMATCH, function) { _, out, _ in out.descriptor.pointee.ndim = 1 }
        if !function.isBackward {
            expect(SWIFTMAX_SHAPE_MISMATCH, function, hasMask: true) { _, _, mask in
                mask.descriptor.pointee.ndim = 1
            }
        }
        // logsumexp keeps the reduced axes, and those alone have size 1.
        expect(SWIFTMAX_SHAPE_MISMATCH, .logsumexp, axes: [0]) { _, _, _ in }
    }

    @Test(arguments: Function.allCases)
    func otherDtypes(_ function: Function) {
        for dtype in [SWIFTMAX_FLOAT16, SWIFTMAX_BFLOAT16, SWIFTMAX_FLOAT64] {
            expect(SWIFTMAX_DTYPE_MISMATCH, function) { _, out, _ in
                out.descriptor.pointee.dtype = Int32(dtype)
            }
            if function.isBackward {
                expect(SWIFTMAX_DTYPE_MISMATCH, function) { inputs, _, _ in
                    inputs[1].descriptor.pointee.dtype = Int32(dtype)
                }
            }
        }
    }
}
