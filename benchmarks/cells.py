"""What is measured: functions x dtypes x shapes, in the layouts that programs have."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import swiftmax
from peers import BACKWARD, DTYPES, FUNCTIONS, Case, dtype_of


@dataclass(frozen=True)
class Shape:
    """A shape with the axis and layout it is used with."""

    group: str
    shape: tuple[int, ...]
    axis: int = -1
    layout: str = "contiguous"
    quick: bool = False

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        layout = "" if self.layout == "contiguous" else f" {self.layout}"
        return f"{size} axis {self.axis % len(self.shape)}{layout}"


SHAPES = (
    Shape("small call", (10,), quick=True),
    Shape("small call", (100,)),
    Shape("small call", (1000,), quick=True),
    Shape("small call", (8, 16)),
    Shape("tiny rows", (500_000, 2)),
    Shape("tiny rows", (100_000, 10), quick=True),
    Shape("tiny rows", (62_500, 16)),
    Shape("tiny rows", (500_000, 13)),
    Shape("rows", (8192, 65)),
    Shape("rows", (2048, 257)),
    Shape("rows", (1024, 1023), quick=True),
    Shape("long rows", (128, 32_768)),
    Shape("long rows", (16, 50_001), quick=True),
    Shape("vocabulary", (8, 32_000)),
    Shape("vocabulary", (8, 128_256), quick=True),
    Shape("vocabulary", (4, 256_000)),
    Shape("one row", (16_000_000,)),
    Shape("first axis", (1024, 1024), 0, quick=True),
    Shape("first axis", (4096, 33), 0),
    Shape("middle axis", (32, 64, 3136), 1),
    Shape("middle axis", (4, 21, 256, 256), 1),
    Shape("middle axis", (64, 1000, 8), 1, quick=True),
    Shape("middle axis", (128, 512, 2), 1),
    Shape("middle axis", (16, 50_176, 3), 1),
    Shape("middle axis", (4, 10, 100_000), 1),
    Shape("view", (1024, 1024), layout="strided", quick=True),
    Shape("view", (1024, 1024), layout="reversed"),
    Shape("view", (1024, 1024), 0, layout="strided"),
    Shape("view", (60_000, 16), layout="strided"),
    Shape("where", (1024, 1000), layout="where", quick=True),
    Shape("where", (100_000, 10), layout="where"),
    Shape("where", (1024, 1024), 0, layout="where"),
)


@dataclass(frozen=True)
class Cell:
    """One line of the benchmark."""

    function: str
    dtype: str
    shape: Shape

    def case(self) -> Case:
        """Make the arrays of this cell, the same ones in each run."""
        seed = zlib.crc32(f"{self.dtype} {self.shape}".encode())
        rng = np.random.default_rng(seed)
        shape = self.shape.shape
        dtype = dtype_of(self.dtype)

        def array(scale: float) -> np.ndarray[Any, Any]:
            stretched = (*shape[:-1], shape[-1] * (2 if self.shape.layout == "strided" else 1))
            values = rng.standard_normal(stretched, np.float32)
            values *= scale
            array = values.astype(dtype)
            if self.shape.layout == "strided":
                return array[..., ::2]
            return array[..., ::-1] if self.shape.layout == "reversed" else array

        x = array(3)
        if self.function in BACKWARD:
            forward = getattr(swiftmax, self.function.removesuffix("_backward"))
            output = array(0)  # So that it has the layout of x.
            forward(x, axis=self.shape.axis, out=output)
            return Case(self.function, (array(1), output), self.shape.axis)
        where = rng.random(shape) < 0.8 if self.shape.layout == "where" else None
        return Case(self.function, (x,), self.shape.axis, where)


def cells(
    functions: tuple[str, ...] = FUNCTIONS, dtypes: tuple[str, ...] = DTYPES, quick: bool = False
) -> Iterator[Cell]:
    """The cells of a run; no backward function has a where argument."""
    for function in functions:
        for dtype in dtypes:
            for shape in SHAPES:
                if shape.layout == "where" and function in BACKWARD:
                    continue
                if shape.quick or not quick:
                    yield Cell(function, dtype, shape)


def random_cells(
    functions: tuple[str, ...], dtypes: tuple[str, ...], count: int, seed: int, powers: bool
) -> Iterator[Cell]:
    """Cells of random shapes of 100 to two million elements, along any axis.

    With `powers`, slices and rows of columns are as long as powers of two.
    """
    rng = np.random.default_rng(seed)
    while count > 0:
        exponents = rng.uniform(1, 15), rng.uniform(-1, 10)
        n, neighbors = (max(1, int(2 ** (round(e) if powers else e))) for e in exponents)
        outer = int(10 ** rng.uniform(2, 6.3)) // (n * neighbors)
        if outer == 0:
            continue
        count -= 1
        if neighbors == 1:
            shape = Shape("rows", (outer, n), 1)
        elif outer == 1:
            shape = Shape("first axis", (n, neighbors), 0)
        else:
            shape = Shape("middle axis", (outer, n, neighbors), 1)
        yield Cell(str(rng.choice(functions)), str(rng.choice(dtypes)), shape)
