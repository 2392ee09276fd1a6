"""Values of all five functions, for any shape, layout, axis and argument, against exact ones."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest
import reference
import strategies
import swiftmax
from hypothesis import given
from hypothesis import strategies as st
from inputs import BACKWARD, DTYPES, FAMILIES, FORWARD, Array, Shape, gradients, logits, uniform
from reference import check

# Around the ends of vectors, of the 64 partial sums, and of blocks; and a vocabulary.
LENGTHS = [1, 2, 3, 15, 16, 17, 63, 64, 65, 1023, 1024, 1025, 4095, 4096, 4097]
LONG_LENGTHS = [8191, 8193, 32767, 32768, 32769, 65537, 128256]


def call(name: str, *arrays: Any, **arguments: Any) -> Array:
    result: Array = getattr(swiftmax, name)(*arrays, **arguments)
    return result


def forward_arguments(data: st.DataObject, name: str) -> dict[str, Any]:
    return {"keepdims": data.draw(st.booleans())} if name == "logsumexp" else {}


# ---- The oracle ---------------------------------------------------------------------------------


def mp_error(exact: Any, value: np.longdouble) -> float:
    """The error of a long double, in ULP of float64."""
    mantissa, exponent = np.frexp(value)
    high = float(mantissa)
    low = float(mantissa - np.longdouble(high))
    error = abs(mpmath.ldexp(mpmath.mpf(high) + low, int(exponent)) - exact)
    return float(error / mpmath.mpf(float(reference.ulp(value, np.float64))))


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_the_reference_agrees_with_mpmath(name: str, family: str) -> None:
    for seed, length in [(1, 1), (2, 2), (3, 7), (4, 40)]:
        arrays: tuple[Array, ...] = (logits(family, seed, (length,), np.float64),)
        if name in BACKWARD:
            arrays = gradients(name, seed, (length,), np.float64)
        found = np.atleast_1d(reference.exact(name, *arrays))
        exact = getattr(reference, name + "_mp")(*arrays)
        with mpmath.workdps(60):
            for value, truth in zip(
                found, exact if isinstance(exact, list) else [exact], strict=True
            ):
                assert mp_error(truth, value) < 0.01


def test_the_error_in_ulp_is_what_it_says() -> None:
    for dtype in DTYPES:
        one = np.array(1, dtype)
        fmt = reference.format_of(dtype)
        spacing = 2.0 ** (1 - fmt.precision)
        least = np.ldexp(np.longdouble(1), fmt.min_exponent - fmt.precision + 1)
        assert reference.ulp_error(one, 1) == 0
        assert reference.ulp_error(np.array(1 + spacing, dtype), 1) == 1
        assert reference.ulp_error(one, np.longdouble(1) - spacing) == 2
        assert reference.ulp_error(np.array(0, dtype), least / 4) == 0.25
        assert reference.ulp_error(np.array(np.inf, dtype), np.ldexp(1.0, fmt.max_exponent)) > 2
        assert reference.ulp_error(np.array(np.nan, dtype), 1) == np.inf
        assert reference.ulp_error(np.array(np.nan, dtype), np.nan) == 0
        assert reference.ulp_error(np.array(-np.inf, dtype), np.inf) == np.inf
        assert reference.ulp_error(one, np.inf) == np.inf


# ---- Everything, at random ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@given(data=st.data())
def test_any_array(name: str, dtype: str, data: st.DataObject) -> None:
    shape = data.draw(strategies.shapes())
    values = data.draw(strategies.inputs(name, dtype, shape))
    arrays = [data.draw(strategies.placed(array)) for array in values]
    arguments: dict[str, Any] = {"axis": data.draw(strategies.axes(len(shape)))}
    if name in FORWARD:
        arguments |= forward_arguments(data, name)
        if data.draw(st.booleans()):
            arguments["where"] = data.draw(strategies.masks(shape))
    copies = [array.copy() for array in arrays]
    result = call(name, *arrays, **arguments)
    assert result.dtype == np.dtype(dtype)
    assert result.dtype.isnative
    check(name, result, *arrays, **arguments)
    for array, copy in zip(arrays, copies, strict=True):
        assert array.tobytes() == copy.tobytes()


@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_out_in_any_layout(name: str, data: st.DataObject, dtype: str) -> None:
    shape = data.draw(strategies.shapes())
    arrays = data.draw(strategies.inputs(name, dtype, shape))
    arguments: dict[str, Any] = {"axis": data.draw(strategies.axes(len(shape)))}
    if name in FORWARD:
        arguments |= forward_arguments(data, name)
        if data.draw(st.booleans()):
            arguments["where"] = data.draw(strategies.masks(shape))
    expected = call(name, *arrays, **arguments)
    out = data.draw(strategies.placed(np.zeros_like(expected), repeat=False))
    memory = out.base
    assert memory is not None
    before = memory.copy()
    assert call(name, *arrays, out=out, **arguments) is out
    assert out.astype(dtype).tobytes() == expected.tobytes()
    out[...] = 0
    assert memory.tobytes() == before.tobytes(), "written outside of out"


@pytest.mark.parametrize("name", ["softmax", "log_softmax", *BACKWARD])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_in_place(name: str, data: st.DataObject, dtype: str) -> None:
    shape = data.draw(strategies.shapes())
    values = data.draw(strategies.inputs(name, dtype, shape))
    arrays = [data.draw(strategies.placed(array, repeat=False)) for array in values]
    axis = data.draw(strategies.axes(len(shape)))
    expected = call(name, *arrays, axis=axis)
    out = data.draw(st.sampled_from(arrays))
    assert call(name, *arrays, axis=axis, out=out) is out
    assert out.astype(dtype).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_overlapping_out(name: str, data: st.DataObject, dtype: str) -> None:
    """out= may begin before or after an input in the same memory, or run against it."""
    rows, columns = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 70)))
    size = rows * columns
    memory = logits("normal", data.draw(strategies.seeds), (3 * size,), dtype)

    def window(shape: Shape) -> Array:
        count = int(np.prod(shape))
        start = data.draw(st.integers(0, 2 * size))
        step = data.draw(st.sampled_from([1, 1, -1]))
        part = memory[start : start + count][::step]
        return part.reshape(shape) if data.draw(st.booleans()) else part.reshape(shape[::-1]).T

    axis = data.draw(st.sampled_from([0, 1, None]))
    arrays = [window((rows, columns)) for _ in range(2 if name in BACKWARD else 1)]
    arguments: dict[str, Any] = {"axis": axis}
    if name == "logsumexp":
        out = window({0: (columns,), 1: (rows,), None: ()}[axis])
    else:
        out = window((rows, columns))
    expected = call(name, *[array.copy() for array in arrays], **arguments)
    call(name, *arrays, out=out, **arguments)
    assert out.tobytes() == expected.tobytes()


@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_where_overlapping_out(data: st.DataObject, dtype: str) -> None:
    """A mask that lies in the memory of out= is read before it is written over."""
    memory = np.zeros(64 * np.dtype(dtype).itemsize, np.uint8)
    out = memory.view(dtype)
    mask = memory[data.draw(st.integers(0, memory.size - 64)) :][:64].view(bool)
    mask[...] = np.arange(64) % data.draw(st.integers(1, 9)) == 0
    x = logits("normal", data.draw(strategies.seeds), (64,), dtype)
    expected = swiftmax.softmax(x, where=mask.copy())
    swiftmax.softmax(x, where=mask, out=out)
    assert out.tobytes() == expected.tobytes()


# ---- dtype= and other dtypes --------------------------------------------------------------------


@pytest.mark.parametrize("name", FORWARD)
@given(
    data=st.data(), source=st.sampled_from([*DTYPES, *"?bBhHiIqQ"]), dtype=st.sampled_from(DTYPES)
)
def test_dtype_casts_first(name: str, data: st.DataObject, source: str, dtype: str) -> None:
    shape = data.draw(strategies.shapes())
    x = (logits("normal", data.draw(strategies.seeds), shape, np.float64) * 20).astype(np.int8)
    x = data.draw(strategies.placed(x.astype(source)))
    axis = data.draw(strategies.axes(x.ndim))
    with np.errstate(over="ignore"):
        result = call(name, x, axis=axis, dtype=dtype)
        expected = call(name, x.astype(dtype), axis=axis)
    assert result.dtype == np.dtype(dtype)
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("source", "?bBhHiIlLqQ")
def test_integers_become_float64(name: str, source: str) -> None:
    x = np.arange(24).reshape(4, 6).astype(source)
    result = call(name, x, axis=0)
    assert result.dtype == np.float64
    check(name, result, x.astype(np.float64), axis=0)


@pytest.mark.parametrize("name", FORWARD)
def test_large_integers_round_to_float64(name: str) -> None:
    x = np.array([2**63 - 1, 2**63 - 2**10, -(2**63)], np.int64)
    check(name, call(name, x), x.astype(np.float64))


# ---- Lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_lengths(name: str, dtype: str, length: int) -> None:
    for seed, family in enumerate(sorted(FAMILIES)):
        for shape, axis in [((2, length), 1), ((length, 3), 0)]:
            arrays: tuple[Array, ...]
            if name in BACKWARD:
                arrays = gradients(name, seed, shape, dtype, spread=seed / 4)
            else:
                arrays = (logits(family, seed, shape, dtype),)
            check(name, call(name, *arrays, axis=axis), *arrays, axis=axis)


@pytest.mark.parametrize("length", LONG_LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_long_lengths(name: str, dtype: str, length: int) -> None:
    for seed, family in enumerate(["normal", "logits"]):
        shape, axis = [((1, length), 1), ((length, 2), 0)][seed]
        arrays: tuple[Array, ...]
        if name in BACKWARD:
            arrays = gradients(name, seed, shape, dtype)
        else:
            arrays = (logits(family, seed, shape, dtype),)
        check(name, call(name, *arrays, axis=axis), *arrays, axis=axis)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_millions_of_elements(name: str, dtype: str) -> None:
    # Exact sums of products take long.
    x = logits("logits", 1, (10_000_000 if name in FORWARD else 2_000_000,), dtype)
    if name in FORWARD:
        check(name, call(name, x), x)
    else:
        output = call(name.removesuffix("_backward"), x)
        check(name, call(name, x, output), x, output)


@pytest.mark.parametrize("columns", [1, 2, 7, 15, 16, 17, 63, 65, 200, 1025])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_first_axis(name: str, dtype: str, columns: int) -> None:
    shape = (66, columns)
    arrays: tuple[Array, ...]
    arrays = (
        gradients(name, columns, shape, dtype)
        if name in BACKWARD
        else (logits("logits", columns, shape, dtype),)
    )
    check(name, call(name, *arrays, axis=0), *arrays, axis=0)


# ---- Accuracy where peers lose it ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [1, 10, 16, 17, 20, 30, 40, 80, 100, 500, 700, 740])
def test_log_softmax_next_to_0(gap: int, dtype: str) -> None:
    """The largest element's result is -log1p(exp(-gap)), which a sum in float rounds to 0."""
    for x in ([0, -gap], [-gap, 0, -gap], [gap, 0], [0] + [-gap] * 100):
        check("log_softmax", call("log_softmax", np.array(x, dtype)), np.array(x, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [2, 7, 20, 33, 100, 700, 4097])
@pytest.mark.parametrize("gap", [0.5, 2, 4, 9, 16, 20, 30, 60, 100])
def test_log_softmax_of_an_element_far_above_others(length: int, gap: float, dtype: str) -> None:
    """Where all digits of the sum of the others show in the largest result."""
    for seed in range(3):
        x = logits("normal", seed, (40, length), dtype)
        x[:, seed % length] = x.max() + gap
        for name in ("log_softmax", "logsumexp"):
            error = check(name, call(name, x, axis=1), x, axis=1)
            # So far above, the largest result is that sum itself, rounded once.
            assert gap < 60 or error < 1
            assert call(name, x.T, axis=0).T.tobytes() == call(name, x, axis=1).tobytes()


@pytest.mark.parametrize("length", [64, 1000, 4096, 20000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
def test_ties_below_the_largest_element(name: str, dtype: str, length: int) -> None:
    """All of them are rounded alike in a running sum, wherever they fall below its last place."""
    count = max(12, 200_000 // length)
    x = np.repeat(uniform(length, (count, 1), -26, -1), length, axis=1).astype(dtype)
    x[:, length // 3] = 0
    result = call(name, x, axis=1)
    check(name, result, x, axis=1)
    assert call(name, np.ascontiguousarray(x.T), axis=0).T.tobytes() == result.tobytes()


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_softmax_of_float32_keeps_its_closer_bound(family: str) -> None:
    """1 ULP, of equal elements and subnormal results too; 1.8 at worst (docs/numerics.md)."""
    if swiftmax.show_config("dicts")["isa"] == "baseline":
        pytest.skip("without FMA exp is that of float64, and the bound 2 ULP")
    for length in [2, 7, 40, 65, 1000, 5000]:
        x = logits(family, length, (max(2, 40_000 // length), length), "float32")
        for logit in (x, np.repeat(x[:, :1], length, axis=1)):
            assert check("softmax", call("softmax", logit), logit) <= 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["log_softmax", "logsumexp"])
@pytest.mark.parametrize("length", [16, 48, 49, 200, 4100, 9000])
def test_one_maximum_is_left_out(length: int, name: str, dtype: str) -> None:
    """Of one or many, near the others or so far above that these are summed again, or nothing."""
    rng = np.random.default_rng(length)
    x = rng.standard_normal((40, length)) * rng.choice([0, 0.1, 3], (40, 1))
    above = np.repeat([0, 1, 3, 8, 30, 60, 85, 100, 200, 1e4], 4)[:, None]
    places = rng.integers(0, length, (40, 3))[:, : 1 + length % 3]
    top = x.max(axis=1, keepdims=True) + above
    np.put_along_axis(x, places, np.broadcast_to(top, places.shape), axis=1)
    x[::7, : length // 2] = -np.inf
    x = (x + rng.choice([0, -100, 1500, -3000], (40, 1))).astype(dtype)
    result = call(name, x, axis=1)
    check(name, result, x, axis=1)
    columns = call(name, np.ascontiguousarray(x.T), axis=0)
    assert np.ascontiguousarray(columns.T).tobytes() == result.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_softmax_with_subnormal_results(dtype: str) -> None:
    """-log1p(exp(-gap)) where that is subnormal, or about to be 0."""
    fmt = reference.format_of(np.dtype(dtype))
    low = (fmt.min_exponent - fmt.precision) * np.log(2)
    x = np.zeros((4000, 2), dtype)
    x[:, 0] = uniform(1, (4000,), low, low * 0.9)
    x += uniform(2, (4000, 1), -3, 3).astype(dtype)
    check("log_softmax", call("log_softmax", x), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [2, 3, 10, 100, 5000])
def test_logsumexp_next_to_0(length: int, dtype: str) -> None:
    """x = -log(length) + d, whose logsumexp is about d."""
    for offset in [0, 1e-3, -1e-3, 1e-9]:
        x = np.full(length, -np.log(length) + offset).astype(dtype)
        x[0] += np.array(offset, dtype)
        check("logsumexp", np.asarray(call("logsumexp", x)), x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("length", [2, 3, 8, 9, 16, 17, 40])
def test_logsumexp_at_any_distance_from_0(length: int, dtype: str) -> None:
    """The sums in twice the precision, and the exact ones, meet where either may be taken."""
    rng = np.random.default_rng(length)
    x = rng.standard_normal((96, length)) * rng.choice([0.1, 1, 5], (96, 1))
    distance = 10.0 ** rng.uniform(-14, 0, (96, 1)) * rng.choice([-1, 1], (96, 1))
    x = (x - reference.logsumexp(x, keepdims=True) + distance).astype(dtype)
    rows = call("logsumexp", x)
    check("logsumexp", rows, x)
    columns = call("logsumexp", np.ascontiguousarray(x.T), axis=0)
    assert rows.tobytes() == columns.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormal_results_are_exact_to_the_last_place(dtype: str) -> None:
    fmt = reference.format_of(dtype)
    low = (fmt.min_exponent - fmt.precision - 1) * np.log(2)
    x = np.stack([np.linspace(low, fmt.min_exponent * np.log(2) + 1, 999), np.zeros(999)], axis=1)
    x = x.astype(dtype)
    result = call("softmax", x)
    assert np.count_nonzero(result[:, 0].astype(np.float64)) > 800
    check("softmax", result, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_largest_finite_values(dtype: str) -> None:
    fmt = reference.format_of(dtype)
    largest = (2 - 2.0 ** (1 - fmt.precision)) * 2.0**fmt.max_exponent
    for x in ([largest, -largest], [largest, largest, 0], [-largest] * 3, [largest], [-largest, 0]):
        for name in FORWARD:
            array = np.array(x, dtype)
            check(name, np.asarray(call(name, array)), array)
