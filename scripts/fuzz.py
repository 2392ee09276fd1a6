#!/usr/bin/env python3
"""Random calls of every function in one process: no wrong result, no crash, no leak.

    python scripts/fuzz.py [--calls N] [--seed S]

Three calls in four are good ones of any shape, layout, axis, dtype, out= and where=, compared with
exact results; the fourth has a nonsensical argument, and must raise a documented error. Ends with
status 1 after a wrong result, another error, or growth of the resident memory by more than 8 MiB.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import swiftmax
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Tests" / "python"))

import reference
from inputs import BACKWARD, DTYPES, FAMILIES, FORWARD, Array, Layout, gradients, logits

MOST_GROWTH = 8 * 2**20

SIZES = [0, 1, 1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 63, 64, 65, 130]
MOST_ELEMENTS = 1500

# fmt: off
NONSENSE: dict[str, list[Any]] = {
    "operand": [None, "text", b"bytes", {}, object(), 1j, np.longdouble(3), [1, [2]],
                np.ma.zeros(3), np.zeros(3, "M8[s]"), np.zeros(2, object),
                np.zeros(2, [("a", "f4")])],
    "axis": [99, -99, 2**70, -(2**63), 1.5, np.nan, "0", True, object(), [0], (0, 0), (0, None)],
    "dtype": [int, object, np.longdouble, "complex64", "U5", "M8[s]", "no such", 3, (1, 2)],
    "out": [3, "out", object(), [1.0], np.zeros(3, int), np.ma.zeros(3), np.zeros((2,) * 7)],
    "where": [1, "yes", object(), [True, None], np.zeros(3), np.ones((7,) * 4, bool), np.ma.masked],
    "unknown": [1],
    "too many": [],
}
# fmt: on


def resident() -> int:
    """The resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


