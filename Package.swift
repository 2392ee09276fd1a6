// swift-tools-version: 6.0
import PackageDescription

/// One source of kernels, `Sources/Kernels`, is compiled once per instruction set and element type.
/// Each compilation is a module of its own, reached through the one C symbol that returns its table.
struct Variant {
    let isa: String
    let element: String
    let clangFlags: [String]
    let swiftFlags: [String]

    /// Whether exp looks up powers of 2^(1/16), which takes FMA and permutes.
    var hasPowerTable: Bool {
        #if arch(x86_64)
            element == "Float32" && isa != "Baseline"
        #else
            element == "Float32"
        #endif
    }

    var name: String { "Kernels\(isa)\(element)" }

    var target: Target {
        let defines =
            ["SWIFTMAX_\(isa.uppercased())", "SWIFTMAX_\(element.uppercased())"]
            + (hasPowerTable ? ["SWIFTMAX_POWER_TABLE"] : [])
        return .target(
            name: name,
            dependencies: ["CVector", "CKernels"],
            path: "Sources/Variants/\(name)",
            swiftSettings: [
                .unsafeFlags(
                    // Loops are unrolled by hand where it pays; the compiler's share would only be size. So would be guards of the
                    // stack, as what kernels keep there has fixed sizes, and the names of types.
                    swiftFlags
                        + ["-Xllvm", "-unroll-runtime=false", "-disable-stack-protector"]
                        + ["-Xfrontend", "-disable-reflection-metadata"]
                        + defines.flatMap { ["-D", $0, "-Xcc", "-D\($0)=1"] }
                        + clangFlags.flatMap { ["-Xcc", $0] })
            ])
    }
}

#if arch(x86_64)
    // Six of them are large: all are compiled for size, but for the loops that lose by it, which say so.
    let variants = ["Float32", "Float64"].flatMap { element in
        [
            Variant(isa: "Baseline", element: element, clangFlags: [], swiftFlags: ["-Osize"]),
            Variant(
                isa: "AVX2", element: element, clangFlags: ["-march=haswell"],
                swiftFlags: ["-Osize", "-target-cpu", "haswell"]),
            Variant(
                isa: "AVX512", element: element,
                clangFlags: ["-march=skylake-avx512", "-mprefer-vector-width=512"],
                swiftFlags: ["-Osize", "-target-cpu", "skylake-avx512"]),
        ]
    }
#else
    let variants = ["Float32", "Float64"].map {
        Variant(isa: "Baseline", element: $0, clangFlags: [], swiftFlags: [])
    }
#endif

let package = Package(
    name: "swiftmax",
    products: [
        .library(name: "Swiftmax", type: .static, targets: ["Swiftmax"])
    ],
    targets: [
        // MARK: Contracts, in C
        .target(name: "CSwiftmax"),
        .target(name: "CKernels"),
        .target(name: "CVector"),
        .target(name: "CSupport", dependencies: ["CKernels"]),

        // MARK: The library
        // Seldom needed, and compiled for size.
        .target(
            name: "ExactSum", dependencies: ["CKernels"],
            swiftSettings: [.unsafeFlags(["-Osize"])]),
        .target(
            name: "Swiftmax",
            dependencies: ["CSwiftmax", "CKernels", "CSupport", "ExactSum"]
                + variants.map { .init(stringLiteral: $0.name) },
            linkerSettings: [.linkedLibrary("dispatch")]),

        // MARK: Tests
        .testTarget(name: "SwiftmaxTests", dependencies: ["Swiftmax", "CSwiftmax"]),
    ] + variants.map(\.target)
)
