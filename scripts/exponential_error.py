"""The error of the kernels' exp before anything else is done to it, in units of 2^-24 and 2^-53.

    python scripts/exponential_error.py

Follows Sources/Kernels/Exponential.swift operation by operation, with the constants found there and
the table of Sources/CVector/include/vector.h: for float32 over all floats that round(x / ln2) maps
to some n (but small ones), for float64 over a sample. The error is that of (1 + tail) power
relative to exp(x). A softmax has two of them, that of the element and that of the sum, at worst of
opposite signs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from mpmath import exp, log, mp, mpf
from tqdm import tqdm

Array = np.ndarray[Any, Any]
SOURCES = Path(__file__).parents[1] / "Sources"
SOURCE = SOURCES / "Kernels" / "Exponential.swift"
TABLE = SOURCES / "CVector" / "include" / "vector.h"
EXPONENTS = [-100, -40, *range(-24, 25), 40, 100]
HEX = r"(-?0x1\.[0-9a-f]+p[+-]?\d+)"


def constants(start: str, end: str, pattern: str, source: Path = SOURCE) -> list[float]:
    """The numbers that `pattern` finds in a part of a source, as kernels with FMA have it."""
    part = source.read_text().split(start, 1)[1].split(end, 1)[0]
    part = re.sub(r"#(if|elseif) SWIFTMAX_BASELINE.*?#else", "", part, flags=re.DOTALL)
    return [float.fromhex(x) for x in re.findall(pattern.replace("HEX", HEX), part)]


def float32_errors(n: int) -> Array:
    """The error for every float of that n. A product of floats is exact in double."""
    step, rest, second, first = (
        np.float32(c) for c in constants("struct ReducedArgument", "#else", r"splat\(HEX\)")
    )
    table = np.array([0, *constants("power_excess[16]", "};", "HEX", TABLE)], np.float32)
    ends = np.array([(n - 0.5) * np.log(2), (n + 0.5) * np.log(2)], np.float32)
    if n == 0:
        d = np.concatenate([floats(ends[0], np.float32(-0.1)), floats(np.float32(0.1), ends[1])])
    else:
        d = floats(ends[0], ends[1])[1:-1]

    def fma(a: Array, b: Any, c: Any) -> Array:
        return (a.astype(np.float64) * b + c).astype(np.float32)

    magic = np.float32(1.5 * 2**23)
    steps = fma(d, np.float32(1 / np.log(2)) * 16, magic) - magic
    r = fma(steps, rest, fma(steps, step, d))
    t = fma(r * r, fma(r, second, first), r)
    octave, index = np.divmod(steps.astype(np.int64), 16)
    tail = fma(t, 1 + table[index], table[index])
    power = np.ldexp(1 + index.astype(np.longdouble) / 16, octave.astype(np.int64))
    true = np.exp(d.astype(np.longdouble))
    return np.asarray(((1 + tail.astype(np.longdouble)) * power - true) / true * 2**24, np.float64)


def floats(low: Any, high: Any) -> Array:
    """All floats from low to high, of one sign."""
    bits = np.sort(np.array([low, high], np.float32).view(np.uint32))
    return np.arange(bits[0], bits[1] + 1, dtype=np.uint32).view(np.float32)


def float64_errors(n: int, count: int = 400) -> Array:
    """The error for doubles of that n, half of them next to the ends, where it is largest."""
    (high,) = constants("func wideWithoutLeadingLn2", "\n}\n", r"wide_fma\(n, splatWide\(HEX\)")
    (low,) = constants("func wideTrailingLn2", "\n}\n", r"n \* splatWide\(HEX\)")
    coefficients = constants("func doublePolynomial", "\n}\n", r"step\((?:nil|q), HEX")
    random = np.random.default_rng(n % 1000)
    share = np.concatenate(
        [
            random.uniform(-0.5, 0.5, count),
            random.choice([-1, 1], count) * random.uniform(0.4, 0.5, count),
        ]
    )
    errors = []
    for d in ((n + share) * np.log(2)).tolist():
        leading = fma64(n, high, d)
        rest = n * low
        r = leading + rest
        q = coefficients[0]
        for c in coefficients[1:]:
            q = fma64(q, r, c)
        tail = leading + fma64(r * r, q, rest)
        true = exp(mpf(d) - n * log(2))
        errors.append(float((1 + mpf(tail) - true) / true * mpf(2) ** 53))
    return np.array(errors)


def fma64(a: float, b: float, c: float) -> float:
    """a * b + c, rounded once."""
    return float(Fraction(a) * Fraction(b) + Fraction(c))


def report(name: str, errors: Callable[[int], Array]) -> None:
    """Print the extremes over all n."""
    found = [errors(n) for n in tqdm(EXPONENTS, desc=name, leave=False)]
    least, most = min(e.min() for e in found), max(e.max() for e in found)
    print(f"{name}: {least:.3f} to {most:.3f}, apart by {most - least:.3f} at most")


if __name__ == "__main__":
    mp.prec = 120
    report("float32", float32_errors)
    report("float64", float64_errors)
