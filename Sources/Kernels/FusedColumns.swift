// Gradients of short slices that lie side by side: a vector of them is summed and written before the next, while the first cache
// holds its elements, and nothing of it is kept.

import CKernels
import CVector

/// Slices up to this long are taken this way.
private func longestFused(_ op: Operation, _ distance: Distance, ways: Int) -> Int {
    // Longer ones far away are better read as far as a panel goes, but where the lines of the next groups are asked for.
    #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
        let longest = 160
        if distance.isAsMemory { return isZen5(ways: ways) ? longest : virtualLanes }
        #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX512
            if op == .softmax && distance != .soon {
                return distance == .near ? 4 &* virtualLanes : virtualLanes
            }
        #endif
        return longest
    #else
        return virtualLanes
    #endif
}

/// Slices up to this long are sure to be held by the first cache until those of the next vector are summed.
private var longestDelayed: Int { 48 }

/// Columns whose gradients may be fused.
struct FusedColumns {
    let g: Operand
    let y: Operand
    let out: UnsafeMutableRawPointer
    let outStride: Int
    let columns: Int
    let groups: swiftmax_groups
    let n: Int
    /// Whether y and the places of results are asked for too, where g is: as of Zen 5, others were not measured.
    let asksForAll: Bool

    /// Whether those of an operation are: of log_softmax where four vectors of a row cannot be taken side by side.
    func areFused(_ op: Operation, _ distance: Distance, ways: Int) -> Bool {
        #if SWIFTMAX_BASELINE && arch(x86_64)
            // For a CPU as old as that it is not worth the size.
            return false
        #else
            if columns < lanes || !fitFirstCache(distance, ways: ways) { return false }
            let areShort = n <= longestFused(op, distance, ways: ways)
            if op == .softmax { return areShort && !(areInPlace && columns % lanes != 0) }
            #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
                // A part of a vector at their end would be a panel of its own.
                let areFew = elementBytes == 8 ? columns < 8 &* lanes : columns < 16 &* lanes && n >= 4
                let endInPart = columns % lanes > 0 && n <= 8 && areFew
                return (columns < 4 &* lanes && areShort || endInPart) && !areInPlace
            #else
                return false
            #endif
        #endif
    }

    /// Whether the results take the place of what they are computed from, so that none can be computed twice.
    private var areInPlace: Bool { UnsafeRawPointer(out) == g.address || UnsafeRawPointer(out) == y.address }

    /// Whether the first cache holds a line of each element of the three arrays, until the next vector shares it: of lines at
    /// multiples of a page it holds as many as it has `ways`.
    private func fitFirstCache(_ distance: Distance, ways: Int) -> Bool {
        let page = 4096
        let gBytes = n &* spacing(of: g.stride, way: page)
        let yBytes = n &* spacing(of: y.stride, way: page)
        let outBytes = n &* spacing(of: outStride, way: page)
        let bytes = gBytes &+ yBytes &+ outBytes
        if bytes <= 8 &* page { return true }
        #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
            // More fit where the arrays do not share its sets. The bounds were measured, with AVX2 on a Zen 3, else on a Zen 5.
            let least = min(gBytes, min(yBytes, outBytes)) / n
            #if SWIFTMAX_AVX512
                let apart = 3 &* lineBytes
            #else
                let apart = bytes <= 22 &* page ? lineBytes : 8 &* lineBytes
            #endif
            func meets(_ a: UnsafeRawPointer, _ b: UnsafeRawPointer) -> Bool {
                meet(a, b, spacing: least, within: apart)
            }
            let doInputsMeet = meets(g.address, y.address)
            let inputs = doInputsMeet ? gBytes &+ yBytes : max(gBytes, yBytes)
            let meetsOut = meets(g.address, out) || meets(y.address, out)
            let together = meetsOut ? inputs &+ outBytes : max(inputs, outBytes)
            // Of few elements it is enough if most lines stay, and more may go where sums would come from memory.
            #if SWIFTMAX_AVX512
                if distance != .soon { return false }
                let places = Int(bitPattern: g.address) | Int(bitPattern: y.address) | Int(bitPattern: out)
                let isAligned = (places | g.stride | y.stride | outStride) & (lineBytes &- 1) == 0
                let few = isAligned ? 7 &* ways / 4 : n <= longestFromMemory ? 4 &* ways / 3 : 7 &* ways / 6
                return together <= (n <= virtualLanes ? few : ways) &* page
            #else
                return together <= (n <= 12 && (doInputsMeet || meetsOut) ? 12 : 8) &* page
            #endif
        #else
            return false
        #endif
    }

