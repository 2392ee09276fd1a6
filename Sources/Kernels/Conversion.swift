// Ways into a kernel and out of it: strides and masks. Those of 16-bit types are in HalfFormat.swift.

import CVector

/// Copies `rows` rows, `rowStride` bytes apart, of `n` elements each, `stride` bytes apart, to contiguous ones. The lines
/// `ahead` bytes from theirs are asked for where an element is not a line of its own.
func gather(
    _ source: UnsafeRawPointer, _ rowStride: Int, _ stride: Int, _ destination: UnsafeMutableRawPointer,
    _ rows: Int, _ n: Int, ahead: Int
) {
    for r in 0..<rows {
        gatherRow(source + r &* rowStride, stride, destination.element(r &* n), n, ahead)
    }
}

/// Copies `n` elements past the caches.
func stream(_ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ n: Int) {
    writeRow(destination, n, streaming: true) { i, count in load(source.element(i), count) }
}

@inline(__always)
private func gatherRow(
    _ source: UnsafeRawPointer, _ stride: Int, _ destination: UnsafeMutableRawPointer, _ n: Int, _ ahead: Int
) {
    var (i, end) = (0, n)
    // The commonest strides are x[..., ::-1] and x[..., ::2], which have shuffles, and that of broadcast elements.
    if stride == -elementBytes {
        // From the last element to the first: in the order of memory, which the CPU reads ahead in from row to row.
        while end >= lanes {
            end &-= lanes
            let last = source + (end &+ lanes &- 1) &* stride
            vector_prefetch(last + ahead)
            vector_store(destination.element(end), vector_reversed(vector_load(last)))
        }
    } else if stride == 2 &* elementBytes {
        while i &+ lanes <= end {
            let first = source + i &* stride
            vector_prefetch(first + ahead)
            vector_prefetch(first + (ahead &+ vectorBytes))
            vector_store(destination.element(i), loadAlternate(first))
            i &+= lanes
        }
    } else if stride == 0 {
        let element = splat(source.loadUnaligned(as: Element.self))
        while i &+ lanes <= end {
            vector_store(destination.element(i), element)
            i &+= lanes
        }
    } else {
        while i &+ lanes <= end {
            vector_store(destination.element(i), vector_load_strided(source + i &* stride, stride))
            i &+= lanes
        }
    }
    while i < end {
        let element = (source + i &* stride).loadUnaligned(as: Element.self)
        destination.element(i).storeBytes(of: element, as: Element.self)
        i &+= 1
    }
}

/// Copies elements, or `fill` where `mask` is 0.
func select(
    _ source: UnsafeRawPointer, _ destination: UnsafeMutableRawPointer, _ mask: UnsafePointer<UInt8>,
    _ fill: Element, _ n: Int
) {
    writeRow(destination, n, streaming: false) { i, count in
        vector_select_bytes(mask + i, count, load(source.element(i), count), splat(fill))
    }
}
