// The 16-bit types, and the ways from them to Float and back.

#if SWIFTMAX_FLOAT32

    import CVector

    /// A 16-bit type, a vector at a time.
    protocol HalfFormat {
        /// Whether the product of any two is exact in Float.
        static var hasExactProducts: Bool { get }
        static func widen(_ halves: swiftmax_half_words) -> Vector
        static func narrow(_ value: Vector) -> swiftmax_half_words
        /// The gradients of softmax of the first elements of a row by a faster way, and how many these are.
        static func writePairs(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) -> Int
    }

    extension HalfFormat {
        @inline(__always)
        static func writePairs(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) -> Int { 0 }
    }

    enum Float16Format: HalfFormat {
        @inline(__always)
        static var hasExactProducts: Bool { true }
        @inline(__always)
        static func widen(_ halves: swiftmax_half_words) -> Vector { vector_from_halves(halves) }
        @inline(__always)
        static func narrow(_ value: Vector) -> swiftmax_half_words { vector_to_halves(value) }
    }

    enum BFloat16Format: HalfFormat {
        /// They may be too large or too small for it.
        @inline(__always)
        static var hasExactProducts: Bool { false }
        @inline(__always)
        static func widen(_ halves: swiftmax_half_words) -> Vector { vector_from_bfloats(halves) }
        @inline(__always)
        static func narrow(_ value: Vector) -> swiftmax_half_words { vector_to_bfloats(value) }

        /// Two to a lane. As the sum is finite, so are all elements, and no result is NaN.
        @inline(__always)
        static func writePairs(
            _ g: UnsafeRawPointer, _ y: UnsafeRawPointer, _ out: UnsafeMutableRawPointer, _ n: Int,
            _ result: BackwardResult
        ) -> Int {
            var i = 0
            while i &+ 2 &* lanes <= n {
                let (g, y) = (bfloat_pairs_load(g + 2 &* i), bfloat_pairs_load(y + 2 &* i))
                let first = result(.softmax, bfloat_pairs_first(g), bfloat_pairs_first(y))
                let second = result(.softmax, bfloat_pairs_second(g), bfloat_pairs_second(y))
                bfloat_pairs_store(out + 2 &* i, bfloat_pairs(first, second))
                i &+= 2 &* lanes
            }
            return i
        }
    }

    extension HalfFormat {
        /// `count` elements of a row from `index` on; zeros in the other lanes.
        @inline(__always)
        static func load(_ row: UnsafeRawPointer, _ index: Int, _ count: Int) -> Vector {
            let address = row + 2 &* index
            return widen(count == lanes ? halves_load(address) : halves_load_partial(address, count))
        }

        @inline(__always)
        static func store(_ row: UnsafeMutableRawPointer, _ index: Int, _ count: Int, _ value: Vector) {
            let address = row + 2 &* index
            if count == lanes {
                halves_store(address, narrow(value))
            } else {
                halves_store_partial(address, narrow(value), count)
            }
        }
    }

    /// The elements that a cache line holds.
    @inline(__always) private var lineHalves: Int { 32 }

    extension HalfFormat {
        /// `n` elements as ones of Float. The lines `ahead` bytes from theirs are asked for.
        @inline(__always)
        static func widen(
            _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ n: Int, ahead: Int
        ) {
            var i = 0
            while i &+ lanes <= n {
                vector_prefetch(source + (2 &* i &+ ahead))
                vector_store(destination.element(i), load(source, i, lanes))
                i &+= lanes
            }
            if i < n { vector_store_partial(destination.element(i), load(source, i, n &- i), n &- i) }
        }

        /// The way back. With `streaming` whole lines of the destination are written past the caches.
        @inline(__always)
        static func narrow(
            _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ n: Int, streaming: Bool
        ) {
            var i = 0
            if streaming && Int(bitPattern: destination) % 2 == 0 {
                let head = (64 &- Int(bitPattern: destination) % 64) % 64 / 2
                i = narrowPart(source, destination, 0, min(head, n))
                let end = i &+ (n &- i) / lineHalves &* lineHalves
                while i < end {
                    halves_stream(destination + 2 &* i, narrow(vector_load(source.element(i))))
                    i &+= lanes
                }
            }
            _ = narrowPart(source, destination, i, n)
        }

        /// Elements first..<end; returns `end`.
        @inline(never)
        private static func narrowPart(
            _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ first: Int, _ end: Int
        ) -> Int {
            var i = first
            while i &+ lanes <= end {
                store(destination, i, lanes, vector_load(source.element(i)))
                i &+= lanes
            }
            if i < end {
                store(destination, i, end &- i, vector_load_partial(source.element(i), end &- i, splat(0)))
            }
            return end
        }
    }

    /// Copies `n` elements of 16 bits, `stride` bytes apart, to contiguous ones.
    func gatherHalves(
        _ source: UnsafeRawPointer, _ stride: Int, _ destination: UnsafeMutableRawPointer, _ n: Int
    ) {
        var i = 0
        // As of wider elements, the commonest strides have shuffles.
        if stride == -2 {
            while i &+ lanes <= n {
                let last = source + (i &+ lanes &- 1) &* stride
                halves_store(destination + 2 &* i, halves_reversed(halves_load(last)))
                i &+= lanes
            }
        } else if stride == 4 {
            // The vector ends one element beyond the last of those wanted.
            while i &+ lanes < n {
                halves_store(destination + 2 &* i, halves_load_alternate(source + i &* stride))
                i &+= lanes
            }
        }
        while i < n {
            let element = (source + i &* stride).loadUnaligned(as: UInt16.self)
            (destination + 2 &* i).storeBytes(of: element, as: UInt16.self)
            i &+= 1
        }
    }

#endif
