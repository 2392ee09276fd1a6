"""The same slice gives the same bytes, wherever it lies and whatever computes it."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import strategies
import swiftmax
from hypothesis import given
from hypothesis import strategies as st
from inputs import BACKWARD, DTYPES, FAMILIES, FORWARD, Array, gradients, logits

BATCHES = [(), (1,), (3,), (17,), (70,), (2, 3), (3, 17), (70, 2), (5, 2, 2)]
SMALL_BATCHES = [(), (2,), (3,), (2, 2)]
LENGTHS = [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 100, 127, 129, 1000, 4095, 4096, 4097, 9000]


def call(name: str, arrays: list[Array], **arguments: Any) -> Array:
    return np.asarray(getattr(swiftmax, name)(*arrays, **arguments))


def operands(name: str, seed: int, family: str, shape: tuple[int, ...], dtype: str) -> list[Array]:
    """The array arguments of a call."""
    if name in BACKWARD:
        return list(gradients(name, seed, shape, dtype))
    return [logits(family, seed, shape, dtype)]


# ---- One slice, anywhere ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@given(data=st.data())
def test_any_place(name: str, dtype: str, data: st.DataObject, threads: None) -> None:
    """A slice along any axis of any batch in any layout, among neighbors of any kind."""
    length = data.draw(st.one_of(st.sampled_from(LENGTHS), st.integers(1, 300)))
    seed, family = data.draw(strategies.seeds), data.draw(strategies.families)
    alone = operands(name, seed, family, (length,), dtype)
    swiftmax.set_num_threads(1)
    expected = call(name, alone).tobytes()

    batch = data.draw(st.sampled_from(BATCHES if length <= 300 else SMALL_BATCHES))
    split = data.draw(st.integers(0, len(batch)))
    before, after = batch[:split], batch[split:]
    shape = (*before, length, *after)
    neighbors = data.draw(
        st.sampled_from(["normal", "huge", "subnormal_results", "NaN", "infinite"])
    )
    place = tuple(data.draw(st.integers(0, n - 1)) for n in batch)
    index: tuple[Any, ...] = (*place[: len(before)], slice(None), *place[len(before) :])
    arrays = []
    for part in alone:
        if neighbors in ("NaN", "infinite"):
            values = np.full(shape, np.nan if neighbors == "NaN" else -np.inf, dtype)
        else:
            values = logits(neighbors, seed + 1, shape, dtype)
        values[index] = part
        arrays.append(data.draw(strategies.placed(values, repeat=False)))

    axis = data.draw(st.sampled_from([len(before), -1 - len(after)]))
    swiftmax.set_num_threads(data.draw(st.sampled_from([1, 2, 3, 8])))
    arguments: dict[str, Any] = {"axis": axis}
    if name in FORWARD and data.draw(st.booleans()):
        arguments["where"] = np.ones(data.draw(st.sampled_from([(), shape])), bool)
    if name == "logsumexp":
        index = place
    elif data.draw(st.booleans()):
        arguments["out"] = data.draw(st.sampled_from(arrays))
    assert call(name, arrays, **arguments)[index].astype(dtype).tobytes() == expected


@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_several_axes(name: str, dtype: str, data: st.DataObject) -> None:
    """A slice over several axes is their elements in order, wherever the axes are."""
    sizes = data.draw(st.lists(st.integers(1, 9), min_size=2, max_size=3))
    length = int(np.prod(sizes))
    family, seed = data.draw(strategies.families), data.draw(strategies.seeds)
    alone = operands(name, seed, family, (length,), dtype)
    expected = call(name, alone).tobytes()
    batch = data.draw(st.integers(1, 20))
    rank = len(sizes) + 1
    batch_axis = data.draw(st.integers(0, rank - 1))
    arrays = []
    for part in alone:
        values = np.stack([part.reshape(sizes)] * batch, axis=batch_axis)
        arrays.append(data.draw(strategies.placed(values, repeat=False)))
    axes = data.draw(st.permutations([a for a in range(rank) if a != batch_axis]).map(tuple))
    result = np.moveaxis(call(name, arrays, axis=axes), 0 if name == "logsumexp" else batch_axis, 0)
    for one in result:
        assert one.tobytes() == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((90, 64, 80), (0, 2)),
        ((11, 20, 30, 40), (1, 3)),
        ((11, 20, 30, 40), (0, 2)),
        ((400, 7, 9, 3), (1, 3)),
        ((60, 5, 7, 3, 4), (0, 2, 4)),
        ((5, 3, 300, 401), (0, 2, 3)),
    ],
)
def test_several_axes_of_many_slices(
    shape: tuple[int, ...], axes: tuple[int, ...], name: str, dtype: str, threads: None
) -> None:
    """Copies of one slice and of many, and a slice too long for one."""
    arrays = operands(name, 13, "wide", shape, dtype)
    count = len(axes)
    rows = [np.moveaxis(a, axes, range(-count, 0)) for a in arrays]
    batch = rows[0].shape[:-count]
    expected = call(name, [a.reshape(*batch, -1) for a in rows])
    if name != "logsumexp":
        expected = np.moveaxis(expected.reshape(rows[0].shape), range(-count, 0), axes)
    for count in (1, 2):
        swiftmax.set_num_threads(count)
        assert call(name, arrays, axis=axes).tobytes() == expected.tobytes()
        turned = [np.asfortranarray(a) for a in arrays]
        assert call(name, turned, axis=axes).tobytes() == expected.tobytes()


# Each way of packing; and columns so many that they are written past the caches.
VIEWS: dict[str, tuple[tuple[int, ...], int, Callable[[Array], Array]]] = {
    "columns apart": ((700, 300), 0, lambda x: x[:, ::2]),
    "columns apart, many": ((400, 6002), 0, lambda x: x[:, ::2]),
    "columns apart, long": ((60_000, 24), 0, lambda x: x[:, ::2]),
    "middle columns apart": ((6, 40, 500), 1, lambda x: x[..., ::2]),
    "middle columns back": ((6, 40, 50), 1, lambda x: x[..., ::-1]),
    "rows apart": ((3000, 30), 1, lambda x: x[:, ::3]),
    "rows apart, a gap": ((3000, 31), 1, lambda x: x[:, ::3]),
    "rows back": ((3000, 37), 1, lambda x: x[:, ::-1]),
    "rows back, at any alignment": ((128, 301), 1, lambda x: x[:, ::-1]),
    "rows back, whole vectors": ((300, 64), 1, lambda x: x[:, ::-1]),
    "rows back, of several blocks": ((9, 9001), 1, lambda x: x[:, ::-1]),
    "every other element": ((3000, 75), 1, lambda x: x[:, ::2]),
    "every other element, whole vectors": ((300, 128), 1, lambda x: x[:, ::2]),
    "every other element, of several blocks": ((9, 18_001), 1, lambda x: x[:, ::2]),
    "rows apart, of many blocks": ((3, 400_003), 1, lambda x: x[:, ::2]),
    "rows apart, longer than a pack": ((2, 2_300_002), 1, lambda x: x[:, ::2]),
    "rows cut": ((3000, 64), 1, lambda x: x[:, :16]),
    "rows repeated": ((1, 500), 1, lambda x: np.broadcast_to(x, (30, 500))),
    "elements repeated": ((500, 1), 1, lambda x: np.broadcast_to(x, (500, 50))),
    "columns, aligned": ((6, 64, 3136), 1, lambda x: x),
    "columns, pages apart": ((3, 50, 1024), 1, lambda x: x),
    "columns, not aligned": ((19, 64, 1001), 1, lambda x: x),
    "columns, many": ((5, 20, 12_001), 1, lambda x: x),
    "columns, longer": ((200, 6001), 0, lambda x: x),
    **{f"columns, {few}": ((70, 100, few), 1, lambda x: x) for few in range(2, 12)},
    **{f"columns, {few}, long": ((9, 300, few), 1, lambda x: x) for few in range(2, 12)},
    "columns, tall": ((3, 2500, 12), 1, lambda x: x),
    "columns, taller": ((2, 8500, 17), 1, lambda x: x),
    "columns of few": ((40, 3, 100), 1, lambda x: x),
    "columns, few, one of two groups": ((140, 30, 5), 1, lambda x: x[::2]),
    "columns, few, of cut slices": ((70, 30, 5), 1, lambda x: x[:, 3:20]),
    "columns, few, turned": ((30, 70, 5), 0, lambda x: x),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("view", VIEWS)
def test_views(view: str, name: str, dtype: str) -> None:
    """Slices of a view, and the same as contiguous rows."""
    shape, axis, of = VIEWS[view]
    arrays = [of(np.resize(part, shape)) for part in operands(name, 4, "wide", (9973,), dtype)]
    rows = [np.ascontiguousarray(np.moveaxis(array, axis, -1)) for array in arrays]
    expected = call(name, rows, axis=-1)
    result = call(name, arrays, axis=axis)
    if name != "logsumexp":
        result = np.moveaxis(result, axis, -1)
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("length", [33, 64, 500, 5000])
def test_gradients_of_views_with_a_sum_out_of_range(length: int, name: str, dtype: str) -> None:
    """Reversed rows, and every other element: one sum is not a number, one overflows."""
    grad_output, output = (
        np.resize(part, (30, length)) for part in operands(name, 5, "wide", (9973,), dtype)
    )
    grad_output[11, length // 2] = np.inf
    grad_output[19] = np.finfo(np.float32).max if dtype == "bfloat16" else np.finfo(dtype).max
    expected = call(name, [grad_output, output])
    result = call(name, [np.flip(np.flip(a, 1).copy(), 1) for a in (grad_output, output)])
    assert result.tobytes() == expected.tobytes()
    result = call(name, [np.repeat(a, 2, axis=1)[:, ::2] for a in (grad_output, output)])
    assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 20, 70])
def test_gradients_of_any_magnitude(length: int, name: str, dtype: str) -> None:
    """From subnormal ones to those whose sums overflow or are not finite, beside each other."""
    columns = 237
    grad_output, output = gradients(name, 9, (columns, length), "float64", spread=5)
    largest = float(np.finfo(np.float32 if dtype == "bfloat16" else dtype).max)
    exponents = np.random.default_rng(9).uniform(-1.1, 1, (columns, 1))
    with np.errstate(all="ignore"):
        grad_output = (grad_output * np.power(largest, exponents)).astype(dtype)
    grad_output[100:103] = [[np.inf], [-np.inf], [np.nan]]
    rows = [grad_output, output.astype(dtype)]
    expected = call(name, rows, axis=1)
    beside = [np.ascontiguousarray(part.T) for part in rows]
    assert call(name, beside, axis=0).T.tobytes() == expected.tobytes()
    for count in (1, 13, 40):
        parts = [slice(i, i + count) for i in range(0, columns, count)]
        few = [call(name, [part[p] for part in rows], axis=1) for p in parts]
        assert np.concatenate(few).tobytes() == expected.tobytes()
        few = [call(name, [part[:, p] for part in beside], axis=0).T for p in parts]
        assert np.concatenate(few).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [40, 70, 300, 5000])
def test_products_of_any_magnitude(length: int, dtype: str) -> None:
    """Those of grad_output and output, many of them beyond the range of the dtype."""
    rows = 237
    random = np.random.default_rng(10)
    largest = np.log2(float(np.finfo(np.float32 if dtype == "bfloat16" else dtype).max))
    parts = []
    for _ in range(2):
        exponents = random.uniform(-1.1, 0.95, (rows, 1)) * largest
        part = random.normal(size=(rows, length)) * np.exp2(random.uniform(-20, 0, (rows, length)))
        with np.errstate(over="ignore"):
            parts.append((part * np.exp2(exponents)).astype(dtype))
    expected = call("softmax_backward", parts, axis=1)
    beside = [np.ascontiguousarray(part.T) for part in parts]
    assert call("softmax_backward", beside, axis=0).T.tobytes() == expected.tobytes()
    flipped = [np.flip(np.flip(part, 1).copy(), 1) for part in parts]
    assert call("softmax_backward", flipped, axis=1).tobytes() == expected.tobytes()


@pytest.mark.parametrize("length", [9_001, 33_003, 70_001, 131_072, 530_003])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_long_rows(dtype: str, length: int) -> None:
    """A long row keeps its exponentials here or there, or computes them twice."""
    families = [name for name in FAMILIES if name != "tiny"]
    x = np.stack([logits(family, 3, (length,), dtype) for family in families])
    # Blocks that lie far below the others, and some with nothing, or nothing finite, in them.
    x = np.concatenate([x, x[:6]])
    x[-6, 4096:8192] -= 60
    x[-5, :4096] -= 1000
    x[-4, :4096] = -np.inf
    x[-3, -1] = np.inf
    x[-2, 5] = np.nan
    x[-1, 4096:] = -np.inf

    def softmax(x: Array, **arguments: Any) -> bytes:
        result = call("softmax", [x], axis=1, **arguments)
        result[np.isnan(result)] = np.nan  # Which NaN it is does not count.
        return result.tobytes()

    expected = softmax(np.asfortranarray(x))
    assert softmax(x) == expected
    # A batch so large that it is not written through the caches.
    repeats = 1 + (12 << 20) // x.nbytes
    assert softmax(np.concatenate([x] * repeats)) == expected * repeats
    assert softmax(x, out=x) == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("length", [2, 3, 6, 7, 10, 28, 33, 64, 65, 120, 9001])
def test_rows_in_memory(length: int, name: str, dtype: str) -> None:
    """So many rows that they are asked for ahead and written past the caches; as columns too."""
    parts = operands(name, 6, "wide", (9973,), dtype)
    shape = (13 << 20) // (length * parts[0].itemsize), length
    arrays = [np.resize(part, shape) for part in parts]
    expected = call(name, [np.asfortranarray(array) for array in arrays], axis=1)
    assert call(name, arrays, axis=1).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [5_001, 300_001, 1_000_001])
def test_long_masked_rows(length: int, dtype: str) -> None:
    """What a mask leaves out is summed as if it were -inf."""
    x = np.resize(operands("softmax", 7, "wide", (9973,), dtype)[0], (2, length))
    mask = np.resize(np.arange(7) % 3 > 0, x.shape)
    masked = np.where(mask, x, np.array(-np.inf, x.dtype))
    for name in FORWARD:
        expected = call(name, [masked], axis=1)
        assert call(name, [x], axis=1, where=mask).tobytes() == expected.tobytes()


# A shape and axis, and the axes a mask is broadcast along: rows and groups of columns many to a
# copy, all columns of a group, and tiles of them, of which the last is a part or one column; and
# columns and rows that are read where they lie, with their results in the caches and past them.
MASKED: list[tuple[tuple[int, ...], int, tuple[int, ...]]] = [
    ((9001, 3), 1, ()),
    ((9001, 3), 1, (0,)),
    ((3000, 33), 1, (1,)),
    ((700, 10, 5), 1, (0,)),
    ((700, 10, 5), 1, (1,)),
    ((7, 130, 333), 1, ()),
    ((2, 700, 801), 1, (0,)),
    ((41, 73, 1301), 1, ()),
    ((700, 130), 1, ()),
    ((3, 70, 200), 2, (0,)),
    ((3, 70, 200), 2, (1,)),
    ((1100, 3000), 1, ()),
    ((9000, 37), 0, ()),
    ((764, 1153), 0, ()),
    ((764, 1153), 0, (1,)),
    ((1, 5000), 0, ()),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize(("shape", "axis", "repeated"), MASKED)
def test_masked_slices(
    shape: tuple[int, ...],
    axis: int,
    repeated: tuple[int, ...],
    name: str,
    dtype: str,
    threads: None,
) -> None:
    """A mask is as -inf in its place, but for slices without anything else; in place too."""
    x = logits("wide", 11, shape, dtype)
    mask_shape = tuple(1 if i in repeated else n for i, n in enumerate(shape))
    mask = np.random.default_rng(12).random(mask_shape) < 0.7
    expected = call(name, [np.where(mask, x, np.array(-np.inf, dtype))], axis=axis)
    empty = np.asarray(~np.broadcast_to(mask, shape).any(axis, keepdims=True))
    nothing = np.array(0 if name == "softmax" else -np.inf, dtype)
    if name == "logsumexp":
        empty = empty.squeeze(axis)
    wanted = np.where(empty, nothing, expected).tobytes()
    apart = np.repeat(mask, 2, axis=-1)[..., ::2]
    for count in (1, 2):
        swiftmax.set_num_threads(count)
        assert call(name, [x], axis=axis, where=mask).tobytes() == wanted
        assert call(name, [x], axis=axis, where=apart).tobytes() == wanted
        reverse = np.ascontiguousarray(x[..., ::-1])[..., ::-1]
        assert call(name, [reverse], axis=axis, where=mask).tobytes() == wanted
    if name != "logsumexp":
        assert call(name, [x], axis=axis, where=mask, out=x).tobytes() == wanted


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("columns", [385, 1025, 1153])
def test_several_axes_of_many_columns(columns: int, name: str, dtype: str) -> None:
    """Copied in tiles, the last of which may be one column."""
    arrays = operands(name, 17, "wide", (2, 382, columns), dtype)
    rows = [np.ascontiguousarray(np.moveaxis(a, 2, 0)).reshape(columns, -1) for a in arrays]
    expected = call(name, rows, axis=1)
    if name != "logsumexp":
        expected = np.moveaxis(expected.reshape(columns, 2, 382), 0, 2)
    spread = [np.stack([a, a], axis=1)[:, 0] for a in arrays]
    assert call(name, spread, axis=(0, 1)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((300, 130), 0), ((130, 300), 1), ((500, 20), 1), ((1400, 2400), 0), ((1400, 2400), 1)],
)
def test_masked_slices_without_a_result(
    shape: tuple[int, ...], axis: int, name: str, dtype: str
) -> None:
    """What a mask leaves out has its fixed result beside NaN and infinities too."""
    x = logits("wide", 11, shape, dtype)
    mask = np.random.default_rng(12).random(shape) < 0.7
    slices, masks = np.moveaxis(x, axis, -1), np.moveaxis(mask, axis, -1)
    masks[:12, :2] = [[True, False], [False, True]] * 6
    slices[:8, 100 % shape[axis]] = [np.nan, np.inf, -np.inf, 3] * 2
    masks[8:10] = False
    slices[10:12] = -np.inf
    fixed = 0 if name == "softmax" else -np.inf
    expected = call(name, [np.where(mask, x, np.array(-np.inf, dtype))], axis=axis)
    result = call(name, [x], axis=axis, where=mask)
    assert np.array_equal(
        result.astype(np.float64),
        np.where(mask, expected.astype(np.float64), fixed),
        equal_nan=True,
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("length", [3, 40, 1000, 5000])
def test_columns_with_far_maxima(length: int, name: str, dtype: str) -> None:
    """Maxima far above the others of some or of all columns, and far from 0; packed and not."""
    x = np.random.default_rng(8).standard_normal((length, 200))
    x *= np.repeat([3, 20, 300, 3000], 50)
    x = x.astype(dtype)
    expected = call(name, [np.ascontiguousarray(x.T)], axis=1).T
    assert call(name, [x], axis=0).tobytes() == expected.tobytes()
    assert call(name, [np.repeat(x, 2, axis=1)[:, ::2]], axis=0).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("length", [2, 3, 4, 5, 16, 33, 1500])
def test_columns_side_by_side_and_apart(length: int, family: str, name: str, dtype: str) -> None:
    """Whole groups of vectors, single ones and a part of one, read as they lie and not."""
    x = logits(family, 5, (length, 237), dtype)
    expected = call(name, [np.ascontiguousarray(x.T)], axis=1).T
    for step in (1, 2, 3):
        apart = np.repeat(x, step, axis=1)[:, ::step]
        assert call(name, [apart], axis=0).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("columns", [3, 8, 12, 20, 40, 66, 130])
@pytest.mark.parametrize("length", [512, 1024, 1500, 2048, 4096, 5000])
def test_tall_columns(length: int, columns: int, name: str, dtype: str) -> None:
    """Of lengths whose lines share the sets of a cache too; turned, kept and computed again."""
    shape = (2, length, columns)
    arrays = operands(name, 11, "wide", shape, dtype)
    expected = call(name, [np.ascontiguousarray(np.moveaxis(a, 1, 2)) for a in arrays], axis=2)
    if name != "logsumexp":
        expected = np.moveaxis(expected, 2, 1)
    assert call(name, arrays, axis=1).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("shape", [(128, 1024), (70, 333), (1000, 5), (5, 40, 128), (20, 64, 9)])
def test_layouts_that_differ(shape: tuple[int, ...], name: str, dtype: str) -> None:
    """Inputs and outputs each in any order of dimensions, reversed, and every other element."""
    arrays = operands(name, 12, "wide", shape, dtype)

    def placed(array: Array, layout: int) -> Array:
        order = np.roll(np.arange(array.ndim), layout)
        ordered = np.ascontiguousarray(array.transpose(order))
        if layout >= array.ndim:
            ordered = np.flip(np.repeat(np.flip(ordered, 0), 2, axis=-1)[..., ::2], 0)
        return ordered.transpose(np.argsort(order))

    layouts = range(2 * len(shape))
    for axis in range(len(shape)):
        expected = call(name, arrays, axis=axis).tobytes()
        for one in layouts:
            for other in layouts:
                inputs = [placed(a, one if a is arrays[0] else other) for a in arrays]
                arguments: dict[str, Any] = {"axis": axis}
                if name in FORWARD and name != "logsumexp":
                    arguments["out"] = placed(np.empty(shape, dtype), other)
                assert call(name, inputs, **arguments).tobytes() == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("length", [64, 71, 200, 1031, 9001])
def test_rows_from_any_place(length: int, name: str, dtype: str) -> None:
    """Each operand from any element of a cache line on."""
    arrays = operands(name, 16, "wide", (3, length), dtype)
    expected = call(name, arrays, axis=1).tobytes()
    places = [0, 1, 2, 3, 7, 12]
    for firsts in itertools.product(places, repeat=len(arrays)):
        placed = []
        for array, first in zip(arrays, firsts, strict=True):
            room = np.empty(array.size + 64, dtype)
            start = (-room.ctypes.data // room.itemsize) % (64 // room.itemsize) + first
            placed.append(room[start : start + array.size].reshape(array.shape))
            placed[-1][...] = array
        assert call(name, placed, axis=1).tobytes() == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", *BACKWARD])
@pytest.mark.parametrize("shape", [(1, 1031, 1024), (13, 90, 1040), (600, 16, 128)])
def test_columns_to_any_place(shape: tuple[int, ...], name: str, dtype: str, threads: None) -> None:
    """So large that results are written past the caches, from any place in a line on."""
    arrays = operands(name, 14, "wide", shape, dtype)
    mask = np.random.default_rng(15).random(shape) < 0.7
    for arguments in ({}, {"where": mask}) if name in FORWARD else ({},):
        swiftmax.set_num_threads(1)
        expected = call(name, arrays, axis=1, **arguments).tobytes()
        for first in (1, 4, 13):
            room = np.empty(arrays[0].size + 64, dtype)
            out = room[first : first + arrays[0].size].reshape(shape)
            for count in (1, 2):
                swiftmax.set_num_threads(count)
                assert call(name, arrays, axis=1, out=out, **arguments).tobytes() == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize(("shape", "axis"), [((128, 1024), 0), ((70, 333), 1), ((5, 40, 128), 1)])
def test_broadcast_gradients(shape: tuple[int, ...], axis: int, name: str, dtype: str) -> None:
    """One gradient for all elements, for those of a slice, and for each position of the slices."""
    gradient, output = operands(name, 13, "wide", shape, dtype)
    for kept in ((), (axis,), tuple(i for i in range(len(shape)) if i != axis)):
        few = gradient[tuple(slice(None if i in kept else 1) for i in range(len(shape)))]
        broadcast = np.broadcast_to(few, shape)
        expected = call(name, [broadcast.copy(), output], axis=axis).tobytes()
        assert call(name, [broadcast, output], axis=axis).tobytes() == expected
        flipped = np.asfortranarray(output)
        assert call(name, [broadcast, flipped], axis=axis).tobytes() == expected
        transposed = np.empty(shape[::-1], dtype).T
        assert call(name, [broadcast, output], axis=axis, out=transposed).tobytes() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="protects a page as Linux does")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize("columns", [5, 9, 11, 16, 20, 32, 49, 64, 100])
@pytest.mark.parametrize("length", [2, 3, 4, 5, 10, 20, 33, 100])
def test_groups_of_columns(length: int, columns: int, name: str, dtype: str) -> None:
    """Many short groups side by side in memory, with gaps between them, reversed, and in place."""
    shape = (37, length, columns)
    arrays = operands(name, 10, "wide", shape, dtype)
    rows = [np.ascontiguousarray(np.moveaxis(a, 1, 2)) for a in arrays]
    expected = call(name, rows, axis=2)
    if name != "logsumexp":
        expected = np.moveaxis(expected, 2, 1)
    assert call(name, arrays, axis=1).tobytes() == expected.tobytes()
    apart = [np.repeat(a, 2, axis=0)[::2] for a in arrays]
    assert call(name, apart, axis=1).tobytes() == expected.tobytes()
    flipped = [np.flip(np.flip(a, 0).copy(), 0) for a in arrays]
    assert call(name, flipped, axis=1).tobytes() == expected.tobytes()
    if name != "logsumexp":
        out = np.repeat(arrays[0], 3, axis=0)[::3]
        result = call(name, [out, *arrays[1:]], axis=1, out=out)
        assert result.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("columns", [16, 37, 64, 530, 1024, 4096])
@pytest.mark.parametrize("length", [6, 12, 15, 17, 31, 32, 33, 50, 64, 65, 127, 200, 513])
def test_gradients_of_columns(length: int, columns: int, name: str, dtype: str) -> None:
    """Inputs in the inner caches and beyond them, with rows that are pages apart and not."""
    arrays = gradients(name, 11, (length, columns), dtype)
    rows = [np.ascontiguousarray(a.T) for a in arrays]
    expected = np.ascontiguousarray(call(name, rows, axis=1).T)
    assert call(name, list(arrays), axis=0).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("columns", [16, 37, 100])
@pytest.mark.parametrize("length", [20, 100, 4096, 4097, 9001])
def test_gradients_of_columns_apart(length: int, columns: int, name: str, dtype: str) -> None:
    """Columns that lie side by side, and such as are packed, of one block and of several."""
    arrays = gradients(name, 12, (length, columns), dtype)
    rows = [np.ascontiguousarray(a.T) for a in arrays]
    expected = np.ascontiguousarray(call(name, rows, axis=1).T)
    for step in (1, 2, 3):
        apart = [np.repeat(a, step, axis=1)[:, ::step] for a in arrays]
        assert call(name, apart, axis=0).tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax", *BACKWARD])
@pytest.mark.parametrize(
    ("length", "columns"),
    [
        (2, 48),
        (3, 1),
        (3, 257),
        (4, 1001),
        (5, 1000),
        (6, 112),
        (7, 1),
        (8, 16),
        (8, 20),
        (13, 1),
        (16, 1024),
        (20, 250),
        (20, 256),
        (24, 767),
        (40, 4096),
        (100, 7),
        (150, 301),
        (300, 2),
        (300, 64),
        (500, 3),
        (1001, 1),
    ],
)
def test_outputs_past_the_caches(length: int, columns: int, name: str, dtype: str) -> None:
    """From any place in a cache line on; what lies before and after the output stays as it was."""
    parts = operands(name, 14, "wide", (length * columns,), dtype)
    arrays = [part.reshape(length, columns) for part in parts]
    expected = call(name, arrays, axis=0)
    groups = 1 + (13 << 20) // expected.nbytes
    large = [np.tile(array, (groups, 1, 1)) for array in arrays]
    room = np.empty(groups * expected.size + 32, expected.dtype)
    for first in (0, 1, 4, 6, 8):
        room[:] = 7
        out = room[first : first + groups * expected.size].reshape(large[0].shape)
        call(name, large, axis=1, out=out)
        assert (out == expected).all()
        assert (room[:first] == 7).all()
        assert (room[first + out.size :] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax", "softmax_backward"])
@pytest.mark.parametrize("length", [257, 401, 1000, 3001, 4095])
def test_rows_past_the_caches_share_lines(length: int, name: str, dtype: str) -> None:
    """From any byte of a line on, reversed and in place; some with sums that are not finite."""
    rows = 41
    parts = operands(name, 3, "wide", (rows * length,), dtype)
    arrays = [part.reshape(rows, length) for part in parts]
    arrays[0][7, 5], arrays[0][20:22], arrays[0][33, 11] = np.inf, np.finfo(dtype).max, np.nan
    with np.errstate(all="ignore"):
        expected = call(name, arrays, axis=1)
    groups = 1 + (26 << 20) // expected.nbytes
    large = [np.tile(array, (groups, 1)) for array in arrays]
    turned = [np.ascontiguousarray(array[:, ::-1])[:, ::-1] for array in large]
    size = groups * expected.nbytes
    room = np.empty(size + 128, np.uint8)
    for first in (0, 4, 16, 61):
        room[:] = 7
        out = room[first : first + size].view(dtype).reshape(large[0].shape)
        in_place = [out, *large[1:]]
        for inputs in (large, turned, in_place):
            out[...] = large[0]
            with np.errstate(all="ignore"):
                call(name, inputs, axis=1, out=out)
            assert out.tobytes() == expected.tobytes() * groups
            assert (room[:first] == 7).all()
            assert (room[first + size :] == 7).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
@pytest.mark.parametrize(
    ("rows", "columns"),
    [(20, 9), (20, 16), (20, 40), (20, 64), (20, 77), (20, 200), (100, 3), (99, 7)],
)
def test_nothing_is_read_beyond_an_input(rows: int, columns: int, name: str, dtype: str) -> None:
    """The last element wanted is the last of readable memory, along both axes."""
    arrays = operands(name, 7, "wide", (rows * columns,), dtype)
    arrays = [array.reshape(rows, columns) for array in arrays]

    def at_the_edge(array: Array, step: int) -> Array:
        """Between two pages that cannot be read: at the second or, reversed, at the first."""
        shape = (rows, (columns - 1) * abs(step) + 1)
        size = int(np.prod(shape))
        room = mmap.mmap(-1, 1 << 20)
        first, last = mmap.PAGESIZE, len(room) - mmap.PAGESIZE
        offset = first if step < 0 else last - size * array.itemsize
        whole = np.frombuffer(room, array.dtype, size, offset).reshape(shape)
        view = whole[:, ::step]
        view[...] = array
        libc = ctypes.CDLL(None)
        address = whole.ctypes.data - offset
        for page in (0, last):
            place = ctypes.c_void_p(address + page)
            assert libc.mprotect(place, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        return view

    for step in (1, 2, 3, -1):
        views = [at_the_edge(array, step) for array in arrays]
        for axis in (0, 1):
            expected = call(name, arrays, axis=axis)
            assert call(name, views, axis=axis).tobytes() == expected.tobytes()


# ---- Threads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((64, 20000), 1),
        ((1, 1_000_003), 1),
        ((20001, 66), 0),
        ((300_000, 5), 1),
        ((70, 500, 40), 1),
        ((2000, 60, 3), 1),
        ((70, 700, 5), 1),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_any_number_of_threads(
    name: str, dtype: str, shape: tuple[int, ...], axis: int, threads: None
) -> None:
    arrays = [np.resize(a, shape) for a in operands(name, 5, "logits", (100_003,), dtype)]
    swiftmax.set_num_threads(1)
    expected = call(name, arrays, axis=axis).tobytes()
    for count in [2, 3, 7, 64]:
        swiftmax.set_num_threads(count)
        assert call(name, arrays, axis=axis).tobytes() == expected, f"{count} threads"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("largest", [-0.3, -3.0])
def test_a_canceling_logsumexp_and_threads(dtype: str, largest: float, threads: None) -> None:
    """The same decides that it is computed anew for a row and for one that is shared out."""
    length = 200_000
    for share in np.linspace(0.3, 0.95, 27):
        rest = np.exp(largest * share) - np.exp(largest)
        x = np.full(length, np.log(rest / (length - 1)), dtype)
        x[length // 2] = largest
        swiftmax.set_num_threads(1)
        expected = swiftmax.logsumexp(x)
        swiftmax.set_num_threads(2)
        assert swiftmax.logsumexp(x) == expected
        reference.check("logsumexp", np.asarray(expected), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*FORWARD, *BACKWARD])
def test_a_split_or_padded_batch(name: str, dtype: str) -> None:
    arrays = operands(name, 9, "wide", (300, 333), dtype)
    expected = call(name, arrays)
    parts = [call(name, [a[i : i + 7] for a in arrays]) for i in range(0, 300, 7)]
    assert np.concatenate(parts).tobytes() == expected.tobytes()
    padded = [np.concatenate([a, np.zeros((45, 333), dtype)]) for a in arrays]
    assert call(name, padded)[:300].tobytes() == expected.tobytes()
