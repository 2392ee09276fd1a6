import CSwiftmax
import Foundation
import Swiftmax
import Testing

/// What the library tells of itself, and the header against the functions that it declares.
@Suite struct LibraryTests {
    @Test func everyStatusHasAMessageOfItsOwn() {
        let statuses = SWIFTMAX_OK...SWIFTMAX_OUT_OF_MEMORY
        let messages = statuses.map { String(cString: swiftmax_status_message(Int32($0))) }
        #expect(messages.allSatisfy { !$0.isEmpty })
        #expect(Set(messages).count == messages.count)
        let unknown = String(cString: swiftmax_status_message(-1))
        #expect(!messages.contains(unknown))
        #expect(String(cString: swiftmax_status_message(.max)) == unknown)
    }

    @Test func kernelSetsAreListedWidestFirst() {
        let names = (0..<8).compactMap { swiftmax_isa_name($0).map { String(cString: $0) } }
        #if arch(x86_64)
            #expect(names == ["avx512", "avx2", "baseline"])
        #else
            #expect(names == ["baseline"])
        #endif
        #expect(swiftmax_isa_name(-1) == nil)
        #expect(swiftmax_isa_name(Int32(names.count)) == nil)
        #expect(swiftmax_isa_runs(-1) == 0)
        #expect(swiftmax_isa_runs(Int32(names.count)) == 0)
        #expect(swiftmax_isa_runs(Int32(names.count - 1)) == 1, "the last runs everywhere")
    }

    @Test func theKernelsInUseAreTheWidestOrThoseAskedFor() {
        let runnable = (0..<8).filter { swiftmax_isa_runs($0) == 1 }
            .map { String(cString: swiftmax_isa_name($0)) }
        let wanted = ProcessInfo.processInfo.environment["SWIFTMAX_ISA"]
        let expected = wanted.flatMap { runnable.contains($0) ? $0 : nil } ?? runnable[0]
        #expect(String(cString: swiftmax_isa()) == expected)
    }

    @Test func theVersionHasThreeNumbers() {
        let parts = String(cString: swiftmax_version()).split(
            separator: ".", omittingEmptySubsequences: false)
        #expect(parts.count == 3 && parts.allSatisfy { Int($0) != nil })
    }

    /// The header was written by hand; what a caller passes through it must be what the library expects.
    @Test func theHeaderDeclaresWhatTheLibraryDefines() {
        #expect(type(of: swiftmax_softmax) == type(of: Swiftmax.softmax))
        #expect(type(of: swiftmax_log_softmax) == type(of: Swiftmax.logSoftmax))
        #expect(type(of: swiftmax_logsumexp) == type(of: Swiftmax.logsumexp))
        #expect(type(of: swiftmax_softmax_backward) == type(of: Swiftmax.softmaxBackward))
        #expect(type(of: swiftmax_log_softmax_backward) == type(of: Swiftmax.logSoftmaxBackward))
        #expect(type(of: swiftmax_get_num_threads) == type(of: Swiftmax.getNumThreads))
        #expect(type(of: swiftmax_set_num_threads) == type(of: Swiftmax.setNumThreads))
        #expect(type(of: swiftmax_isa_name) == type(of: Swiftmax.isaName))
        #expect(type(of: swiftmax_isa_runs) == type(of: Swiftmax.isaRuns))
        // C cannot say that these are never null, so their types differ.
        #expect(swiftmax_status_message(0) == Swiftmax.statusMessage(0))
        #expect(swiftmax_isa() == Swiftmax.isa())
        #expect(swiftmax_version() == Swiftmax.version())
    }
}
