// What a vector is in this compilation, and how slices are laid over it.

import CKernels
import CVector

/// Float or Double: the type the kernels of this module compute in.
typealias Element = swiftmax_element
/// One register of elements.
typealias Vector = swiftmax_vector
/// As many doubles as a vector has lanes; in the Float64 modules the same type.
typealias Wide = swiftmax_wide

let elementBytes = MemoryLayout<Element>.stride
let vectorBytes = MemoryLayout<Vector>.stride
let lanes = vectorBytes / elementBytes

/// The width of the algorithm, whatever the width of the registers: element i of a block belongs to
/// virtual lane i mod `virtualLanes`, and four consecutive members of a virtual lane form a group.
/// Part of the definition of the result, as the order of every sum follows from it.
#if SWIFTMAX_FLOAT64
    let virtualLanes = 8
#else
    let virtualLanes = 16
#endif
let groupElements = 4 * virtualLanes

let block = Int(SWIFTMAX_BLOCK)

// The standard library's are generic, and a copy of them made for one instruction set could be linked into code for
// another.
@inline(__always)
func min(_ a: Int, _ b: Int) -> Int { a < b ? a : b }
@inline(__always)
func max(_ a: Int, _ b: Int) -> Int { a > b ? a : b }

@inline(__always)
func splat(_ value: Element) -> Vector { Vector(repeating: value) }

@inline(__always)
func splatWide(_ value: Double) -> Wide { Wide(repeating: value) }

// MARK: Operators of whole vectors

@inline(__always)
func + (_ a: Vector, _ b: Vector) -> Vector { vector_add(a, b) }
@inline(__always)
func - (_ a: Vector, _ b: Vector) -> Vector { vector_subtract(a, b) }
@inline(__always)
func * (_ a: Vector, _ b: Vector) -> Vector { vector_multiply(a, b) }
@inline(__always)
func / (_ a: Vector, _ b: Vector) -> Vector { vector_divide(a, b) }
@inline(__always)
prefix func - (_ a: Vector) -> Vector { vector_subtract(Vector(repeating: -0.0), a) }
@inline(__always)
func += (_ a: inout Vector, _ b: Vector) { a = a + b }

#if SWIFTMAX_FLOAT32
    @inline(__always)
    func + (_ a: Wide, _ b: Wide) -> Wide { wide_add(a, b) }
    @inline(__always)
    func - (_ a: Wide, _ b: Wide) -> Wide { wide_subtract(a, b) }
    @inline(__always)
    func * (_ a: Wide, _ b: Wide) -> Wide { wide_multiply(a, b) }
    @inline(__always)
    func / (_ a: Wide, _ b: Wide) -> Wide { wide_divide(a, b) }
    @inline(__always)
    prefix func - (_ a: Wide) -> Wide { wide_subtract(Wide(repeating: -0.0), a) }
    @inline(__always)
    func += (_ a: inout Wide, _ b: Wide) { a = a + b }
#endif

/// The larger of each pair; `a` where either is NaN.
@inline(__always)
func maximum(_ a: Vector, _ b: Vector) -> Vector { vector_max(a, b) }

/// `count` elements from `address`; the other lanes are `fill`.
@inline(__always)
func load(_ address: UnsafeRawPointer, _ count: Int, fill: Element = 0) -> Vector {
    count == lanes ? vector_load(address) : vector_load_partial(address, count, splat(fill))
}

@inline(__always)
func store(_ address: UnsafeMutableRawPointer, _ value: Vector, _ count: Int) {
    if count == lanes {
        vector_store(address, value)
    } else {
        vector_store_partial(address, value, count)
    }
}

/// How far apart the lines of an array with this stride lie in one way of a cache, of `way` bytes.
@inline(__always)
func spacing(of stride: Int, way: Int) -> Int { min(way, stride & (0 &- stride)) }

/// Whether two arrays, whose lines lie `spacing` bytes apart in each way of a cache, have some less than `distance` from each other:
/// these then share its sets.
@inline(__always)
func meet(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer, spacing: Int, within distance: Int) -> Bool {
    (a - b &+ distance &- 1) & (spacing &- 1) < 2 &* distance &- 1
}

