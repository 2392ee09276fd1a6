"""Inputs for tests: reproducible values of many families, laid out in memory in many ways.

The values come from an integer hash and exact arithmetic alone, so they are the same for any
version of NumPy and ml_dtypes, any libm and any CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from reference import format_of

try:
    import ml_dtypes  # noqa: F401  (makes the name "bfloat16" known to NumPy)
except ImportError:
    DTYPES = ["float32", "float64", "float16"]
else:
    DTYPES = ["float32", "float64", "float16", "bfloat16"]

FORWARD = ["softmax", "log_softmax", "logsumexp"]
BACKWARD = ["softmax_backward", "log_softmax_backward"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


def hashed(seed: int, count: int) -> Array:
    """``count`` well mixed 64-bit integers (the finalizer of SplitMix64 over a counter)."""
    z = np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed % 2**32 << 32)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def uniform(seed: int, shape: Shape, low: float = 0, high: float = 1) -> Array:
    """Values spread evenly over [low, high)."""
    unit = (hashed(seed, math.prod(shape)) >> np.uint64(11)) * 2.0**-53
    return np.asarray(low + (high - low) * unit).reshape(shape)


def normal(seed: int, shape: Shape) -> Array:
    """Nearly normal values: sums of twelve uniform ones."""
    total = np.full(shape, -6.0)
    for part in range(12):
        total += uniform(12 * seed + part, shape)
    return total


def chosen(seed: int, shape: Shape, one_in: int) -> Array:
    """True at one place in ``one_in``."""
    return np.asarray(hashed(seed + 1, math.prod(shape)) % np.uint64(one_in) == 0).reshape(shape)


def rounded(values: Array, dtype: np.dtype[Any]) -> Array:
    """The float64 ``values`` as ``dtype``.

    bfloat16 by way of float32: from float64 ml_dtypes 0.7 rounds once, and earlier ones twice.
    """
    with np.errstate(under="ignore"):
        return np.asarray(values, np.float32 if dtype.name == "bfloat16" else dtype).astype(dtype)


# ---- Families of logits --------------------------------------------------------------------------


def _one_hot(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return np.where(chosen(seed, shape, 16), 30.0, uniform(seed, shape, -1, 0))


def _subnormal_results(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    fmt = format_of(dtype)
    ln2 = 0.6931471805599453
    low = (fmt.min_exponent - fmt.precision - 2) * ln2
    return np.where(chosen(seed, shape, 8), 0.0, uniform(seed, shape, low, fmt.min_exponent * ln2))


def _near_ties(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    fmt = format_of(dtype)
    steps = (hashed(seed, math.prod(shape)) % np.uint64(8)).astype(np.float64).reshape(shape)
    return 5 + steps * 2.0 ** (3 - fmt.precision)


def _heavy_tails(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return uniform(seed, shape, -1, 1) / uniform(seed + 1, shape, 2.0**-16, 1)


def _outliers(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return np.where(chosen(seed, shape, 100), 20.0, 0.0) + 3 * normal(seed, shape)


def _ties_below(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return np.where(chosen(seed, shape, 1024), 0.0, np.full(shape, uniform(seed, (), -20, -2)))


def _tiny(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return uniform(seed, shape, -8, 8) * 2.0 ** format_of(dtype).min_exponent


def _huge(seed: int, shape: Shape, dtype: np.dtype[Any]) -> Array:
    return uniform(seed, shape, -0.999, 0.999) * 2.0 ** format_of(dtype).max_exponent * 2


FAMILIES: dict[str, Callable[[int, Shape, np.dtype[Any]], Array]] = {
    "normal": lambda seed, shape, dtype: normal(seed, shape),
    "logits": lambda seed, shape, dtype: 10 * normal(seed, shape),
    "wide": lambda seed, shape, dtype: uniform(seed, shape, -80, 80),
    "offset_1e4": lambda seed, shape, dtype: 1e4 + 5 * normal(seed, shape),
    "offset_-1e6": lambda seed, shape, dtype: -1e6 + 20 * normal(seed, shape),
    "near_0": lambda seed, shape, dtype: -np.abs(uniform(seed, shape, 0, 2) * 40) + 1e-3,
    "one_hot": _one_hot,
    "near_ties": _near_ties,
    "ties_below": _ties_below,
    "heavy_tails": _heavy_tails,
    "outliers": _outliers,
    "subnormal_results": _subnormal_results,
    "tiny": _tiny,
    "huge": _huge,
    "constant": lambda seed, shape, dtype: np.full(shape, uniform(seed, (), -3, 3)),
}


def logits(family: str, seed: int, shape: Shape, dtype: npt.DTypeLike) -> Array:
    """An array of one of ``FAMILIES``; what ``dtype`` cannot hold becomes its largest value."""
    dtype = np.dtype(dtype)
    fmt = format_of(dtype)
    largest = (2 - 2.0 ** (1 - fmt.precision)) * 2.0**fmt.max_exponent
    with np.errstate(under="ignore"):
        values = np.clip(FAMILIES[family](seed, shape, dtype), -largest, largest)
    return rounded(values, dtype)


def gradients(
    name: str, seed: int, shape: Shape, dtype: npt.DTypeLike, spread: float = 1
) -> tuple[Array, Array]:
    """A grad_output and an output for the backward of that name, without calling the forward.

    ``spread`` tells how far apart the magnitudes in ``output`` are.
    """
    grad = 2 * normal(seed, shape)
    # 2^-k with k up to 20 * spread, without calling exp.
    exponent = np.floor(uniform(seed + 7, shape, 0, 20 * spread)).astype(np.int64)
    if name == "softmax_backward":
        output = np.ldexp(uniform(seed + 8, shape, 0.5, 1), -exponent)
    else:
        output = -uniform(seed + 8, shape) * exponent
    dtype = np.dtype(dtype)
    return rounded(grad, dtype), rounded(output, dtype)


# ---- Layouts -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How an array lies in memory.

    Attributes
    ----------
    order
        The axes, outermost first; empty for C order.
    steps
        Per axis, the distance between neighbors, in elements of a dense array; negative if
        backwards. Missing ones are 1.
    offset
        Bytes between an aligned address and the array.
    swapped
        Whether the bytes of each element are reversed.
    """

    order: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()
    offset: int = 0
    swapped: bool = False

    def place(self, values: Array) -> Array:
        """A copy of ``values`` in this layout; its ``base`` is all of its memory, full of NaN."""
        rank = values.ndim
        order = self.order or tuple(range(rank))
        steps = (self.steps + (1,) * rank)[:rank]
        dtype = values.dtype.newbyteorder() if self.swapped else values.dtype
        shape = tuple(values.shape[a] * abs(steps[a]) for a in order)
        size = math.prod(shape) * dtype.itemsize
        memory = np.full(size + 128, 0xFF, np.uint8)
        start = -memory.ctypes.data % 64 + self.offset
        base: Array = memory[start : start + size].view(dtype).reshape(shape)
        index: tuple[Any, ...] = (..., *(slice(None, None, step) for step in steps))
        base = base.transpose(np.argsort(order))[index]
        base[...] = values
        return base
