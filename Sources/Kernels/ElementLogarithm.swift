// log(1 + v) for results, as a pair of elements.
//
// In Double it is that of Logarithm.swift. In Float, to about 2^-27: 1 + v = 2^j (1 + f) as there, f a pair, and
// log(1 + f) = f - f^2/2 + f^3 p(f), p a minimax fit by scripts/fit_polynomials.py (2^-29.1 of the whole). f - f^2/2 is kept
// as a pair; the rest is at most a fifteenth of it, so that one Float holds it. Next to v = 0 nothing is lost.

import CVector

#if SWIFTMAX_FLOAT64
    typealias ElementPair = Pair
    typealias ElementLogArgument = LogArgument

    extension Pair {
        @inline(__always) var parts: (high: Vector, low: Vector) { (high, low) }
    }

    extension LogArgument {
        @inline(__always) var parts: (j: Vector, high: Vector, low: Vector) { (j, reduced.high, reduced.low) }

        @inline(__always)
        init(j: Vector, high: Vector, low: Vector) {
            self.init(j: j, reduced: Pair(high: high, low: low))
        }
    }
#else
    typealias ElementPair = BundlePair<Single>
    typealias ElementLogArgument = BundleLogArgument<Single>

    /// A number as the unevaluated sum of two elements per lane.
    struct BundlePair<B: Bundle> {
        let high: B
        let low: B

        @inline(__always)
        init(high: B, low: B) {
            self.high = high
            self.low = low
        }

        /// a + b exactly (Knuth's TwoSum).
        @inline(__always)
        init(sum a: B, _ b: B) {
            high = a.map(b) { $0 + $1 }
            let rounded = high.map(a) { $0 - $1 }
            low = a.map(high.map(rounded) { $0 - $1 }) { $0 - $1 }.map(b.map(rounded) { $0 - $1 }) { $0 + $1 }
        }

        /// `difference`, which is a - b rounded, and what it was rounded by.
        @inline(__always)
        init(_ difference: B, of a: B, _ b: B) {
            high = difference
            let rounded = high.map(a) { $0 - $1 }
            low = a.map(high.map(rounded) { $0 - $1 }) { $0 - $1 }.map(b.map(rounded) { $0 + $1 }) { $0 - $1 }
        }

        /// a + b exactly, for |a| >= |b| or a = 0 (Dekker's Fast2Sum).
        @inline(__always)
        init(sumOrdered a: B, _ b: B) {
            high = a.map(b) { $0 + $1 }
            low = b.map(high.map(a) { $0 - $1 }) { $0 - $1 }
        }

        /// Right to about 2^-47 of the larger, for parts of the same sign.
        @inline(__always)
        static func + (a: BundlePair, b: BundlePair) -> BundlePair {
            let sum = BundlePair(sum: a.high, b.high)
            return BundlePair(high: sum.high, low: sum.low.map(a.low.map(b.low) { $0 + $1 }) { $0 + $1 })
        }

        /// The pair times a power of two.
        @inline(__always)
        func scaled(by power: Element) -> BundlePair {
            BundlePair(high: high.map { $0 * splat(power) }, low: low.map { $0 * splat(power) })
        }
    }

    extension BundlePair where B == Single {
        @inline(__always)
        init(high: Vector, low: Vector) {
            self.init(high: Single(repeating: high), low: Single(repeating: low))
        }

        @inline(__always)
        init(sum a: Vector, _ b: Vector) { self.init(sum: Single(repeating: a), Single(repeating: b)) }

        @inline(__always) var parts: (high: Vector, low: Vector) { (high.value, low.value) }
    }

    /// As `LogArgument`.
    struct BundleLogArgument<B: Bundle> {
        let j: B
        /// f
        let reduced: BundlePair<B>

        /// That of log(count + v), for count >= 1.
        @inline(__always)
        init(_ v: BundlePair<B>, and count: B) {
            let m = BundlePair(sumOrdered: v.high.map(count, maximum), v.high.map(count, vector_min))
            j = m.high.map(vector_exponent)
            let scale = j.map { vector_exponent_from_mantissa(splat(roundingMagic + exponentBias) - $0) }
            reduced = BundlePair(
                sumOrdered: m.high.fma(scale, splat(-1)), m.low.map(v.low, scale) { ($0 + $1) * $2 })
        }

        @inline(__always)
        var log: BundlePair<B> {
            let (x, half) = (reduced.high, splat(-0.5))
            let square = x.map { $0 * $0 }
            // x - x^2/2, and what it is too large by in all but the third power.
            let main = square.map(x) { vector_fma(half, $0, $1) }
            let rounding = square.map(x, main) { vector_fma(half, $0, $1 - $2) }
            let rest = square.map(x, rounding.map(x, reduced.low) { $0 + vector_fma(-$1, $2, $2) }) {
                vector_fma(half, vector_product_error($1, $1, $0), $2)
            }
            let third = square.map(x) { $0 * $1 }.fma(cubicPolynomial(x), rest)
            // j ln2 in two parts, the first short enough to be exact.
            let leading = BundlePair(sumOrdered: j.map { $0 * splat(0x1.62e4p-1) }, main)
            let last = j.map(leading.low, third) { vector_fma($0, splat(0x1.7f7d1cp-20), $1 + $2) }
            return BundlePair(sumOrdered: leading.high, last)
        }
    }

    extension BundleLogArgument where B == Single {
        @inline(__always) var parts: (j: Vector, high: Vector, low: Vector) {
            (j.value, reduced.high.value, reduced.low.value)
        }

        @inline(__always)
        init(j: Vector, high: Vector, low: Vector) {
            self.j = Single(repeating: j)
            reduced = BundlePair(high: Single(repeating: high), low: Single(repeating: low))
        }
    }

    /// p(x), for log(1 + x) = x - x^2/2 + x^3 p(x).
    @inline(__always)
    private func cubicPolynomial<B: Bundle>(_ x: B) -> B {
        var p = x.map { vector_fma(splat(0x1.143bcap-4), $0, splat(-0x1.de3782p-4)) }.together
        p = p.fma(x, splat(0x1.e6f9d2p-4)).together
        p = p.fma(x, splat(-0x1.fc2380p-4)).together
        p = p.fma(x, splat(0x1.2336ecp-3)).together
        p = p.fma(x, splat(-0x1.555c3ep-3)).together
        p = p.fma(x, splat(0x1.99a4bap-3)).together
        p = p.fma(x, splat(-0x1.000008p-2)).together
        return p.fma(x, splat(0x1.555548p-2)).together
    }
#endif
