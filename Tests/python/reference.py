"""Exact results to judge swiftmax by, and the error of a result in ULP.

All five functions are computed in 80-bit (or wider) long double, with each step that could lose
more than a few of its 64 bits done in double words; logsumexp near a root goes through mpmath. The
results are long double arrays whose own error is below 0.01 ULP of float64. Inputs may have any
layout and dtype; ``where`` must broadcast to ``x``; ``axis`` is an int, a tuple of ints or None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Axis = int | tuple[int, ...] | None

if np.finfo(np.longdouble).nmant < 63:
    raise ImportError("the exact reference needs a long double of 80 bits or more")


# ---- The error of a result ----------------------------------------------------------------------


class Format(NamedTuple):
    """A binary format: bits of precision, and exponents of the smallest and largest normal."""

    precision: int
    min_exponent: int
    max_exponent: int


FORMATS = {
    "float16": Format(11, -14, 15),
    "bfloat16": Format(8, -126, 127),
    "float32": Format(24, -126, 127),
    "float64": Format(53, -1022, 1023),
}


# The largest error promised, in ULP. The 16-bit types are computed in float32 and rounded once.
BOUNDS = {"float32": 2.0, "float64": 2.0, "float16": 0.51, "bfloat16": 0.51}


def format_of(dtype: npt.DTypeLike) -> Format:
    """The format of a floating dtype of either byte order."""
    return FORMATS[np.dtype(dtype).name]


def widen(x: npt.ArrayLike) -> Array:
    """``x`` as long double, exactly."""
    x = np.asarray(x)
    if x.dtype.name == "bfloat16":
        x = x.astype(np.float32)
    return x.astype(np.longdouble)


@np.errstate(all="ignore")
def ulp(exact: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """The distance between neighbors of ``dtype`` in the binade of ``exact``."""
    fmt = format_of(dtype)
    exact = np.asarray(exact, np.longdouble)
    exponent = np.frexp(exact)[1] - 1
    exponent = np.where(exact == 0, fmt.min_exponent, exponent)
    exponent = np.clip(exponent, fmt.min_exponent, fmt.max_exponent)
    return np.asarray(np.ldexp(np.longdouble(1), exponent - (fmt.precision - 1)))


@np.errstate(all="ignore")
def ulp_error(
    result: npt.ArrayLike, exact: npt.ArrayLike, dtype: npt.DTypeLike | None = None
) -> Array:
    """The error of ``result``, in ULP of ``exact`` in ``dtype`` (that of ``result`` by default).

    An infinity or NaN must be matched; the error is infinite if it is not. An overflow counts as
    the power of two that follows the largest finite value.
    """
    dtype = np.asarray(result).dtype if dtype is None else dtype
    result, exact = np.broadcast_arrays(widen(result), np.asarray(exact, np.longdouble))
    limit = np.ldexp(np.longdouble(1), format_of(dtype).max_exponent + 1)
    error = np.abs(np.clip(result, -limit, limit) - np.clip(exact, -limit, limit))
    matches = (result == exact) | (np.isnan(result) & np.isnan(exact))
    unmatched = np.where(matches, np.longdouble(0), np.longdouble(np.inf))
    special = np.isnan(result) | ~np.isfinite(exact)
    return np.asarray(np.where(special, unmatched, error / ulp(exact, dtype)))


# ---- Double words of long doubles ---------------------------------------------------------------


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b rounded, and what the rounding lost (0 where there is no finite sum)."""
    total = a + b
    part = total - a
    error = (a - (total - part)) + (b - part)
    return total, np.where(np.isfinite(total), error, 0)


def _sum(terms: Array) -> tuple[Array, Array]:
    """The sum along the last axis, as a double word."""
    high, low = terms, np.zeros_like(terms)
    if high.shape[-1] == 0:
        high = low = np.zeros((*terms.shape[:-1], 1), np.longdouble)
    while high.shape[-1] > 1:
        if high.shape[-1] % 2:
            zero = np.zeros((*high.shape[:-1], 1), np.longdouble)
            high, low = np.append(high, zero, -1), np.append(low, zero, -1)
        half = high.shape[-1] // 2
        high, error = _two_sum(high[..., :half], high[..., half:])
        low = low[..., :half] + low[..., half:] + error
    return _two_sum(high[..., 0], low[..., 0])


def _split(x: Array) -> tuple[Array, Array]:
    """``x``, long doubles that float64 holds, as a sum of parts of 32 and 21 bits."""
    high = (x.astype(np.float64).view(np.int64) & ~((1 << 21) - 1)).view(np.float64)
    return high.astype(np.longdouble), x - high


