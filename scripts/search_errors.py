"""Random search for the largest errors, in ULP, among inputs of many kinds and scales.

    python scripts/search_errors.py [--seconds N] [--seed N]

The exit status is 1 if an error is above what is promised.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import swiftmax
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1] / "Tests" / "python"))
import reference

Array = np.ndarray[Any, Any]
Random = np.random.Generator
LN2 = float(np.log(2))

KINDS: dict[str, Callable[[Random, tuple[int, int]], Array]] = {
    "normal": lambda r, shape: r.standard_normal(shape),
    "uniform": lambda r, shape: r.uniform(-1, 1, shape),
    "exponential": lambda r, shape: r.exponential(1, shape),
    "heavy tails": lambda r, shape: r.standard_cauchy(shape),
    "ties": lambda r, shape: r.integers(-3, 4, shape).astype(float),
    "two values": lambda r, shape: np.where(r.random(shape) < r.random(), 0.0, r.normal()),
    "one above ties": lambda r, shape: (
        r.uniform(-1, 0, (shape[0], 1)) * (np.arange(shape[1]) != shape[1] // 3)
    ),
    "repeated": lambda r, shape: np.tile(r.normal(size=(shape[0], 64)), 94)[:, : shape[1]],
    "close": lambda r, shape: r.normal(size=(shape[0], 1)) + 1e-3 * r.standard_normal(shape),
    "far below": lambda r, shape: -10 * np.abs(r.standard_normal(shape)) ** 3,
    # Where r of exp(r) 2^n is largest, and rounded most.
    "upper r": lambda r, shape: LN2 * (r.integers(-60, 1, shape) + r.uniform(0.4, 0.5, shape)),
    "lower r": lambda r, shape: LN2 * (r.integers(-60, 1, shape) - r.uniform(0.4, 0.5, shape)),
}


def inputs(random: Random, dtype: str) -> tuple[str, Array]:
    """One kind of input, scaled and moved."""
    length = int(np.exp(random.uniform(0, np.log(6000))))
    kind = str(random.choice(list(KINDS)))
    x = KINDS[kind](random, (max(1, min(2000, 20000 // length)), length))
    if not kind.endswith(" r"):
        x = x * 10 ** random.uniform(-6, 2.3)
    if random.random() < 0.4:
        x = x + random.choice([-1, 1]) * 10 ** random.uniform(-3, 6)
    return kind, np.clip(x, -6e4, 6e4).astype(dtype)


def main(seconds: float, seed: int) -> int:
    """Search, and print the worst of each function and dtype."""
    random = np.random.default_rng(seed)
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    end = time.monotonic() + seconds
    with tqdm(total=round(seconds), unit="s") as bar:
        while (left := end - time.monotonic()) > 0:
            bar.update(round(seconds - left) - bar.n)
            dtype = str(random.choice(["float32", "float64", "float16"]))
            kind, x = inputs(random, dtype)
            scale = 10 ** random.uniform(-3, 3)
            grad: Array = np.asarray(random.standard_normal(x.shape) * scale, dtype)
            calls: dict[str, tuple[Array, ...]] = {
                "softmax": (x,),
                "log_softmax": (x,),
                "logsumexp": (x,),
            }
            for name in ("softmax", "log_softmax"):
                calls[f"{name}_backward"] = (grad, getattr(swiftmax, name)(x))
            for name, arrays in calls.items():
                result = getattr(swiftmax, name)(*arrays)
                error = float(np.max(reference.error_of(name, result, *arrays, axis=-1)))
                case = f"{kind}, {x.shape[0]} x {x.shape[1]}"
                worst[name, dtype] = max(worst.get((name, dtype), (0.0, "")), (error, case))
    for (name, dtype), (error, case) in sorted(worst.items()):
        print(f"{name:22}{dtype:10}{error:7.3f}  {case}")
    return int(any(error > reference.BOUNDS[dtype] for (_, dtype), (error, _) in worst.items()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(main(options.seconds, options.seed))