/// Whether the second cache keeps lines that are asked for, of `n` elements with this stride, until they are read: of
/// lines at multiples of a page it holds a few hundred, as the first holds eight.
@inline(__always)
func keepsAsked(_ n: Int, _ stride: Int) -> Bool {
    n &* spacing(of: stride, way: 128 &* 1024) <= 512 &* 1024
}

/// How far on is asked for as the `n` rows of a tile are read: `rows` rows, and from the last of them the first ones of the tile that
/// lies `next` bytes on.
struct RowsAhead {
    private let end: Int
    private let inTile: Int
    private let inNext: Int

    @inline(__always)
    init(_ rows: Int, of n: Int, _ stride: Int, next: Int) {
        end = n &- rows
        inTile = rows &* stride
        inNext = next &- end &* stride
    }

    /// From an element of row i.
    @inline(__always)
    func distance(_ i: Int) -> Int { i < end ? inTile : inNext }
}

/// So many groups on those shorter than this are asked for: early enough for memory to answer, and so late that the first cache still
/// holds them (measured on a Zen 5).
@inline(__always)
func groupsAhead(_ groupBytes: Int) -> Int { (6400 &+ groupBytes &- 1) / groupBytes }

/// A copy of a slice, one element after another.
@inline(never)
func contiguous(
    _ x: UnsafeRawPointer, _ stride: Int, _ n: Int, in room: UnsafeMutableRawPointer
) -> UnsafeRawPointer {
    for i in 0..<n {
        let element = (x + i &* stride).loadUnaligned(as: Element.self)
        room.element(i).storeBytes(of: element, as: Element.self)
    }
    return UnsafeRawPointer(room)
}

/// Vectors that go through the same operations.
protocol Bundle {
    static var count: Int { get }

    init(repeating value: Vector)

    init(_ vector: (_ index: Int) -> Vector)

    func forEach(_ other: Self, _ third: Self, _ body: (_ index: Int, Vector, Vector, Vector) -> Void)

    func map(_ other: Self, _ third: Self, _ body: (Vector, Vector, Vector) -> Vector) -> Self

    /// The same, all computed before anything that is computed from one of them.
    var together: Self { get }
}

extension Bundle {
    @inline(__always)
    func map(_ body: (Vector) -> Vector) -> Self { map(self, self) { a, _, _ in body(a) } }

    @inline(__always)
    func map(_ other: Self, _ body: (Vector, Vector) -> Vector) -> Self {
        map(other, other) { a, b, _ in body(a, b) }
    }

    /// self * other + addend
    @inline(__always)
    func fma(_ other: Self, _ addend: Vector) -> Self { map(other) { vector_fma($0, $1, addend) } }

    @inline(__always)
    func fma(_ other: Self, _ addend: Self) -> Self { map(other, addend, vector_fma) }
}

/// One vector.
struct Single: Bundle {
    let value: Vector

    static var count: Int { @inline(__always) get { 1 } }

    @inline(__always)
    init(repeating value: Vector) { self.value = value }

    @inline(__always)
    init(_ vector: (Int) -> Vector) { value = vector(0) }

    @inline(__always)
    func forEach(_ other: Single, _ third: Single, _ body: (Int, Vector, Vector, Vector) -> Void) {
        body(0, value, other.value, third.value)
    }

    @inline(__always)
    func map(_ other: Single, _ third: Single, _ body: (Vector, Vector, Vector) -> Vector) -> Single {
        Single(repeating: body(value, other.value, third.value))
    }

    @inline(__always) var together: Single { self }
}

/// Four vectors side by side, in this order in the machine code too: a chain of dependent operations that another follows
/// only at its end would fill the scheduler of the CPU.
struct Quad: Bundle {
    var a: Vector
    var b: Vector
    var c: Vector
    var d: Vector

    @inline(__always)
    init(_ a: Vector, _ b: Vector, _ c: Vector, _ d: Vector) {
        self.a = a
        self.b = b
        self.c = c
        self.d = d
    }

    static var count: Int { @inline(__always) get { 4 } }

    @inline(__always)
    init(repeating value: Vector) { self.init(value, value, value, value) }