def _dot(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum of a * b along the last axis, as a double word; each product is exact."""
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    rounded = a * b
    finite = np.isfinite(rounded)
    products = [np.where(finite, a_high * b_high, rounded)]
    products += [np.where(finite, p, 0) for p in (a_high * b_low, a_low * b_high, a_low * b_low)]
    return _sum(np.concatenate(products, axis=-1))


# ---- Slices as rows -----------------------------------------------------------------------------


class _Slices:
    """Turns arrays of one shape into matrices whose rows are the slices, and back."""

    def __init__(self, shape: tuple[int, ...], axis: Axis) -> None:
        rank = len(shape)
        if axis is None or rank == 0:
            axes = tuple(range(rank))
        else:
            given = axis if isinstance(axis, tuple) else (axis,)
            axes = tuple(sorted(a % rank for a in given))
        kept = tuple(a for a in range(rank) if a not in axes)
        self.order = kept + axes
        self.moved_shape = tuple(shape[a] for a in self.order)
        self.kept_shape = self.moved_shape[: len(kept)]
        self.kept_dims_shape = tuple(1 if a in axes else n for a, n in enumerate(shape))
        self.matrix_shape = (math.prod(self.kept_shape), math.prod(self.moved_shape[len(kept) :]))

    def rows(self, array: Array) -> Array:
        return np.ascontiguousarray(array.transpose(self.order).reshape(self.matrix_shape))

    def array(self, rows: Array) -> Array:
        return np.asarray(rows.reshape(self.moved_shape).transpose(np.argsort(self.order)))

    def reduced(self, values: Array, keepdims: bool) -> Array:
        return values.reshape(self.kept_dims_shape if keepdims else self.kept_shape)


class _Forward:
    """What the three forward functions share: x - max, its exponentials, and their sum."""

    def __init__(self, x: npt.ArrayLike, axis: Axis, where: npt.ArrayLike | None) -> None:
        x = np.asarray(x)
        self.slices = _Slices(x.shape, axis)
        mask = np.broadcast_to(np.asarray(True if where is None else where), x.shape)
        self.mask = self.slices.rows(mask)
        self.x = np.where(self.mask, self.slices.rows(widen(x)), -np.inf)
        self.max = self.x.max(axis=-1, initial=-np.inf)
        self.shifted, low = _two_sum(self.x, -self.max[:, None])
        self.terms = np.exp(self.shifted) * (1 + low)
        others = self.terms.copy()
        if others.shape[1]:
            np.put_along_axis(others, self.x.argmax(axis=-1)[:, None], 0, axis=-1)
        # The sum of all terms but that of one maximum, 1; NaN in a slice without a finite one.
        self.others = np.where(np.isfinite(self.max), others.sum(axis=-1), np.nan)

    def result(self, rows: Array, masked: float) -> Array:
        return self.slices.array(np.where(self.mask, rows, masked))


# ---- The five functions -------------------------------------------------------------------------


@np.errstate(all="ignore")
def softmax(x: npt.ArrayLike, axis: Axis = -1, where: npt.ArrayLike | None = None) -> Array:
    """Exact softmax; 0 where ``where`` is false."""
    forward = _Forward(x, axis, where)
    return forward.result(forward.terms / (1 + forward.others)[:, None], 0)


@np.errstate(all="ignore")
def log_softmax(x: npt.ArrayLike, axis: Axis = -1, where: npt.ArrayLike | None = None) -> Array:
    """Exact log_softmax; -inf where ``where`` is false."""
    forward = _Forward(x, axis, where)
    return forward.result(forward.shifted - np.log1p(forward.others)[:, None], -np.inf)


@np.errstate(all="ignore")
def logsumexp(
    x: npt.ArrayLike,
    axis: Axis = -1,
    where: npt.ArrayLike | None = None,
    *,
    keepdims: bool = False,
) -> Array:
    """Exact logsumexp; -inf for a slice without elements."""
    forward = _Forward(x, axis, where)
    logarithm = np.log1p(forward.others)
    result = np.where(np.isfinite(forward.max), forward.max + logarithm, forward.max)
    # Where max and the logarithm cancel, what is left of 64 bits may be too little for float64.
    for row in np.flatnonzero(np.abs(result) * 16 < logarithm):
        values = forward.x[row].astype(np.float64)
        result[row] = from_mpf(logsumexp_mp(values[values > -np.inf]))
    return forward.slices.reduced(result, keepdims)


@np.errstate(all="ignore")
def softmax_backward(grad_output: npt.ArrayLike, output: npt.ArrayLike, axis: Axis = -1) -> Array:
    """Exact output * (grad_output - sum(grad_output * output))."""
    slices = _Slices(np.shape(grad_output), axis)
    grad, y = slices.rows(widen(grad_output)), slices.rows(widen(output))
    total, total_low = _dot(grad, y)
    difference, low = _two_sum(grad, -total[:, None])
    return slices.array(y * (difference + (low - total_low[:, None])))


@np.errstate(all="ignore")
def log_softmax_backward(
    grad_output: npt.ArrayLike, output: npt.ArrayLike, axis: Axis = -1
) -> Array:
    """Exact grad_output - exp(output) * sum(grad_output)."""
    slices = _Slices(np.shape(grad_output), axis)
    grad, y = slices.rows(widen(grad_output)), slices.rows(widen(output))
    total, _ = _sum(grad)
    return slices.array(grad - np.exp(y) * total[:, None])


@np.errstate(all="ignore")
def softmax_backward_scale(
    grad_output: npt.ArrayLike, output: npt.ArrayLike, axis: Axis = -1
) -> Array:
    """The larger of the terms that softmax_backward subtracts: what its error is measured by."""
    slices = _Slices(np.shape(grad_output), axis)
    grad, y = slices.rows(widen(grad_output)), slices.rows(widen(output))
    total, _ = _dot(grad, y)
    return slices.array(np.abs(y) * np.maximum(np.abs(grad), np.abs(total)[:, None]))


@np.errstate(all="ignore")
def log_softmax_backward_scale(
    grad_output: npt.ArrayLike, output: npt.ArrayLike, axis: Axis = -1
) -> Array:
    """The larger of the terms that log_softmax_backward subtracts."""
    slices = _Slices(np.shape(grad_output), axis)
    grad, y = slices.rows(widen(grad_output)), slices.rows(widen(output))
    total, _ = _sum(grad)
    return slices.array(np.maximum(np.abs(grad), np.exp(y) * np.abs(total)[:, None]))


def exact(name: str, *arrays: npt.ArrayLike, **arguments: Any) -> Array:
    """The exact result of the function of that name."""
    function: Callable[..., Array] = globals()[name]
    return function(*arrays, **arguments)


def error_of(name: str, result: npt.ArrayLike, *arrays: npt.ArrayLike, **arguments: Any) -> Array:
    """The error of a call's result: in ULP of the exact value, or for a backward of its scale."""
    truth = exact(name, *arrays, **arguments)
    if not name.endswith("_backward"):
        return ulp_error(result, truth)
    result = np.asarray(result)
    scale = np.fmax(np.abs(truth), exact(name + "_scale", *arrays, **arguments))
    with np.errstate(all="ignore"):
        # Measured in units of the scale's binade, of which the result may be a small part.
        return ulp_error(result, truth) * (ulp(truth, result.dtype) / ulp(scale, result.dtype))


def check(name: str, result: Array, *arrays: npt.ArrayLike, **arguments: Any) -> float:
    """Raises an AssertionError if a call's result is further off than ``BOUNDS`` promise.

    Returns the largest error.
    """
    error = error_of(name, result, *arrays, **arguments)
    worst = float(np.max(error, initial=0))
    if worst > BOUNDS[result.dtype.name]:
        place = tuple(int(i) for i in np.argwhere(error == np.max(error))[0])
        raise AssertionError(f"{name}: {worst:.4g} ULP in {result.dtype}, at {place}")
    return worst


# ---- The same in mpmath, for one slice of a few finite values ------------------------------------


def from_mpf(value: Any) -> np.longdouble:
    """An mpmath number, rounded to long double."""
    high = float(value)
    return np.longdouble(high) + np.longdouble(float(value - mpmath.mpf(high)))


def _vector_mp(x: npt.ArrayLike) -> list[Any]:
    return [mpmath.mpf(float(value)) for value in np.asarray(x)]


def _parts_mp(x: npt.ArrayLike) -> tuple[list[Any], Any]:
    """x - max, and log(sum(exp(x - max)))."""
    values = _vector_mp(x)
    first = max(range(len(values)), key=values.__getitem__)
    shifted = [v - values[first] for v in values]
    others = mpmath.fsum(mpmath.exp(d) for i, d in enumerate(shifted) if i != first)
    return shifted, mpmath.log1p(others)


def softmax_mp(x: npt.ArrayLike) -> list[Any]:
    """softmax of a vector."""
    with mpmath.workdps(80):
        shifted, logarithm = _parts_mp(x)
        return [mpmath.exp(d - logarithm) for d in shifted]


def log_softmax_mp(x: npt.ArrayLike) -> list[Any]:
    """log_softmax of a vector."""
    with mpmath.workdps(80):
        shifted, logarithm = _parts_mp(x)
        return [d - logarithm for d in shifted]


def logsumexp_mp(x: npt.ArrayLike) -> Any:
    """logsumexp of a vector."""
    with mpmath.workdps(80):
        _, logarithm = _parts_mp(x)
        return max(_vector_mp(x)) + logarithm


def softmax_backward_mp(grad_output: npt.ArrayLike, output: npt.ArrayLike) -> list[Any]:
    """softmax_backward of a vector."""
    grad, y = _vector_mp(grad_output), _vector_mp(output)
    with mpmath.workdps(80):
        total = mpmath.fdot(grad, y)
        return [b * (a - total) for a, b in zip(grad, y, strict=True)]


def log_softmax_backward_mp(grad_output: npt.ArrayLike, output: npt.ArrayLike) -> list[Any]:
    """log_softmax_backward of a vector."""
    grad, y = _vector_mp(grad_output), _vector_mp(output)
    with mpmath.workdps(80):
        total = mpmath.fsum(grad)
        return [a - mpmath.exp(b) * total for a, b in zip(grad, y, strict=True)]
