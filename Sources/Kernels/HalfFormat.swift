// The 16-bit types, and the ways from them to Float and back.

#if SWIFTMAX_FLOAT32

    import CKernels
    import CVector

    /// The 16-bit types, a vector at a time. Where a loop takes either, it asks for each vector which: that costs next to
    /// nothing, and a loop for each would be twice the code.
    enum HalfFormat {
        case float16, bfloat16

        /// Of `SWIFTMAX_ELEMENTS_FLOAT16` and its like.
        @inline(__always)
        init(_ elements: Int32) {
            self = elements == Int32(SWIFTMAX_ELEMENTS_FLOAT16) ? .float16 : .bfloat16
        }

        @inline(__always)
        func widen(_ halves: swiftmax_half_words) -> Vector {
            self == .float16 ? vector_from_halves(halves) : vector_from_bfloats(halves)
        }

        @inline(__always)
        func narrow(_ value: Vector) -> swiftmax_half_words {
            self == .float16 ? vector_to_halves(value) : vector_to_bfloats(value)
        }

        /// `count` elements of a row from `index` on; zeros in the other lanes.
        @inline(__always)
        func load(_ row: UnsafeRawPointer, _ index: Int, _ count: Int) -> Vector {
            let address = row + 2 &* index
            return widen(count == lanes ? halves_load(address) : halves_load_partial(address, count))
        }

        @inline(__always)
        func store(_ row: UnsafeMutableRawPointer, _ index: Int, _ count: Int, _ value: Vector) {
            let address = row + 2 &* index
            if count == lanes {
                halves_store(address, narrow(value))
            } else {
                halves_store_partial(address, narrow(value), count)
            }
        }
    }

    /// The elements that a cache line holds.
    @inline(__always) var lineHalves: Int { 32 }

    extension HalfFormat {
        /// `n` elements as ones of Float. The lines `ahead` bytes from theirs are asked for.
        @inline(__always)
        func widen(
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
        func narrow(
            _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ n: Int, streaming: Bool
        ) {
            var i = 0
            if streaming && Int(bitPattern: destination) % 2 == 0 {
                let head = (0 &- Int(bitPattern: destination)) & (lineBytes &- 1) / 2
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
        #if !SWIFTMAX_BASELINE
            @_optimize(speed)
        #endif
        private func narrowPart(
            _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ first: Int, _ end: Int
        ) -> Int {
            var i = first
            while i &+ 4 &* lanes <= end {
                for v in 0..<4 {
                    let j = i &+ v &* lanes
                    store(destination, j, lanes, vector_load(source.element(j)))
                }
                i &+= 4 &* lanes
            }
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

    extension HalfFormat {
        /// `rows` rows of `n` elements, `rowStride` bytes apart, as ones of Float without gaps.
        @inline(never)
        @_optimize(speed)
        func widen(
            _ source: UnsafeRawPointer, _ rowStride: Int, _ destination: UnsafeMutableRawPointer, _ rows: Int,
            _ n: Int, ahead: Int
        ) {
            for r in 0..<rows {
                widen(source + r &* rowStride, destination.element(r &* n), n, ahead: ahead)
            }
        }

        /// The way back.
        @inline(never)
        func narrow(
            _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ rowStride: Int, _ rows: Int,
            _ n: Int, streaming: Bool
        ) {
            for r in 0..<rows {
                narrow(source.element(r &* n), destination + r &* rowStride, n, streaming: streaming)
            }
        }
    }

    /// Copies `n` elements of 16 bits, `stride` bytes apart, to contiguous ones.
    func gatherHalves(
        _ source: UnsafeRawPointer, _ stride: Int, _ destination: UnsafeMutableRawPointer, _ n: Int
    ) {
        var (i, end) = (0, n)
        // As of wider elements, the commonest strides have shuffles.
        if stride == -2 {
            // From the end, as the CPU reads ahead upwards.
            while end >= lanes {
                let last = source + (end &- 1) &* stride
                end &-= lanes
                halves_store(destination + 2 &* end, halves_reversed(halves_load(last)))
            }
        } else if stride == 4 {
            // The vector ends one element beyond the last of those wanted.
            while i &+ lanes < n {
                halves_store(destination + 2 &* i, halves_load_alternate(source + i &* stride))
                i &+= lanes
            }
        }
        while i < end {
            let element = (source + i &* stride).loadUnaligned(as: UInt16.self)
            (destination + 2 &* i).storeBytes(of: element, as: UInt16.self)
            i &+= 1
        }
    }

#endif
