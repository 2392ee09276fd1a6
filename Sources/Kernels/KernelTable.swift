// The one door of this module: the table of its kernels, as C functions.

import CKernels

func fill(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) {
    kernels.pointee.forward_rows = { op, x, xStride, out, outStride, rows, n, scratch, streaming, far, next in
        forwardRows(
            Operation(op), x!, xStride, out!, outStride, rows, n, scratch!, streaming: streaming != 0,
            far: far != 0, next: Asked(next))
    }
    kernels.pointee.forward_columns = {
        op, elements, x, xStride, mask, maskStride, out, outStride, columns, groups, n, scratch, streaming,
        next, recomputes in
        forwardColumns(
            Operation(op), Elements(elements), x!, xStride, Mask(mask, maskStride), out!, outStride, columns,
            groups, n, Scratch(address: scratch!), streaming: streaming != 0, next: Asked(next),
            recomputes: recomputes != 0)
    }
    kernels.pointee.row_stats = { op, x, n, known, stats, scratch, next in
        stats!.pointee = blockStats(
            Operation(op).sumKind, x!, n, known: known.map { Element($0.pointee) },
            Scratch(address: scratch!), next: Asked(next))
    }
    kernels.pointee.merge_stats = { op, blocks, count, stats in
        var all = Stats.none
        for b in 0..<count { all.append(Stats(blocks![b]), Operation(op).sumKind) }
        stats!.pointee = all.first
        return all.needsKnownMax[0] != 0 ? 1 : 0
    }
    kernels.pointee.row_output = { op, x, out, n, stats, scratch, streaming in
        let table = SliceTable(address: scratch!)
        table.setResults(Operation(op), stats!.pointee)
        switch Operation(op) {
        case .softmax: writeSoftmax(x!, out!, n, table, streaming: streaming != 0)
        case .logSoftmax:
            writeLogSoftmax(
                RowBatch(x!, n, slice: 0), out!, 0, table, streaming: streaming != 0)
        case .logsumexp: out!.storeBytes(of: table.logsumexp(0), as: Element.self)
        }
    }

    kernels.pointee.backward_rows = {
        op, g, gStride, y, yStride, out, outStride, rows, n, scratch, streaming, far, eights in
        backwardRows(
            Operation(op), Operand(address: g!, stride: gStride), Operand(address: y!, stride: yStride),
            out!, outStride, rows, n, Scratch(address: scratch!), streaming: streaming != 0, far: far != 0,
            eights: eights != 0)
    }
    kernels.pointee.backward_columns = {
        op, g, gStride, y, yStride, out, outStride, columns, groups, n, next, scratch, streaming, distance,
        ways in
        backwardColumns(
            Operation(op), Operand(address: g!, stride: gStride), Operand(address: y!, stride: yStride),
            out!, outStride, columns, groups, n, next: next, Scratch(address: scratch!),
            streaming: streaming != 0, Distance(rawValue: distance)!, ways: Int(ways))
    }
    kernels.pointee.row_sum = { op, g, y, n, knownScale, stats, scratch, eights in
        let scratch = Scratch(address: scratch!)
        stats!.pointee =
            rowSum(
                Operation(op), g!, y!, n, scale: knownScale?.pointee ?? 1, scratch, eights: eights != 0
            ).first
    }
    kernels.pointee.merge_sums = { blocks, count, stats in
        var all = GradientSum(blocks![0])
        for b in 1..<max(1, count) { all = all + GradientSum(blocks![b]) }
        let isFirst = all.scale[0] == 1
        if isFirst && all.needsScale[0] != 0 {
            stats!.pointee = swiftmax_stats(max: downScale, high: 0, low: 0, count: 0)
            return 1
        }
        stats!.pointee = (isFirst ? all : all.settled).first
        return 0
    }
    kernels.pointee.row_grad_input = { op, g, y, out, n, stats, scratch, streaming in
        writeBackward(
            Operation(op), g!, y!, out!, n, GradientSum(stats!.pointee), Scratch(address: scratch!).table,
            streaming: streaming != 0)
    }

    kernels.pointee.gather = { source, rowStride, stride, destination, rows, n, ahead in
        gather(source!, rowStride, stride, destination!, rows, n, ahead: ahead)
    }
    kernels.pointee.stream = { stream($0!, $1!, $2) }
    kernels.pointee.most_turned = Int32(mostTurned)
    kernels.pointee.transpose = {
        source, sourceStride, destination, destinationStride, rows, columns, far in
        #if SWIFTMAX_AVX512
            if far != 0
                && transposeInterleaved(
                    source!, sourceStride, destination!, destinationStride, rows, columns, far: true)
            {
                return
            }
        #endif
        transpose(source!, sourceStride, destination!, destinationStride, rows, columns)
    }
    kernels.pointee.select = {
        source, sourceStride, destination, destinationStride, mask, maskStride, fill, rows, n in
        for r in 0..<rows {
            select(
                source! + r &* sourceStride, destination! + r &* destinationStride, mask! + r &* maskStride,
                Element(fill), n)
        }
    }
    #if SWIFTMAX_FLOAT32
        kernels.pointee.gather_halves = { gatherHalves($0!, $1, $2!, $3) }
        kernels.pointee.widen = { elements, source, rowStride, destination, rows, n, ahead in
            HalfFormat(elements).widen(source!, rowStride, destination!, rows, n, ahead: ahead)
        }
        kernels.pointee.narrow = { elements, source, destination, rowStride, rows, n, streaming in
            HalfFormat(elements).narrow(
                source!, destination!, rowStride, rows, n, streaming: streaming != 0)
        }
    #endif
    #if SWIFTMAX_AVX2 || SWIFTMAX_AVX512
        kernels.pointee.forward_other_rows = {
            op, elements, x, xStride, mask, maskStride, out, outStride, rows, n, scratch, room, streaming, far
            in
            forwardOtherRows(
                Operation(op), Elements(elements), Operand(address: x!, stride: xStride),
                Mask(mask, maskStride), out!, outStride, rows, n, Scratch(address: scratch!), room: room,
                streaming: streaming != 0, far: far != 0)
        }
        kernels.pointee.backward_other_rows = {
            op, elements, g, gStride, y, yStride, out, outStride, rows, n, scratch, eights in
            backwardOtherRows(
                Operation(op), Elements(elements), Operand(address: g!, stride: gStride),
                Operand(address: y!, stride: yStride), out!, outStride, rows, n,
                Scratch(address: scratch!), eights: eights != 0)
        }
        #if SWIFTMAX_FLOAT32
            kernels.pointee.backward_half_columns = {
                op, elements, g, gStride, y, yStride, out, outStride, columns, n, scratch, streaming in
                backwardHalfColumns(
                    Operation(op), HalfFormat(elements), Operand(address: g!, stride: gStride),
                    Operand(address: y!, stride: yStride), out!, outStride, columns, n,
                    Scratch(address: scratch!), streaming: streaming != 0)
            }
        #endif
    #endif
}

#if SWIFTMAX_AVX512 && SWIFTMAX_FLOAT32
    @_cdecl("swiftmax_kernels_avx512_float32")
    public func kernelTable(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) { fill(kernels) }
#elseif SWIFTMAX_AVX512 && SWIFTMAX_FLOAT64
    @_cdecl("swiftmax_kernels_avx512_float64")
    public func kernelTable(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) { fill(kernels) }
#elseif SWIFTMAX_AVX2 && SWIFTMAX_FLOAT32
    @_cdecl("swiftmax_kernels_avx2_float32")
    public func kernelTable(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) { fill(kernels) }
#elseif SWIFTMAX_AVX2 && SWIFTMAX_FLOAT64
    @_cdecl("swiftmax_kernels_avx2_float64")
    public func kernelTable(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) { fill(kernels) }
#elseif SWIFTMAX_FLOAT32
    @_cdecl("swiftmax_kernels_baseline_float32")
    public func kernelTable(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) { fill(kernels) }
#else
    @_cdecl("swiftmax_kernels_baseline_float64")
    public func kernelTable(_ kernels: UnsafeMutablePointer<swiftmax_kernels>) { fill(kernels) }
#endif
