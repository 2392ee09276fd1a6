"""NaN, infinities, empty slices and extremes; no warning; no trace of the floating-point modes."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import reference
import swiftmax
from inputs import BACKWARD, DTYPES, FAMILIES, FORWARD, Array, gradients, logits

NAN, INF = float("nan"), float("inf")

# Beside the ends of vectors of every width, and beside those of blocks.
LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 64, 65, 70, 127, 200, 4096, 4097, 4103]


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    """NumPy raises on any floating-point flag, and a warning is an error."""
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def call(name: str, *arrays: Any, **arguments: Any) -> Array:
    return np.asarray(getattr(swiftmax, name)(*arrays, **arguments))


def check(name: str, *arrays: Array, **arguments: Any) -> Array:
    """The result of a call, found to be right, NaN and infinities included."""
    result = call(name, *arrays, **arguments)
    reference.check(name, result, *arrays, **arguments)
    return result


def positions(length: int) -> list[int]:
    return sorted({0, 1, length // 2, length - 2, length - 1} & set(range(length)))


# ---- NaN and infinities -------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_one_special_value_anywhere(name: str, dtype: str, length: int) -> None:
    """It counts for its own slice alone: for a row, and for one column of several."""
    for special in [NAN, INF, -INF]:
        for position in positions(length):
            x = logits("normal", length, (3, length), dtype)
            expected = call(name, x)
            x[1, position] = special
            rows = check(name, x)
            columns = check(name, np.ascontiguousarray(x.T), axis=0)
            for i in (0, 2):
                assert rows[i].tobytes() == expected[i].tobytes()
            assert np.array_equal(columns.T.astype("f8"), rows.astype("f8"), equal_nan=True)


@pytest.mark.parametrize("special", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_a_special_value_beside_any_other(name: str, dtype: str, special: float) -> None:
    """In rows of two, and in columns, beside values of every magnitude."""
    fmt = reference.format_of(dtype)
    ordinary = np.linspace(-1500, 1500, 3001)
    powers = np.ldexp(1.0, np.arange(fmt.min_exponent - 5, fmt.max_exponent + 1))
    with np.errstate(under="ignore"):
        others = np.concatenate([ordinary, powers, -powers]).astype(dtype)
    x = np.stack([np.full_like(others, special), others], axis=1)
    check(name, x)
    check(name, x[:, ::-1])
    check(name, x.T, axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("x", "softmax", "log_softmax", "logsumexp"),
    [
        ([NAN], [NAN], [NAN], NAN),
        ([INF], [NAN], [NAN], INF),
        ([-INF], [NAN], [NAN], -INF),
        ([-INF, -INF], [NAN, NAN], [NAN, NAN], -INF),
        ([INF, INF], [NAN, NAN], [NAN, NAN], INF),
        ([INF, -INF], [NAN, NAN], [NAN, NAN], INF),
        ([0, INF], [NAN, NAN], [NAN, NAN], INF),
        ([NAN, INF], [NAN, NAN], [NAN, NAN], NAN),
        ([-INF, NAN], [NAN, NAN], [NAN, NAN], NAN),
        ([5, -INF], [1, 0], [0, -INF], 5),
        ([-INF, -5, -INF], [0, 1, 0], [-INF, 0, -INF], -5),
        ([0], [1], [0], 0),
        ([-0.0], [1], [0], 0),
    ],
)
def test_the_table_of_special_slices(
    dtype: str, x: list[float], softmax: list[float], log_softmax: list[float], logsumexp: float
) -> None:
    array = np.array(x, dtype)
    table: dict[str, Any] = {
        "softmax": softmax,
        "log_softmax": log_softmax,
        "logsumexp": logsumexp,
    }
    for name, expected in table.items():
        assert np.array_equal(call(name, array).astype("f8"), expected, equal_nan=True), name
        repeated = np.repeat(array[:, None], 40, axis=1)
        columns = call(name, repeated, axis=0).astype("f8")
        assert np.array_equal(columns, np.stack([expected] * 40, axis=-1), equal_nan=True), name


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", [NAN, INF, -INF])
def test_a_slice_of_one_special_value(special: float, dtype: str, length: int) -> None:
    x = logits("normal", length, (3, length), dtype)
    x[1] = special
    for name in FORWARD:
        check(name, x)
        check(name, np.ascontiguousarray(x.T), axis=0)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
def test_nan_in_the_backward_counts_for_its_slice_alone(name: str, dtype: str, length: int) -> None:
    for which in (0, 1):
        for position in positions(length):
            arrays = gradients(name, length, (3, length), dtype)
            expected = call(name, *arrays)
            arrays[which][1, position] = NAN
            for result in (call(name, *arrays), call(name, *[a.T for a in arrays], axis=0).T):
                assert result[0].tobytes() == expected[0].tobytes()
                assert result[2].tobytes() == expected[2].tobytes()
                poisoned = np.isnan(result[1])
                assert (
                    poisoned.all()
                    if name == "softmax_backward" or which == 0
                    else poisoned[position]
                )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
def test_the_backward_of_masked_elements(name: str, dtype: str) -> None:
    """softmax's 0 and log_softmax's -inf pass no gradient on beyond their own."""
    grad = np.array([1, 2, 3, 4], dtype)
    x = np.array([0.5, -INF, 1, -INF], dtype)
    output = call(name.removesuffix("_backward"), x)
    result = check(name, grad, output).astype("f8")
    assert result[1] == (0 if name == "softmax_backward" else 2)
    assert result[3] == (0 if name == "softmax_backward" else 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_elements_beside_nan(dtype: str) -> None:
    """The log_softmax_backward of masked elements, whatever NaN another element or slice has."""
    grad, output = gradients("log_softmax_backward", 1, (400, 1031), dtype)
    kinds = np.random.default_rng(1).random(output.shape)
    masked = kinds < 0.015
    output[masked] = -INF
    output[kinds > 0.985] = NAN
    for axis in (0, 1):
        result = call("log_softmax_backward", grad, output, axis=axis)
        assert result[masked].tobytes() == grad[masked].tobytes()


# ---- where --------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_what_where_leaves_out_does_not_count(name: str, dtype: str, length: int) -> None:
    x = logits("normal", length, (3, length), dtype)
    where = np.ones(x.shape, bool)
    where[0, length // 2] = where[2, length - 1] = False
    expected = check(name, x, where=where)
    for special in [NAN, INF, -INF, reference.ulp(1e300, dtype)]:
        spoilt = x.copy()
        spoilt[~where] = np.asarray(special, dtype)
        assert call(name, spoilt, where=where).tobytes() == expected.tobytes()
        columns = call(name, np.asfortranarray(spoilt.T), axis=0, where=where.T)
        assert columns.T.tobytes() == expected.tobytes()


@pytest.mark.parametrize("length", [*LENGTHS, 0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_slice_with_nothing_left(dtype: str, length: int) -> None:
    x = np.full((2, length), NAN, dtype)
    assert not call("softmax", x, where=False).any()
    assert (call("log_softmax", x, where=False) == -INF).all()
    assert (call("logsumexp", x, where=False) == -INF).all()
    one = np.zeros((2, length), bool)
    one[:, -1:] = True
    x[:, -1:] = 3
    for name in FORWARD:
        check(name, x, where=one)


@pytest.mark.parametrize("dtype", DTYPES)
def test_where_leaves_a_row_of_negative_infinity(dtype: str) -> None:
    """Elements take part, so it is NaN; where none does, it is 0."""
    x = np.array([[-INF, 5], [-INF, 5]], dtype)
    where = np.array([[True, False], [False, False]])
    result = call("softmax", x, where=where).astype("f8")
    assert np.array_equal(result, [[NAN, 0.0], [0.0, 0.0]], equal_nan=True)
    result = call("log_softmax", x, where=where).astype("f8")
    assert np.array_equal(result, [[NAN, -INF], [-INF, -INF]], equal_nan=True)


# ---- Sizes of 0 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 0)])
def test_no_element(shape: tuple[int, ...], dtype: str) -> None:
    x = np.zeros(shape, dtype)
    for axis in [*range(-len(shape), len(shape)), None, (), tuple(range(len(shape)))]:
        for name in ["softmax", "log_softmax"]:
            assert call(name, x, axis=axis).shape == shape
            assert call(name, x, axis=axis, where=x == 0).shape == shape
        for name in BACKWARD:
            assert call(name, x, x, axis=axis).shape == shape
        for keepdims in (False, True):
            result = call("logsumexp", x, axis=axis, keepdims=keepdims)
            assert result.shape == x.sum(axis=axis, keepdims=keepdims).shape
            assert (result == -INF).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_axis_makes_each_element_a_slice(dtype: str) -> None:
    x = logits("wide", 1, (3, 50), dtype)
    assert (call("softmax", x, axis=()) == 1).all()
    assert (call("log_softmax", x, axis=()) == 0).all()
    assert call("logsumexp", x, axis=()).tobytes() == x.tobytes()
    assert not call("softmax_backward", x, np.ones_like(x), axis=()).any()


# ---- Extremes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_extreme_values_raise_no_flag(name: str, dtype: str) -> None:
    fmt = reference.format_of(dtype)
    largest = (2 - 2.0 ** (1 - fmt.precision)) * 2.0**fmt.max_exponent
    least = float(np.ldexp(np.longdouble(1), fmt.min_exponent - fmt.precision + 1))
    for x in (
        [largest, -largest, 0],
        [largest, largest],
        [-largest, -largest],
        [least, -least, 0],
        [least],
        [largest, least],
        [0, -1e4],
        [0, -60000],
        [1e4, 1e4, 1e4 - 16],
        [-1e4, -1e4],
    ):
        for length in (len(x), 40, 100):
            check(name, np.resize(np.array(x, dtype), length))
            columns = np.repeat(np.resize(np.array(x, dtype), length)[:, None], 33, axis=1)
            check(name, columns, axis=0)


@pytest.mark.parametrize("offset", [1e4, -1e4, 1e5, 1e6, -1e6, 1e9, 1e20, 3e38, -3e38])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORWARD)
def test_offsets(name: str, dtype: str, offset: float) -> None:
    for length in (3, 70):
        steps = np.arange(length, dtype=dtype) * np.spacing(np.array(abs(offset), dtype))
        check(name, (np.array(offset, dtype) - steps).astype(dtype))
        alone = np.full(length, -offset / 2, dtype)
        alone[length // 2] = offset
        check(name, alone)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_large_values_among_small_ones(name: str, dtype: str) -> None:
    """One value beyond the range of the cheap argument reduction, in each place of a row."""
    for length in (5, 16, 33, 100):
        for large in (2e4, -2e4, 6e4, -6e4):
            for position in positions(length):
                x = logits("normal", length, (length,), dtype)
                x[position] = np.array(large, dtype)
                check(name, x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("name", FORWARD)
def test_no_family_raises_a_flag(name: str, family: str, dtype: str) -> None:
    check(name, logits(family, 11, (7, 77), dtype))
    check(name, logits(family, 12, (77, 37), dtype), axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
def test_no_backward_raises_a_flag(name: str, dtype: str) -> None:
    for spread in (0.1, 1, 6, 30):
        arrays = gradients(name, 3, (7, 77), dtype, spread)
        check(name, *arrays)
        check(name, *arrays, axis=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_of_the_largest_values(dtype: str) -> None:
    """No intermediate overflows where the result does not."""
    fmt = reference.format_of(dtype)
    largest = (2 - 2.0 ** (1 - fmt.precision)) * 2.0**fmt.max_exponent
    for length in (2, 4, 64, 130, 5000, 70_001):
        grad = np.full(length, largest, dtype)
        even = np.full(length, 1 / length, dtype)
        check("softmax_backward", grad, even)
        grad[::2] = -grad[::2] / 4
        check("softmax_backward", grad, even)
        check("log_softmax_backward", grad, np.full(length, -np.log(length) - 1, dtype))


@pytest.mark.parametrize("length", [33, 700, 9000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
def test_a_sum_beyond_the_range_among_others(name: str, dtype: str, length: int) -> None:
    """Such rows are computed with more care, and leave those around them alone."""
    fmt = reference.format_of(dtype)
    grad, output = gradients(name, 1, (90, length), dtype)
    for row in (0, 7, 8, 63, 89):
        grad[row] = 2.0 ** (fmt.max_exponent - 4)
    grad[40, 3] = np.inf
    function = getattr(swiftmax, name)
    result = function(grad, output)
    rows = [function(grad[row], output[row]) for row in range(90)]
    assert np.array_equal(result, rows, equal_nan=True)
    columns = function(np.asfortranarray(grad), np.asfortranarray(output))
    assert np.array_equal(result, columns, equal_nan=True)
    ordinary = [row for row in range(90) if row != 40]
    reference.check(name, result[ordinary], grad[ordinary], output[ordinary])


# ---- The caller's floating-point modes -----------------------------------------------------------


libm = ctypes.CDLL(ctypes.util.find_library("m"))
ON_X86 = platform.machine() == "x86_64" and platform.system() == "Linux"

MODES = {"to nearest": 0, "downward": 0x400, "upward": 0x800, "toward zero": 0xC00}
FLUSH_TO_ZERO = 0x8040
MXCSR_WORD = 7  # of glibc's fenv_t, in 32-bit words


@contextmanager
def modes(rounding: int, mxcsr: int = 0) -> Iterator[None]:
    """A rounding mode, and bits added to the control word of SSE."""
    saved = (ctypes.c_uint32 * 8)()
    changed = (ctypes.c_uint32 * 8)()
    libm.fegetenv(ctypes.byref(saved))
    libm.fesetround(rounding)
    libm.fegetenv(ctypes.byref(changed))
    changed[MXCSR_WORD] |= mxcsr
    libm.fesetenv(ctypes.byref(changed))
    try:
        yield
    finally:
        libm.fesetenv(ctypes.byref(saved))


def control_word() -> int:
    current = (ctypes.c_uint32 * 8)()
    libm.fegetenv(ctypes.byref(current))
    return current[MXCSR_WORD] & ~0x3F


@pytest.mark.skipif(not ON_X86, reason="the words of fenv_t are those of glibc on x86-64")
@pytest.mark.parametrize("flush", [0, FLUSH_TO_ZERO], ids=["", "flush-to-zero"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_callers_modes_do_not_matter(dtype: str, mode: str, flush: int) -> None:
    """The same bits in any rounding mode, subnormals flushed or not; the modes stay as they are."""
    cases: list[tuple[str, tuple[Array, ...]]] = []
    for name in FORWARD:
        for family in ["normal", "subnormal_results", "offset_1e4"]:
            for shape in [(3, 50), (40, 5000)]:
                cases.append((name, (logits(family, 2, shape, dtype),)))
        cases.append((name, (logits("tiny", 2, (3, 50), dtype),)))
    cases += [(name, gradients(name, 2, (3, 50), dtype)) for name in BACKWARD]
    expected = [call(name, *arrays).tobytes() for name, arrays in cases]
    with modes(MODES[mode], flush):
        before = control_word()
        found = [call(name, *arrays).tobytes() for name, arrays in cases]
        after = control_word()
    assert after == before
    for (name, arrays), one, other in zip(cases, found, expected, strict=True):
        assert one == other, (name, arrays[0].shape)


@pytest.mark.skipif(not ON_X86, reason="the words of fenv_t are those of glibc on x86-64")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_callers_flags_are_left_alone(dtype: str) -> None:
    x = logits("subnormal_results", 2, (3, 50), dtype)
    x[1, 7] = NAN
    libm.feclearexcept(0x3D)
    call("softmax", x)
    assert libm.fetestexcept(0x3D) == 0
    libm.feraiseexcept(0x10)
    call("log_softmax", x)
    assert libm.fetestexcept(0x3D) == 0x10
    libm.feclearexcept(0x3D)
