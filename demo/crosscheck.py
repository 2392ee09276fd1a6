"""Every function, dtype and layout against the exact result, beside NumPy's formula and SciPy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import peers
import reference
import swiftmax
from timing import interleaved
from tqdm import tqdm

ROWS, COLUMNS = 256, 1000
LAYOUTS = ("contiguous", "first axis", "strided")


@dataclass
class Line:
    """One line of the table: of each library the largest error in ULP, and seconds."""

    function: str
    dtype: str
    layout: str
    errors: dict[str, float]
    seconds: dict[str, float]


def _cases() -> Iterator[tuple[str, str, str, peers.Case]]:
    """All combinations; logits with a spread of 10, so that small probabilities are among them."""
    rng = np.random.default_rng(0)
    for function in peers.FUNCTIONS:
        for dtype in ("float32", "float64", "float16"):
            for layout in LAYOUTS:
                shape = {
                    "contiguous": (ROWS, COLUMNS),
                    "first axis": (COLUMNS, ROWS),
                    "strided": (ROWS, 2 * COLUMNS),
                }[layout]
                axis = 0 if layout == "first axis" else 1
                step = 2 if layout == "strided" else 1
                x = (10 * rng.standard_normal(shape)).astype(dtype)[:, ::step]
                if function in peers.FORWARD:
                    yield function, dtype, layout, peers.Case(function, (x,), axis)
                    continue
                output = np.empty(shape, dtype)[:, ::step]
                getattr(swiftmax, function.removesuffix("_backward"))(x, axis=axis, out=output)
                grad = rng.standard_normal(shape).astype(dtype)[:, ::step]
                yield function, dtype, layout, peers.Case(function, (grad, output), axis)


def measure() -> list[Line]:
    """Check and time all cases, with a progress bar."""
    libraries = peers.installed(kinds=(peers.Swiftmax, peers.SciPy, peers.NumPy))
    cases = list(_cases())
    lines = []
    for function, dtype, layout, case in (bar := tqdm(cases, unit="case")):
        bar.set_description("Checking " + function)
        calls = {}
        for library in libraries:
            try:
                calls[library.name] = library.prepare(case)
            except peers.Unsupported:
                continue
        errors = {
            name: float(
                reference.error_of(function, call.result(), *case.arrays, axis=case.axis).max()
            )
            for name, call in calls.items()
        }
        seconds = {name: t.minimum for name, t in interleaved(calls, budget=0.05).items()}
        lines.append(Line(function, dtype, layout, errors, seconds))
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.2f}" if value < 100 else f"{value:.0f}"
    return f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def table(lines: list[Line]) -> str:
    """Return the lines as text."""
    names = ("swiftmax", "NumPy", "SciPy")
    text = [
        f"{'':42}{'largest error, ULP':^30}   {'time, us (others: x ours)':^30}",
        f"{'function':22}{'dtype':9}{'layout':11}"
        + "".join(f"{name:>10}" for name in names)
        + "   "
        + "".join(f"{name:>10}" for name in names),
    ]
    text.append("-" * len(text[-1]))
    previous = ""
    for line in lines:
        if previous not in ("", line.function):
            text.append("")
        function = line.function if line.function != previous else ""
        previous = line.function
        ours = line.seconds["swiftmax"]
        times = [f"{ours * 1e6:.0f}"]
        for name in names[1:]:
            times.append(f"{line.seconds[name] / ours:.1f}x" if name in line.seconds else "-")
        text.append(
            f"{function:22}{line.dtype:9}{line.layout:11}"
            + "".join(f"{_number(line.errors.get(name)):>10}" for name in names)
            + "   "
            + "".join(f"{time:>10}" for time in times)
        )
    return "\n".join(text)
