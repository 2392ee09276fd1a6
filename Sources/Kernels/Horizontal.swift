// Reductions over the lanes of one vector, by halves. (Swift's own `max()` and `sum()` go lane by lane.)

import CVector

@inline(__always)
func largest(_ v: SIMD2<Double>) -> Double { v[1] > v[0] ? v[1] : v[0] }
@inline(__always)
func largest(_ v: SIMD4<Double>) -> Double {
    largest(v.lowHalf.replacing(with: v.highHalf, where: v.highHalf .> v.lowHalf))
}
@inline(__always)
func largest(_ v: SIMD8<Double>) -> Double {
    largest(v.lowHalf.replacing(with: v.highHalf, where: v.highHalf .> v.lowHalf))
}

@inline(__always)
func largest(_ v: SIMD2<Float>) -> Float { v[1] > v[0] ? v[1] : v[0] }
@inline(__always)
func largest(_ v: SIMD4<Float>) -> Float {
    largest(v.lowHalf.replacing(with: v.highHalf, where: v.highHalf .> v.lowHalf))
}
@inline(__always)
func largest(_ v: SIMD8<Float>) -> Float {
    largest(v.lowHalf.replacing(with: v.highHalf, where: v.highHalf .> v.lowHalf))
}
@inline(__always)
func largest(_ v: SIMD16<Float>) -> Float {
    largest(v.lowHalf.replacing(with: v.highHalf, where: v.highHalf .> v.lowHalf))
}

@inline(__always)
func sum(_ v: SIMD2<Double>) -> Double { v[0] + v[1] }
@inline(__always)
func sum(_ v: SIMD4<Double>) -> Double { sum(v.lowHalf + v.highHalf) }
@inline(__always)
func sum(_ v: SIMD8<Double>) -> Double { sum(v.lowHalf + v.highHalf) }
@inline(__always)
func sum(_ v: SIMD16<Double>) -> Double { sum(v.lowHalf + v.highHalf) }
