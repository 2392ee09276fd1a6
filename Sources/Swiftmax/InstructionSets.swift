// Which kernels this CPU runs: the widest set it has, or the one that SWIFTMAX_ISA names.

import CKernels
import CSupport
import CSwiftmax

#if arch(x86_64)
    private var setCount: Int32 { 3 }
#else
    private var setCount: Int32 { 1 }
#endif

/// Sets are listed widest first; the last runs everywhere.
private func name(_ index: Int32) -> StaticString {
    switch setCount &- index {
    case 3: "avx512"
    case 2: "avx2"
    default: "baseline"
    }
}

private func fill(_ index: Int32) {
    let float32 = support_kernels()!
    let float64 = float32 + 1
    float32.pointee.last_cache = Int32(SWIFTMAX_FAR)
    float64.pointee.last_cache = Int32(SWIFTMAX_FAR)
    // First caches of Intel's have as many ways of late, but nothing was measured there.
    let isZen5 = support_amd_family() >= 0x1a
    for table in 0..<3 { (float32 + table).pointee.ways = isZen5 ? 12 : 8 }
    switch setCount &- index {
    #if arch(x86_64)
        case 3:
            swiftmax_kernels_avx512_float32(float32)
            swiftmax_kernels_avx512_float64(float64)
            swiftmax_kernels_avx2_float32(float32 + 2)
            // Measured with these kernels alone.
            if support_amd_family() > 0 {
                float32.pointee.last_cache = Int32(SWIFTMAX_SOON)
                float64.pointee.last_cache = Int32(SWIFTMAX_SOON)
            }
            // As of Zen 5; on Zen 4 it takes a third longer.
            float32.pointee.eights = isZen5 ? 1 : 0
            // Others compute with half a vector at a time, or were not measured.
            float32.pointee.recomputes = isZen5 ? 1 : 0
            float64.pointee.recomputes = isZen5 ? 1 : 0
        case 2:
            swiftmax_kernels_avx2_float32(float32)
            swiftmax_kernels_avx2_float64(float64)
    #endif
    default:
        swiftmax_kernels_baseline_float32(float32)
        swiftmax_kernels_baseline_float64(float64)
    }
}

@_cdecl("swiftmax_isa_runs")
public func isaRuns(_ index: Int32) -> Int32 {
    if index < 0 || index >= setCount { return 0 }
    switch setCount &- index {
    case 3: return support_has_avx512()
    case 2: return support_has_avx2()
    default: return 1
    }
}

@_cdecl("swiftmax_isa_name")
public func isaName(_ index: Int32) -> UnsafePointer<CChar>? {
    if index < 0 || index >= setCount { return nil }
    return cString(name(index))
}

@_cdecl("swiftmax_isa")
public func isa() -> UnsafePointer<CChar> { cString(name(activeSet())) }

/// The index of the set in use. Threads that come here at once choose the same.
private func activeSet() -> Int32 {
    let known = support_load(support_isa())
    if known != 0 { return known &- 1 }
    var chosen: Int32 = -1
    for index in 0..<setCount where isaRuns(index) != 0 {
        if chosen < 0 { chosen = index }
        if let wanted = getenv(cString("SWIFTMAX_ISA")), strcmp(wanted, cString(name(index))) == 0 {
            chosen = index
        }
    }
    fill(chosen)
    support_store(support_isa(), chosen &+ 1)
    return chosen
}

func activeKernels(isDouble: Bool) -> UnsafePointer<swiftmax_kernels> {
    _ = activeSet()
    return UnsafePointer(support_kernels()! + (isDouble ? 1 : 0))
}

/// Kernels of float32 with vectors of 8, where those of the active ones have 16 elements; else empty.
func narrowKernels() -> UnsafePointer<swiftmax_kernels> { UnsafePointer(support_kernels()! + 2) }

func cString(_ string: StaticString) -> UnsafePointer<CChar> {
    UnsafeRawPointer(string.utf8Start).assumingMemoryBound(to: CChar.self)
}
