// Copies between an array and scratch: runs of elements with any stride, of any type, and what is turned.

import CKernels
import CSupport
import CSwiftmax

extension Work {
    /// Whether elements have the type the kernels compute in.
    var isWide: Bool { elementBytes == wideBytes }

    /// `count` elements, `stride` bytes apart, to contiguous ones of the wide type. Those `ahead` bytes from them, if not
    /// 0, are asked for.
    @inline(never)
    func gather(
        _ source: UnsafeMutableRawPointer, _ stride: Int, _ count: Int, _ target: UnsafeMutableRawPointer,
        _ packs: Packs, ahead: Int = 0
    ) {
        if isWide && stride == elementBytes {
            memcpy(target, source, count &* elementBytes)
        } else if isWide {
            kernels.pointee.gather(source, 0, stride, target, 1, count, ahead)
        } else if stride == elementBytes {
            widen(source, 0, target, 1, count, ahead)
        } else {
            var first = 0
            while first < count {
                let part = min(count &- first, Work.stagingBytes / 2)
                kernels.pointee.gather_halves(source + first &* stride, stride, packs.staging, part)
                widen(packs.staging, 0, target + first &* wideBytes, 1, part, 0)
                first &+= part
            }
        }
    }

    /// The same of `rows` rows, `rowStride` bytes apart.
    @inline(never)
    @_optimize(size)
    func gather(
        _ source: UnsafeMutableRawPointer, _ rowStride: Int, _ stride: Int, _ rows: Int, _ count: Int,
        _ target: UnsafeMutableRawPointer, _ packs: Packs, ahead: Int = 0
    ) {
        if rowStride == count &* stride {
            // One run, in which a few short rows ahead would be too near.
            gather(source, stride, rows &* count, target, packs, ahead: max(ahead, 4096))
        } else if isWide && stride != elementBytes {
            kernels.pointee.gather(source, rowStride, stride, target, rows, count, ahead)
        } else if !isWide && stride == elementBytes {
            widen(source, rowStride, target, rows, count, ahead)
        } else if areShortRuns(count, stride) {
            copyRuns(source, rowStride, target, count &* wideBytes, rows, count &* wideBytes)
        } else {
            for r in 0..<rows {
                gather(
                    source + r &* rowStride, stride, count, target + r &* count &* wideBytes, packs,
                    ahead: ahead)
            }
        }
    }

    /// Whether runs of elements in order are short enough for `copyRuns`.
    private func areShortRuns(_ count: Int, _ stride: Int) -> Bool {
        isWide && stride == elementBytes && count &* elementBytes >= 8 && count &* elementBytes <= 64
    }

    /// Whether runs of so many results, so far apart, go past the caches.
    private func streams(_ count: Int, _ stride: Int) -> Bool {
        streaming != 0 && stride == elementBytes && count >= Work.streamedRun
    }

    /// The way back.
    @inline(never)
    func scatter(
        _ source: UnsafeMutableRawPointer, _ count: Int, _ target: UnsafeMutableRawPointer, _ stride: Int,
        _ packs: Packs
    ) {
        if isWide && streams(count, stride) {
            kernels.pointee.stream(source, target, count)
        } else if isWide {
            copy(source, elementBytes, target, stride, count, elementBytes)
        } else if stride == elementBytes {
            narrow(source, target, 0, 1, count, streams(count, stride) ? 1 : 0)
        } else {
            var first = 0
            while first < count {
                let part = min(count &- first, Work.stagingBytes / 2)
                narrow(source + first &* wideBytes, packs.staging, 0, 1, part, 0)
                copy(packs.staging, 2, target + first &* stride, stride, part, 2)
                first &+= part
            }
        }
    }

    /// The same of `rows` rows, `rowStride` bytes apart.
    @inline(never)
    @_optimize(size)
    func scatter(
        _ source: UnsafeMutableRawPointer, _ rows: Int, _ count: Int, _ target: UnsafeMutableRawPointer,
        _ rowStride: Int, _ stride: Int, _ packs: Packs
    ) {
        if rowStride == count &* stride {
            scatter(source, rows &* count, target, stride, packs)
        } else if !isWide && stride == elementBytes {
            narrow(source, target, rowStride, rows, count, streams(count, stride) ? 1 : 0)
        } else if areShortRuns(count, stride) {
            copyRuns(source, count &* wideBytes, target, rowStride, rows, count &* wideBytes)
        } else {
            for r in 0..<rows {
                scatter(source + r &* count &* wideBytes, count, target + r &* rowStride, stride, packs)
            }
        }
    }

    /// As `gather` of a part of a slice, with -inf in the place of what the mask leaves out.
    func gather(
        _ source: UnsafeMutableRawPointer, _ stride: Int, _ count: Int, _ target: UnsafeMutableRawPointer,
        mask: Operand, _ packs: Packs
    ) {
        let isInOrder = isWide && stride == elementBytes
        if !isInOrder { gather(source, stride, count, target, packs) }
        select(isInOrder ? source : target, target, mask, count, -.infinity, packs)
    }

    /// The way back, with the fixed result of what the mask leaves out.
    func scatter(
        _ source: UnsafeMutableRawPointer, _ count: Int, _ target: UnsafeMutableRawPointer, _ stride: Int,
        mask: Operand, _ packs: Packs
    ) {
        let isInOrder = isWide && stride == elementBytes && streaming == 0
        select(source, isInOrder ? target : source, mask, count, absentResult, packs)
        if !isInOrder { scatter(source, count, target, stride, packs) }
    }

