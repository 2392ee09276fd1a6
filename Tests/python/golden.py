"""Hashes of the results for a fixed set of inputs: the same for every kernel set and CPU with FMA.

    python Tests/python/golden.py            compares this machine's results with golden.json
    python Tests/python/golden.py --write    stores this machine's results as golden.json
    python Tests/python/golden.py --accuracy checks the same results against exact ones instead

The first is for kernels that use FMA (all but "baseline" on x86-64), the last for any. SWIFTMAX_ISA
chooses the kernels. The exit status is 1 if a result differs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import reference
import swiftmax
from inputs import BACKWARD, DTYPES, FAMILIES, FORWARD, Array, chosen, gradients, logits

STORE = Path(__file__).with_name("golden.json")

# Shapes and axes that take every path: rows short and long, columns few and many, packed slices,
# and rows of more than one block.
SHAPES: list[tuple[tuple[int, ...], Any]] = [
    ((257,), -1),
    ((40, 7), 1),
    ((5, 129), -1),
    ((130, 9), 0),
    ((6, 70, 33), 1),
    ((3, 5, 4, 6), (0, 2)),
    ((2, 4099), 1),
    ((9001, 2), 0),
    ((40, 21), 1),
    ((5, 30), -1),
]


def calls() -> Iterator[tuple[str, str, tuple[Array, ...], dict[str, Any]]]:
    """Each case: its name, and the name of the function, its arrays and arguments."""
    for dtype in DTYPES:
        for number, (shape, axis) in enumerate(SHAPES):
            for name in FORWARD:
                for family in FAMILIES:
                    x = logits(family, number, shape, dtype)
                    yield f"{name} {dtype} {family}", name, (x,), {"axis": axis}
                x = logits("normal", number, shape, dtype)
                where = chosen(number, shape, 3)
                yield f"{name} {dtype} where", name, (x,), {"axis": axis, "where": where}
                x[where] = [np.nan, np.inf, -np.inf][number % 3]
                yield f"{name} {dtype} special", name, (x,), {"axis": axis}
            for name in BACKWARD:
                arrays = gradients(name, number, shape, dtype)
                yield f"{name} {dtype}", name, arrays, {"axis": axis}


def hashes() -> dict[str, str]:
    """The hash of each case's bytes; which NaN a NaN is does not count."""
    states: dict[str, Any] = {}
    for case, name, arrays, arguments in calls():
        result = np.array(getattr(swiftmax, name)(*arrays, **arguments))
        result[np.isnan(result)] = np.nan
        states.setdefault(case, hashlib.sha256()).update(np.ascontiguousarray(result).tobytes())
    return {case: state.hexdigest()[:16] for case, state in states.items()}


def check_hashes() -> None:
    stored = json.loads(STORE.read_text())
    wrong = [case for case, found in hashes().items() if stored[case] != found]
    if wrong:
        sys.exit("\n".join(["other bits than stored:", *wrong]))
    print(f"all results as stored in {STORE.name}")


def check_accuracy() -> None:
    worst = 0.0
    for _, name, arrays, arguments in calls():
        result = getattr(swiftmax, name)(*arrays, **arguments)
        worst = max(worst, reference.check(name, result, *arrays, **arguments))
    print(f"largest error: {worst:.3f} ULP")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if arguments == ["--write"]:
        STORE.write_text(json.dumps(hashes(), indent=1) + "\n")
    elif arguments == ["--accuracy"]:
        check_accuracy()
    elif not arguments:
        check_hashes()
    else:
        sys.exit(__doc__)
