"""Fit the polynomials of the kernels: minimax in the relative error of the whole function.

    python scripts/fit_polynomials.py

exp(r) = 1 + r + r^2 q(r), or 1 + r + r^2/2 + r^3 q(r), on |r| <= ln2/2, or on |r| <= ln2/32 for
float32 with a table of powers; log(m) = 2z + z^3 p(z^2),
z = (m-1)/(m+1), on sqrt(1/2) <= m <= sqrt(2); in float32 log(1 + f) = f - f^2/2 + f^3 p(f) there,
f = m - 1. The Remez exchange runs in 60 digits, then the coefficients are rounded to their type.
Prints hex floats for Sources/Kernels and the largest relative error of each fit, and the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
from mpmath import exp, floor, inf, ldexp, log, lu_solve, matrix, mp, mpf, nint, polyval, sqrt

mp.dps = 60

Function = Callable[[Any], Any]


def minimax(target: Function, weight: Function, degree: int, points: Sequence[Any]) -> list[Any]:
    """Return the coefficients, lowest first, that minimize max |weight * (target - polynomial)|."""
    # Chebyshev nodes of the interval are a good first guess of the points of alternation.
    count = degree + 2
    spread = [(1 - np.cos(np.pi * (k + 0.5) / count)) / 2 for k in range(count)]
    nodes = [points[round(s * (len(points) - 1))] for s in spread]
    while True:
        rows = matrix(count, count)
        right = matrix(count, 1)
        for i, x in enumerate(nodes):
            for j in range(degree + 1):
                rows[i, j] = weight(x) * x**j
            rows[i, degree + 1] = (-1) ** i
            right[i] = weight(x) * target(x)
        solution = list(lu_solve(rows, right))
        coefficients, level = solution[:-1], abs(solution[-1])
        errors = errors_of(coefficients, target, weight, points)
        # One extremum per run of equal sign; the weakest of too many are dropped from the ends.
        extrema: list[int] = []
        for i, e in enumerate(errors):
            if extrema and (errors[extrema[-1]] > 0) == (e > 0):
                if abs(e) > abs(errors[extrema[-1]]):
                    extrema[-1] = i
            else:
                extrema.append(i)
        while len(extrema) > count:
            extrema.pop(0 if abs(errors[extrema[0]]) < abs(errors[extrema[-1]]) else -1)
        nodes = [points[i] for i in extrema]
        if max(abs(e) for e in errors) < level * mpf("1.001"):
            return coefficients


def errors_of(
    coefficients: Sequence[Any], target: Function, weight: Function, points: Sequence[Any]
) -> list[Any]:
    """Return the weighted error at each point."""
    return [weight(x) * (target(x) - polyval(coefficients[::-1], x)) for x in points]


def round_to(value: Any, bits: int) -> Any:
    """Return `value` rounded to `bits` significant bits."""
    exponent = int(floor(log(abs(value), 2))) + 1 - bits
    return ldexp(nint(ldexp(value, -exponent)), exponent)


def fit(
    name: str, target: Function, weight: Function, degree: int, low: Any, high: Any, bits: int
) -> None:
    """Print the rounded coefficients of one fit and its error."""
    points = [low + (high - low) * (k + mpf("0.5")) / 1500 for k in range(1500)]
    exact = minimax(target, weight, degree, points)
    rounded = [round_to(c, bits) for c in exact]
    # Rounding the leading two costs most: of their neighbors, the best pair.
    best = inf
    sample = points[::10]
    for steps in product((-2, -1, 0, 1, 2), repeat=2):
        moved = list(rounded)
        for k, step in enumerate(steps):
            moved[k] += step * ldexp(1, int(floor(log(abs(moved[k]), 2))) + 1 - bits)
        error = max(abs(e) for e in errors_of(moved, target, weight, sample))
        if error < best:
            best, chosen = error, moved
    error = max(abs(e) for e in errors_of(chosen, target, weight, points))
    exponent = float(log(error, 2))
    print(f"{name}: degree {degree}, {bits} bits, largest relative error 2^{exponent:.2f}")
    for k, c in enumerate(chosen):
        print(f"    c{k} = {float(c).hex()}")


def exp_tail(r: Any) -> Any:
    """Return q of exp."""
    return (exp(r) - 1 - r) / r**2


def exp_cubic(r: Any) -> Any:
    """Return q of exp in float64 where r^2/2 is kept apart."""
    return (exp(r) - 1 - r - r**2 / 2) / r**3


def log_tail(u: Any) -> Any:
    """Return p of log."""
    z = sqrt(u)
    return (log((1 + z) / (1 - z)) - 2 * z) / z**3


def log_cubic(f: Any) -> Any:
    """Return p of log in float32."""
    return (log(1 + f) - f + f**2 / 2) / f**3


if __name__ == "__main__":
    # A little beyond ln2/2, since r = x - n ln2 is rounded where n flips.
    half = log(2) / 2 * mpf("1.0005")
    for degree, bits in ((4, 24), (9, 53), (5, 53)):
        fit("exp", exp_tail, lambda r: r**2 / exp(r), degree, -half, half, bits)
    fit("exp", exp_cubic, lambda r: r**3 / exp(r), 9, -half, half, 53)
    # Further beyond ln2/32, as x / ln2 has an error too before it is rounded.
    half = log(2) / 32 * mpf("1.005")
    fit("exp by table", exp_tail, lambda r: r**2 / exp(r), 1, -half, half, 24)
    print("table of powers: 2^(j/16) / (1 + j/16) - 1")
    for j in range(16):
        excess = mpf(2) ** (mpf(j) / 16) / (1 + mpf(j) / 16) - 1
        print(f"    {float(np.float32(float(excess))).hex()}")
    limit = ((sqrt(2) - 1) / (sqrt(2) + 1)) ** 2
    fit("log", log_tail, lambda u: u / 2, 8, mpf("1e-9"), limit * mpf("1.001"), 53)
    low, high = (sqrt(mpf("0.5")) - 1) * mpf("1.001"), (sqrt(2) - 1) * mpf("1.001")
    fit("log", log_cubic, lambda f: f**3 / log(1 + f), 8, low, high, 24)