    /// A vector of columns.
    private struct Place {
        let g: Operand
        let y: Operand
        let out: UnsafeMutableRawPointer
    }

    /// Calls `write` for each vector of columns, of which the last of a group may overlap the one before.
    ///
    /// - Parameter write: false where one of its gradients needs care.
    @inline(__always)
    private func forEachVector(_ op: Operation, _ scratch: Scratch, _ write: (_ place: Place) -> Bool) {
        for group in 0..<groups.count {
            let g = g.moved(by: group &* groups.input_stride)
            let y = y.moved(by: group &* groups.other_input_stride)
            let out = out + group &* groups.out_stride
            var end = 0
            while end < columns {
                let first = min(end, columns &- lanes)
                let start = first &* elementBytes
                let place = Place(g: g.moved(by: start), y: y.moved(by: start), out: out + start)
                if !write(place) { writeUnusual(op, place, scratch) }
                end = first &+ lanes
            }
        }
    }

    private func tile(_ place: Place, ahead: Int) -> GradientTile {
        GradientTile(
            g: place.g, y: place.y, present: lanes, n: n, ahead: ahead, far: false, asksForBoth: false,
            asksLate: false)
    }

    /// The gradients of a vector of which some need care.
    @inline(never)
    private func writeUnusual(_ op: Operation, _ place: Place, _ scratch: Scratch) {
        let tile = tile(place, ahead: 0)
        setSums(op, tile, scratch.table, 0, scratch)
        writeUnusualBackward(op, tile, place.out, outStride, scratch.table, scratch)
    }

    /// Writes the gradients.
    func write(_ op: Operation, ahead: Int, _ scratch: Scratch) {
        #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
            if op == .logSoftmax { return writeLogSoftmax(ahead: ahead, scratch) }
        #endif
        #if SWIFTMAX_AVX512
            if n > virtualLanes && n <= longestDelayed { return writeMedium(ahead: ahead, scratch) }
        #endif
        #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
            if n > virtualLanes { return writeLong(ahead: ahead, scratch) }
        #endif
        if areTinyGradients(n) { writeTiny(ahead: ahead, scratch) } else { writeShort(ahead: ahead, scratch) }
    }

    #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
        /// Those of log_softmax.
        @inline(never)
        private func writeLogSoftmax(ahead: Int, _ scratch: Scratch) {
            forEachVector(.logSoftmax, scratch) { place in
                let result: BackwardResult
                if areTinyGradients(n) {
                    result = tile(place, ahead: ahead).tinyResult(.logSoftmax)
                } else if n <= 8 {
                    result = BackwardResult(
                        shortSum(.logSoftmax, place.g, place.y, min(n, 8), ahead: ahead))
                } else {
                    let tile = tile(place, ahead: ahead)
                    // `setSums` would come to the same, a fifth later.
                    if n <= virtualLanes {
                        setShortLogSoftmaxBackwardSums(tile, scratch.table, 0)
                    } else {
                        setSums(.logSoftmax, tile, scratch.table, 0, scratch)
                    }
                    result = BackwardResult(scratch.table.sum(from: 0))
                }
                if !result.isOrdinary { return false }
                if ahead != 0 && asksForAll {
                    for i in 0..<n { askForRest(place, i, ahead) }
                }
                // Four elements at a time, the last of which may be taken again.
                var end = 0
                while end < n {
                    let first = max(0, min(end, n &- 4))
                    @inline(__always)
                    func four(_ x: Operand) -> Quad {
                        Quad { vector_load(x.from(min(first &+ $0, n &- 1)).address) }
                    }
                    let values = result.logSoftmax(four(place.g), four(place.y))
                    values.forEach(values, values) { i, value, _, _ in
                        vector_store(place.out + min(first &+ i, n &- 1) &* outStride, value)
                    }
                    end = first &+ 4
                }
                return true
            }
        }
    #endif

