"""Hypothesis strategies for arrays of any shape and layout, axes and masks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from inputs import FAMILIES, Array, Layout, Shape, chosen, gradients, logits
from reference import Axis

seeds = st.integers(0, 2**20)
families = st.sampled_from(sorted(FAMILIES))

# Sizes at which vectors, panels and partial sums begin and end.
_EDGES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129]


@st.composite
def shapes(draw: st.DrawFn, max_rank: int = 6, max_size: int = 4000) -> Shape:
    """Shapes of any rank, with sizes of 0 and 1 and with one long axis now and then."""
    shape = [
        draw(st.sampled_from([1, 1, 2, 3, 4, 5, 0])) for _ in range(draw(st.integers(0, max_rank)))
    ]
    if len(shape) > 0 and draw(st.booleans()):
        room = max_size // math.prod(max(1, n) for n in shape)
        sizes = st.one_of(st.sampled_from(_EDGES), st.integers(1, 300))
        shape[draw(st.integers(0, len(shape) - 1))] = min(draw(sizes), max(1, room))
    return tuple(shape)


@st.composite
def axes(draw: st.DrawFn, rank: int) -> Axis:
    """An axis in every form: an int of either sign, a tuple in any order, None."""
    if rank == 0:
        return draw(st.sampled_from([-1, None, ()]))
    one = st.integers(-rank, rank - 1)
    several = st.lists(one, unique_by=lambda axis: axis % rank, max_size=rank).map(tuple)
    return draw(st.one_of(one, one, several, st.none()))


@st.composite
def layouts(draw: st.DrawFn, rank: int, itemsize: int, swappable: bool) -> Layout:
    """Any layout; half of them dense in C or Fortran order."""
    order = st.sampled_from([tuple(range(rank)), tuple(reversed(range(rank)))])
    if draw(st.booleans()):
        return Layout(draw(order))
    return Layout(
        order=draw(st.one_of(order, st.permutations(range(rank)).map(tuple))),
        steps=tuple(draw(st.sampled_from([1, 1, 1, -1, 2, -3])) for _ in range(rank)),
        offset=draw(st.sampled_from([0, 0, itemsize, 1, 3])),
        swapped=swappable and draw(st.booleans()),
    )


@st.composite
def placed(draw: st.DrawFn, values: Array, repeat: bool = True, swap: bool = True) -> Array:
    """``values`` in any layout; with ``repeat``, axes may repeat their first entry at stride 0."""
    swappable = swap and values.dtype.isbuiltin == 1 and values.dtype.kind != "b"
    layout = draw(layouts(values.ndim, values.itemsize, swappable))
    if not repeat or values.size == 0 or draw(st.integers(0, 3)):
        return layout.place(values)
    single = [slice(0, 1) if draw(st.booleans()) else slice(None) for _ in values.shape]
    return np.broadcast_to(layout.place(values[(..., *single)]), values.shape)


@st.composite
def masks(draw: st.DrawFn, shape: Shape) -> Any:
    """A ``where`` that broadcasts to ``shape``: a scalar, or an array of fewer or shorter axes."""
    if draw(st.integers(0, 7)) == 0:
        return draw(st.booleans())
    missing = draw(st.integers(0, len(shape)))
    mask_shape = tuple(1 if draw(st.integers(0, 3)) == 0 else n for n in shape[missing:])
    mask = chosen(draw(seeds), mask_shape, draw(st.sampled_from([2, 8])))
    return draw(placed(mask if draw(st.booleans()) else ~mask, swap=False))


@st.composite
def inputs(draw: st.DrawFn, name: str, dtype: str, shape: Shape) -> tuple[Array, ...]:
    """The array arguments of the function of that name."""
    if name.endswith("_backward"):
        return gradients(name, draw(seeds), shape, dtype, draw(st.sampled_from([0.2, 1, 6])))
    return (logits(draw(families), draw(seeds), shape, dtype),)
