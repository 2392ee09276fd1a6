"""Every float32 x: the errors of softmax([x, 0]) and log_softmax([x, 0]).

    python scripts/exhaustive.py               all 2^32, in ten to thirty minutes
    python scripts/exhaustive.py --stride 64   each 64th

Exact results are the sigmoid and softplus of x in float64, whose own error is below 1e-8 ULP of
float32. NaN and infinities must give what the contract says. Exits with 1 beyond 2 ULP.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import swiftmax
from tqdm import tqdm

CHUNK = 2**22


def exact(x: np.ndarray) -> dict[str, np.ndarray]:
    """softmax and log_softmax of rows [x, 0] in float64, x not NaN."""
    small = np.exp(-np.abs(x))
    larger, smaller = 1 / (1 + small), small / (1 + small)
    log_larger = -np.log1p(small)
    log_smaller = log_larger - np.abs(x)
    first = x >= 0
    return {
        "softmax": np.stack(
            [np.where(first, larger, smaller), np.where(first, smaller, larger)], -1
        ),
        "log_softmax": np.stack(
            [np.where(first, log_larger, log_smaller), np.where(first, log_smaller, log_larger)], -1
        ),
    }


def ulp(value: np.ndarray) -> np.ndarray:
    """The spacing of float32 at each value."""
    exponent = np.frexp(value)[1]
    return np.ldexp(1.0, np.maximum(exponent, -125) - 24)


def largest_error(name: str, x: np.ndarray, result: np.ndarray) -> tuple[float, float]:
    """The largest error in ULP among finite x, and that x; inf where a special value is wrong."""
    is_nan = np.isnan(x) | (x == np.inf)
    if not np.isnan(result[is_nan]).all():
        return np.inf, float(x[is_nan][0])
    lowest = x == -np.inf
    expected = [0, 1] if name == "softmax" else [-np.inf, 0]
    if not (result[lowest] == expected).all():
        return np.inf, -np.inf
    finite = np.isfinite(x)
    if not finite.any():
        return 0.0, 0.0
    truth = exact(x[finite].astype(np.float64))[name]
    error = (np.abs(result[finite] - truth) / ulp(truth)).max(-1)
    worst = int(error.argmax())
    return float(error[worst]), float(x[finite][worst])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=int, default=0, help="the first bit pattern")
    parser.add_argument("--stop", type=int, default=2**32, help="one past the last")
    parser.add_argument("--stride", type=int, default=1, help="take each so many-th")
    arguments = parser.parse_args()

    worst = {"softmax": (0.0, 0.0), "log_softmax": (0.0, 0.0)}
    span = CHUNK * arguments.stride
    with np.errstate(all="ignore"):
        for start in tqdm(range(arguments.start, arguments.stop, span), unit="chunk"):
            stop = min(start + span, arguments.stop)
            x = np.arange(start, stop, arguments.stride, dtype=np.uint32).view(np.float32)
            rows = np.zeros((len(x), 2), np.float32)
            rows[:, 0] = x
            for name in worst:
                found = largest_error(name, x, getattr(swiftmax, name)(rows))
                worst[name] = max(worst[name], found)
    count = len(range(arguments.start, arguments.stop, arguments.stride))
    for name, (error, at) in worst.items():
        print(f"{name}([x, 0]): largest error of {count} x {error:.4f} ULP, at x = {at.hex()}")
    return int(max(error for error, _ in worst.values()) > 2)


if __name__ == "__main__":
    sys.exit(main())
