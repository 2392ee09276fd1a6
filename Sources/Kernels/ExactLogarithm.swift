// The logarithm of an exact sum, which is so seldom needed that one of the modules has it for all.

#if SWIFTMAX_BASELINE && SWIFTMAX_FLOAT64

    import CKernels
    import CVector

    @_cdecl("swiftmax_kernels_exact_log")
    public func exactLog(_ sum: UnsafePointer<swiftmax_exact_sum>, _ max: Double) -> Double {
        var (high, low) = (0.0, 0.0)
        swiftmax_exact_excess(sum, max, &high, &low)
        // log(1 + v) = v - v^2 / 2 + ..., where a pair for 1 + v would not hold all of v.
        if high.magnitude < 0x1p-30 { return high + (low - 0.5 * high * high) }
        let v = Pair(high: splatWide(high), low: splatWide(low))
        if high > 0 { return log1p(v).high[0] }
        // log(1 + v) = -log(1 - v / (1 + v)).
        let negated = v.scaled(by: splatWide(-1))
        var w = Pair(sum: splatWide(1), v.high)
        w.low += v.low
        return -log1p(quotient(negated, w)).high[0]
    }

#endif
