import CSwiftmax
import Testing

/// The number of threads is the process's, so no two of these tests run at once.
@Suite(.serialized) struct ThreadTests {
    @Test func theNumberOfThreadsIsWhatWasSet() {
        let atLoad = swiftmax_get_num_threads()
        defer { swiftmax_set_num_threads(0) }
        #expect(atLoad >= 1)
        for count: Int32 in [1, 3, 1000] {
            swiftmax_set_num_threads(count)
            #expect(swiftmax_get_num_threads() == count)
        }
        for restoring: Int32 in [0, -5, .min] {
            swiftmax_set_num_threads(7)
            swiftmax_set_num_threads(restoring)
            #expect(swiftmax_get_num_threads() == atLoad)
        }
    }

    /// Large enough for every thread and for rows that are shared out.
    @Test(arguments: Function.allCases, [[1, 300_001], [300, 1001], [20_001, 15]])
    func anyNumberOfThreads(_ function: Function, _ shape: [Int]) {
        defer { swiftmax_set_num_threads(0) }
        let inputs = inputValues(function, .float32, 6, shape[0] * shape[1])
            .map { StridedArray(.float32, shape, $0) }
        for axis in 0..<2 {
            var first: [UInt8]?
            for threads: Int32 in [1, 2, 5] {
                swiftmax_set_num_threads(threads)
                let out = StridedArray(.float32, function.resultShape(shape, axes: [axis]))
                #expect(function(inputs, into: out, axes: [axis]) == SWIFTMAX_OK)
                #expect(out.bytes == first ?? out.bytes, "\(threads) threads along \(axis)")
                first = first ?? out.bytes
            }
        }
    }
}