class Fuzzer:
    """Makes random calls and remembers what the last one was."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.last = ""
        self.counts = {"good": 0, "refused": 0}

    def pick(self, choices: Any) -> Any:
        return choices[int(self.random.integers(len(choices)))]

    def chance(self, one_in: int) -> bool:
        return int(self.random.integers(one_in)) == 0

    def shape(self) -> tuple[int, ...]:
        shape: list[int] = []
        for _ in range(int(self.random.integers(7))):
            room = MOST_ELEMENTS // math.prod(max(1, n) for n in shape)
            size = self.pick(SIZES)
            shape.append(size if size <= room else 1)
        if shape and self.chance(3):
            # The long axis may be any of them.
            place = int(self.random.integers(len(shape)))
            shape = [n if i == place else min(n, 2) for i, n in enumerate(shape)]
        return tuple(shape)

    def axis(self, rank: int) -> Any:
        if rank == 0 or self.chance(6):
            return self.pick([None, ()])
        axis = int(self.random.integers(-rank, rank))
        if not self.chance(4):
            return axis
        count = int(self.random.integers(1, rank + 1))
        axes = self.random.permutation(rank)[:count]
        return tuple(int(a) - rank * self.chance(2) for a in axes)

    def placed(self, values: Array, repeat: bool = True) -> Array:
        rank = values.ndim
        if self.chance(3):
            return values
        layout = Layout(
            order=tuple(int(a) for a in self.random.permutation(rank)),
            steps=tuple(self.pick([1, 1, 1, 1, -1, 2]) for _ in range(rank)),
            offset=self.pick([0, 0, 1, values.itemsize]),
            swapped=values.dtype.isbuiltin == 1 and values.dtype.kind != "b" and self.chance(6),
        )
        if not repeat or not self.chance(5):
            return layout.place(values)
        single = [slice(0, 1) if n and self.chance(2) else slice(None) for n in values.shape]
        return np.broadcast_to(layout.place(values[(..., *single)]), values.shape)

    def values(self, name: str, shape: tuple[int, ...], dtype: str) -> list[Array]:
        seed = int(self.random.integers(2**20))
        if name in BACKWARD:
            return list(gradients(name, seed, shape, dtype, self.pick([0.2, 1, 6])))
        x = logits(self.pick(list(FAMILIES)), seed, shape, dtype)
        if x.size and self.chance(5):
            x.flat[int(self.random.integers(x.size))] = self.pick([np.nan, np.inf, -np.inf])
        return [x]

    def mask(self, shape: tuple[int, ...]) -> Any:
        if self.chance(8):
            return self.chance(2)
        missing = int(self.random.integers(len(shape) + 1))
        shape = tuple(1 if self.chance(4) else n for n in shape[missing:])
        return self.placed(self.random.random(shape) < self.pick([0.1, 0.5, 0.9]))

    def draw_call(self) -> tuple[str, list[Array], dict[str, Any]]:
        name = self.pick([*FORWARD, *BACKWARD])
        shape = self.shape()
        arrays = [self.placed(a) for a in self.values(name, shape, self.pick(DTYPES))]
        arguments: dict[str, Any] = {"axis": self.axis(len(shape))}
        if name in FORWARD:
            if self.chance(3):
                arguments["where"] = self.mask(shape)
            if self.chance(6):
                arguments["dtype"] = self.pick(DTYPES)
        if name == "logsumexp":
            arguments["keepdims"] = self.chance(2)
        self.last = f"{name} {[(a.shape, a.strides, a.dtype) for a in arrays]} {arguments}"
        return name, arrays, arguments

    def good_call(self) -> None:
        name, arrays, arguments = self.draw_call()
        function = getattr(swiftmax, name)
        result = function(*arrays, **arguments)
        self.check(name, result, arrays, arguments)
        if self.chance(3):
            in_place = name != "logsumexp" and arrays[0].dtype == result.dtype and self.chance(2)
            out = self.placed(arrays[0].copy() if in_place else np.zeros_like(result), repeat=False)
            if in_place:
                arrays = [out, *arrays[1:]]
            self.last += f" out={(out.strides, out.dtype, in_place)}"
            assert function(*arrays, out=out, **arguments) is out
            assert out.astype(result.dtype).tobytes() == result.tobytes(), "out differs"

    def check(
        self, name: str, result: Array, arrays: list[Array], arguments: dict[str, Any]
    ) -> None:
        dtype = arguments.get("dtype", arrays[0].dtype.newbyteorder("="))
        assert type(result) is np.ndarray
        assert result.dtype == dtype
        arrays = [a.astype(dtype) for a in arrays]
        rest = {k: v for k, v in arguments.items() if k != "dtype"}
        reference.check(name, result, *arrays, **rest)

    def refused_call(self) -> None:
        name, arrays, arguments = self.draw_call()
        spoilt = self.pick(list(NONSENSE))
        if spoilt == "operand":
            arrays[int(self.random.integers(len(arrays)))] = self.pick(NONSENSE[spoilt])
        elif spoilt == "too many":
            arrays = arrays * 3
        else:
            arguments[spoilt] = self.pick(NONSENSE[spoilt])
        self.last = f"{name} {arrays} {arguments}"
        try:
            getattr(swiftmax, name)(*arrays, **arguments)
        except (TypeError, ValueError):  # an AxisError is a ValueError
            return
        raise AssertionError(f"nonsense accepted: {spoilt}")

    def call(self) -> None:
        if self.chance(4):
            self.refused_call()
            self.counts["refused"] += 1
        else:
            self.good_call()
            self.counts["good"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    fuzzer = Fuzzer(options.seed)
    warm = options.calls // 10
    for number in tqdm(range(options.calls), unit="call", mininterval=0.5):
        if number == warm:
            gc.collect()
            before = resident()
        try:
            with np.errstate(all="ignore"):  # a cast to a narrower dtype may overflow
                fuzzer.call()
        except Exception:
            print(f"\ncall {number} of seed {options.seed}: {fuzzer.last}", file=sys.stderr)
            raise
    gc.collect()
    after = resident()
    good, refused = fuzzer.counts["good"], fuzzer.counts["refused"]
    print(f"{good} results right, {refused} nonsensical calls refused")
    print(f"resident memory: {before >> 10} KiB after a tenth, {after >> 10} KiB at the end")
    if after - before > MOST_GROWTH:
        print(f"it grew by more than {MOST_GROWTH / 2**20:.0f} MiB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