    @inline(__always)
    init(_ vector: (Int) -> Vector) { self.init(vector(0), vector(1), vector(2), vector(3)) }

    @inline(__always)
    func forEach(_ other: Quad, _ third: Quad, _ body: (Int, Vector, Vector, Vector) -> Void) {
        body(0, a, other.a, third.a)
        body(1, b, other.b, third.b)
        body(2, c, other.c, third.c)
        body(3, d, other.d, third.d)
    }

    @inline(__always)
    func map(_ other: Quad, _ third: Quad, _ body: (Vector, Vector, Vector) -> Vector) -> Quad {
        Quad(
            body(a, other.a, third.a), body(b, other.b, third.b), body(c, other.c, third.c),
            body(d, other.d, third.d))
    }

    @inline(__always)
    var together: Quad {
        let first = vector_after(a, b, c, d)
        return Quad(
            first, vector_after(b, first, c, d), vector_after(c, first, b, d), vector_after(d, first, b, c))
    }
}

extension UnsafeRawPointer {
    /// The address of element `index`.
    @inline(__always)
    func element(_ index: Int) -> UnsafeRawPointer { self + index &* elementBytes }
}

extension UnsafeMutableRawPointer {
    /// The address of element `index`.
    @inline(__always)
    func element(_ index: Int) -> UnsafeMutableRawPointer { self + index &* elementBytes }
}

@inline(__always)
func storeQuad(_ address: UnsafeMutableRawPointer, _ value: Quad) {
    vector_store(address, value.a)
    vector_store(address + vectorBytes, value.b)
    vector_store(address + 2 &* vectorBytes, value.c)
    vector_store(address + 3 &* vectorBytes, value.d)
}

@inline(__always)
func streamQuad(_ address: UnsafeMutableRawPointer, _ value: Quad) {
    vector_stream(address, value.a)
    vector_stream(address + vectorBytes, value.b)
    vector_stream(address + 2 &* vectorBytes, value.c)
    vector_stream(address + 3 &* vectorBytes, value.d)
}

/// What stores past the caches fill as a whole: a part of a line costs as much as ten lines, and most where the other part
/// goes through the caches.
let lineBytes = 64
let lineElements = lineBytes / elementBytes

/// Whether any stores go past the caches: not those of the generic kernels, which would be so many for a line.
@inline(__always) var canStream: Bool { vectorBytes > 16 }

/// Whether a row of `n` elements has whole lines.
@inline(__always)
func hasLines(_ row: UnsafeRawPointer, _ n: Int) -> Bool {
    Int(bitPattern: row) & (elementBytes &- 1) == 0 && n >= 2 &* lineElements
}

/// The elements before the first whose address is a multiple of `bytes`.
@inline(__always)
func headOfRow(_ row: UnsafeRawPointer, _ bytes: Int = vectorBytes) -> Int {
    (0 &- Int(bitPattern: row)) & (bytes &- 1) / elementBytes
}

/// Calls `body(first, count)` for each vector of a row of `n` elements and stores what it returns.
///
/// With `streaming`, whole lines bypass the caches; else a head as long as needed brings the loads from `source` to vector
/// alignment. The results do not depend on it: `body` treats each element alone.
@inline(__always)
func writeRow(
    _ out: UnsafeMutableRawPointer, _ n: Int, streaming: Bool, aligning source: UnsafeRawPointer? = nil,
    _ body: (Int, Int) -> Vector
) {
    var i = 0
    if canStream && streaming && hasLines(out, n) {
        let head = headOfRow(out, lineBytes)
        while i < head {
            let count = min(lanes, head &- i)
            vector_store_partial(out.element(i), body(i, count), count)
            i &+= count
        }
        let end = n &- (n &- head) % lineElements
        while i < end {
            vector_stream(out.element(i), body(i, lanes))
            i &+= lanes
        }
    } else if let source {
        i = headOfRow(source)
        if i > 0 { vector_store_partial(out, body(0, i), i) }
    }
    while i &+ lanes <= n {
        vector_store(out.element(i), body(i, lanes))
        i &+= lanes
    }
    if i < n { vector_store_partial(out.element(i), body(i, n &- i), n &- i) }
}