    private func select(
        _ source: UnsafeMutableRawPointer, _ target: UnsafeMutableRawPointer, _ mask: Operand,
        _ count: Int, _ fill: Double, _ packs: Packs
    ) {
        var bytes = mask.address
        if mask.stride != 1 {
            copy(mask.address, mask.stride, packs.mask, 1, count, 1)
            bytes = packs.mask
        }
        kernels.pointee.select(
            source, 0, target, 0, bytes.assumingMemoryBound(to: UInt8.self), 0, fill, 1, count)
    }

    /// destination[j][i] = source[i][j]. Where both are many, a few columns at a time, so that the first cache holds the lines they go to
    /// until these are full.
    @inline(never)
    @_optimize(size)
    func transpose(
        _ source: UnsafeMutableRawPointer, _ sourceStride: Int, _ destination: UnsafeMutableRawPointer,
        _ destinationStride: Int, _ rows: Int, _ columns: Int, _ far: Int32
    ) {
        let step = rows >= 16 && columns > rows ? 8 : columns
        var j = 0
        while j < columns {
            kernels.pointee.transpose.unsafelyUnwrapped(
                source + j &* wideBytes, sourceStride, destination + j &* destinationStride,
                destinationStride, rows, min(step, columns &- j), far)
            j &+= step
        }
    }

    private func widen(
        _ source: UnsafeMutableRawPointer, _ rowStride: Int, _ target: UnsafeMutableRawPointer, _ rows: Int,
        _ count: Int, _ ahead: Int
    ) {
        kernels.pointee.widen(elements(stride: elementBytes), source, rowStride, target, rows, count, ahead)
    }

    private func narrow(
        _ source: UnsafeMutableRawPointer, _ target: UnsafeMutableRawPointer, _ rowStride: Int, _ rows: Int,
        _ count: Int, _ streaming: Int32
    ) {
        kernels.pointee.narrow(
            elements(stride: elementBytes), source, target, rowStride, rows, count, streaming)
    }
}

/// Copies `count` elements of `bytes` bytes from one stride to another.
@inline(never)
func copy(
    _ source: UnsafeMutableRawPointer, _ sourceStride: Int, _ target: UnsafeMutableRawPointer,
    _ targetStride: Int, _ count: Int, _ bytes: Int
) {
    if count == 1 || sourceStride == bytes && targetStride == bytes {
        memcpy(target, source, count &* bytes)
        return
    }
    switch bytes {
    case 8: copyEach(source, sourceStride, target, targetStride, count, as: UInt64.self)
    case 4: copyEach(source, sourceStride, target, targetStride, count, as: UInt32.self)
    case 2: copyEach(source, sourceStride, target, targetStride, count, as: UInt16.self)
    default: copyBytes(source, sourceStride, target, targetStride, count)
    }
}

/// Those of a mask, with its commonest strides as constants, for which the compiler has vectors: mask[..., ::2] and
/// mask[..., ::-1].
@inline(__always)
private func copyBytes(
    _ source: UnsafeMutableRawPointer, _ sourceStride: Int, _ target: UnsafeMutableRawPointer,
    _ targetStride: Int, _ count: Int
) {
    switch (sourceStride, targetStride) {
    case (2, 1): copyEach(source, 2, target, 1, count, as: UInt8.self)
    case (-1, 1): copyEach(source, -1, target, 1, count, as: UInt8.self)
    default: copyEach(source, sourceStride, target, targetStride, count, as: UInt8.self)
    }
}

@inline(__always)
private func copyEach<T: BitwiseCopyable>(
    _ source: UnsafeMutableRawPointer, _ sourceStride: Int, _ target: UnsafeMutableRawPointer,
    _ targetStride: Int, _ count: Int, as type: T.Type
) {
    for i in 0..<count {
        let element = (source + i &* sourceStride).loadUnaligned(as: type)
        (target + i &* targetStride).storeBytes(of: element, as: type)
    }
}

/// Copies `count` runs of `bytes` bytes, 8 to 64, each as two pieces that overlap. What lies `ahead` bytes from them is asked for.
@inline(never)
func copyRuns(
    _ source: UnsafeMutableRawPointer, _ sourceStride: Int, _ target: UnsafeMutableRawPointer,
    _ targetStride: Int, _ count: Int, _ bytes: Int, ahead: Int = 0
) {
    if bytes <= 16 {
        copyRuns(source, sourceStride, target, targetStride, count, bytes, ahead, pieces: UInt64.self)
    } else if bytes <= 32 {
        copyRuns(source, sourceStride, target, targetStride, count, bytes, ahead, pieces: SIMD4<UInt32>.self)
    } else {
        copyRuns(source, sourceStride, target, targetStride, count, bytes, ahead, pieces: SIMD8<UInt32>.self)
    }
}

@inline(__always)
private func copyRuns<T: BitwiseCopyable>(
    _ source: UnsafeMutableRawPointer, _ sourceStride: Int, _ target: UnsafeMutableRawPointer,
    _ targetStride: Int, _ count: Int, _ bytes: Int, _ ahead: Int, pieces type: T.Type
) {
    let last = bytes &- MemoryLayout<T>.size
    @inline(__always)
    func copy(_ i: Int) {
        let (from, to) = (source + i &* sourceStride, target + i &* targetStride)
        let head = from.loadUnaligned(as: type)
        let tail = (from + last).loadUnaligned(as: type)
        to.storeBytes(of: head, as: type)
        (to + last).storeBytes(of: tail, as: type)
    }
    if ahead == 0 {
        for i in 0..<count { copy(i) }
        return
    }
    for i in 0..<count {
        support_prefetch(source + (i &* sourceStride &+ ahead))
        copy(i)
    }
}
