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

FUNCTIONS = ["softmax", "log_softmax", "logsumexp", "softmax_backward", "log_softmax_backward"]
SHAPE = (400, 1000)


class Row(NamedTuple):
    """One line of the table: for each library the largest error in ULP and the time in seconds."""

    function: str
    dtype: str
    layout: str
    results: dict[str, tuple[float, float]]


def layouts(x: np.ndarray) -> dict[str, tuple[np.ndarray, int]]:
    """The same slices in three layouts, each with its axis."""
    wide = np.repeat(x, 2, axis=-1)
    return {
        "contiguous": (x, -1),
        "first axis": (np.ascontiguousarray(x.T), 0),
        "strided": (wide[:, ::2], -1),
    }


def best_times(calls: Mapping[str, Callable[[], Any]], rounds: int = 7) -> dict[str, float]:
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
        for dtype in ("float32", "float64"):
            logits = (rng.standard_normal(SHAPE) * 10).astype(dtype)
            if function.endswith("_backward"):
                forward = getattr(swiftmax, function.removesuffix("_backward"))
                inputs = [rng.standard_normal(SHAPE).astype(dtype), forward(logits)]
            else:
                inputs = [logits]
            placed = [layouts(x) for x in inputs]
            for layout in placed[0]:
                arrays = [p[layout][0] for p in placed]
                axis = placed[0][layout][1]
                libraries: dict[str, Any] = {
                    "swiftmax": swiftmax,
                    "NumPy": textbook,
                    "SciPy": scipy.special,
                }
                calls = {
                    name: partial(getattr(library, function), *arrays, axis=axis)
                    for name, library in libraries.items()
                    if hasattr(library, function)
                }
                times = best_times(calls)
                results = {}
                for name, call in calls.items():
                    errors = reference.error_of(function, call(), *arrays, axis=axis)
                    results[name] = (float(errors.max()), times[name])
                yield Row(function, dtype, layout, results)


def print_table(table: list[Row]) -> None:
    """The rows as text."""
    libraries = ["swiftmax", "NumPy", "SciPy"]
    print(f"Largest error in ULP and time, {SHAPE[0]} slices of {SHAPE[1]}, logits of scale 10\n")
    print(f"{'':45}" + "".join(f"{name:>22}" for name in libraries))
    for row in table:
        cells = []
        for name in libraries:
            if name in row.results:
                error, seconds = row.results[name]
                cells.append(f"{error:10.3g}{seconds * 1e6:9.0f} us")
            else:
                cells.append(f"{'-':>22}")
        print(f"{row.function:22}{row.dtype:10}{row.layout:13}" + "".join(cells))