    /// Those of softmax of slices of two to four.
    @inline(never)
    @_optimize(speed)
    private func writeTiny(ahead: Int, _ scratch: Scratch) {
        @inline(__always)
        func write(_ n: Int) {
            forEachVector(.softmax, scratch) { place in
                if ahead != 0 && asksForAll {
                    for i in 0..<n { askForRest(place, i, ahead) }
                }
                return writeTinySoftmaxBackward(n, tile(place, ahead: ahead), place.out, outStride)
            }
        }
        switch n {
        case 2: write(2)
        case 3: write(3)
        default: write(4)
        }
    }

    /// Those of softmax of longer ones.
    @inline(never)
    private func writeShort(ahead: Int, _ scratch: Scratch) {
        writeDelayed(ahead: ahead, scratch) { place in
            #if SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
                return shortRegisterSum(place.g, place.y, n)
            #else
                return shortSum(.softmax, place.g, place.y, n, ahead: ahead)
            #endif
        }
    }

    #if SWIFTMAX_AVX512
        /// Those of softmax of slices longer than there are virtual lanes.
        @inline(never)
        private func writeMedium(ahead: Int, _ scratch: Scratch) {
            writeDelayed(ahead: ahead, scratch) { longRegisterSum($0.g, $0.y, n, scratch) }
        }
    #endif

    #if SWIFTMAX_AVX512 || SWIFTMAX_FLOAT32 && SWIFTMAX_AVX2
        /// Those of softmax of even longer ones, each vector written at once.
        @inline(never)
        private func writeLong(ahead: Int, _ scratch: Scratch) {
            forEachVector(.softmax, scratch) { place in
                let result = BackwardResult(longRegisterSum(place.g, place.y, n, scratch))
                if !result.isOrdinary { return false }
                writeSoftmax(place, result, ahead: ahead)
                return true
            }
        }
    #endif

    /// Sums a vector before the one before it is written, as it takes long to get from a sum to what gives the results.
    @inline(__always)
    private func writeDelayed(ahead: Int, _ scratch: Scratch, _ sum: (_ place: Place) -> Pair) {
        var summed = Place(g: g, y: y, out: out)
        var result = BackwardResult(sum: splat(0), sumLow: splat(0))
        var isWaiting = false
        forEachVector(.softmax, scratch) { place in
            let next = BackwardResult(sum(place))
            if isWaiting { writeSoftmax(summed, result, ahead: ahead) }
            (summed, result, isWaiting) = (place, next, next.isOrdinary)
            return isWaiting
        }
        if isWaiting { writeSoftmax(summed, result, ahead: ahead) }
    }

    /// The lines of y and of the results at position i.
    @inline(__always)
    private func askForRest(_ place: Place, _ i: Int, _ ahead: Int) {
        vector_prefetch(place.y.from(i).address + ahead)
        vector_prefetch(place.out + (i &* outStride &+ ahead))
    }

    @inline(__always)
    private func writeSoftmax(_ place: Place, _ result: BackwardResult, ahead: Int) {
        for i in 0..<n {
            if ahead != 0 && asksForAll {
                // Short sums of doubles ask for g.
                if elementBytes == 4 || n > virtualLanes { vector_prefetch(place.g.from(i).address + ahead) }
                askForRest(place, i, ahead)
            }
            let (g, y) = (vector_load(place.g.from(i).address), vector_load(place.y.from(i).address))
            vector_store(place.out + i &* outStride, result(.softmax, g, y))
        }
    }
}
