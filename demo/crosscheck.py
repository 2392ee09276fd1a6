"""Errors and times of swiftmax beside the textbook formulas and SciPy."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.special
import swiftmax
import textbook

sys.path.insert(0, str(Path(__file__).parents[1] / "Tests/python"))
import reference

LIBRARIES: dict[str, Any] = {"swiftmax": swiftmax, "NumPy": textbook, "SciPy": scipy.special}
FUNCTIONS = ["softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward"]
DTYPES = ["float32", "float64"]
SHAPE = (512, 1000)


class Row(NamedTuple):
    """One line of the table; SciPy has no gradients and is missing there."""

    function: str
    dtype: str
    layout: str
    errors: dict[str, float]
    seconds: dict[str, float]


def layouts(x: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """The same slices in three layouts, each with its axis."""
    return {
        "contiguous": (x, -1),
        "first axis": (np.ascontiguousarray(x.T), 0),
        "strided": (np.repeat(x, 2, axis=-1)[:, ::2], -1),
    }


def inputs(function: str, dtype: str, rng: np.random.Generator) -> list[np.ndarray]:
    """The logits, or for a gradient grad_output and what the forward function returned."""
    logits = (rng.standard_normal(SHAPE) * 10).astype(dtype)
    if not function.endswith("_backward"):
        return [logits]
    forward = getattr(swiftmax, function.removesuffix("_backward"))
    return [rng.standard_normal(SHAPE).astype(dtype), forward(logits)]


def best_times(calls: Mapping[str, Callable[[], Any]], rounds: int = 15) -> dict[str, float]:
    """The shortest time of each call; all take turns."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def rows() -> Iterator[Row]:
    """Every function, dtype and layout."""
    rng = np.random.default_rng(0)
    for function in FUNCTIONS:
        for dtype in DTYPES:
            placed = [layouts(x) for x in inputs(function, dtype, rng)]
            for layout, (_, axis) in placed[0].items():
                arrays = [p[layout][0] for p in placed]
                calls = {
                    name: partial(getattr(library, function), *arrays, axis=axis)
                    for name, library in LIBRARIES.items()
                    if hasattr(library, function)
                }
                errors = {
                    name: float(reference.error_of(function, call(), *arrays, axis=axis).max())
                    for name, call in calls.items()
                }
                yield Row(function, dtype, layout, errors, best_times(calls))


def in_short(error: float) -> str:
    """An error in ULP, in the digits that matter."""
    if error < 9.995:
        return f"{error:.2f}"
    return f"{error:.0f}" if error < 9999.5 else f"{error:.1e}".replace("e+0", "e")


def print_table() -> list[Row]:
    """Print the rows as they come, and return them."""
    names = "".join(f"{name:>10}" for name in LIBRARIES)
    print(f"{'':42}{'largest error, ULP':>30}  {'shortest time, us':>30}")
    print(f"{'function':22}{'dtype':9}{'layout':11}{names}  {names}")
    table: list[Row] = []
    for row in rows():
        first = not table or row.function != table[-1].function
        if first:
            print("-" * 104)
        errors = [in_short(row.errors[n]) if n in row.errors else "-" for n in LIBRARIES]
        times = [f"{row.seconds[n] * 1e6:.0f}" if n in row.seconds else "-" for n in LIBRARIES]
        print(
            f"{row.function if first else '':22}{row.dtype:9}{row.layout:11}"
            + "".join(f"{cell:>10}" for cell in errors)
            + "  "
            + "".join(f"{cell:>10}" for cell in times),
            flush=True,
        )
        table.append(row)
    return table
