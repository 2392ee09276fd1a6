"""The demonstration: a cross-check of every function, and a classifier trained on real images."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "Tests" / "python")]

import warnings

import crosscheck
import digits
import numpy as np
import peers
import picture
import swiftmax
from tqdm import tqdm

REPEATS = 3
LOSS_TOLERANCE = 1e-9


def main() -> int:
    """Run both parts; the exit status is 1 if the two trainings differ."""
    # The others' overflows and underflows in what is asked of them here are part of the comparison.
    warnings.simplefilter("ignore", RuntimeWarning)
    swiftmax.set_num_threads(1)
    lines = crosscheck.measure()
    print()
    print(crosscheck.table(lines))
    print()

    data = digits.load()
    textbook = [
        functools.partial(peers.TEXTBOOK[name], axis=-1)
        for name in ("log_softmax", "log_softmax_backward")
    ]
    runs: dict[str, list[digits.Run]] = {"swiftmax": [], "NumPy": []}
    with tqdm(total=2 * REPEATS * digits.EPOCHS, unit="epoch", desc="Training") as bar:
        for _ in range(REPEATS):
            ours = (swiftmax.log_softmax, swiftmax.log_softmax_backward)
            runs["swiftmax"].append(digits.train(data, *ours, bar.update))
            runs["NumPy"].append(digits.train(data, *textbook, bar.update))
    best = {name: min(many, key=lambda run: run.seconds) for name, many in runs.items()}
    probabilities = digits.predict(data, best["swiftmax"], swiftmax.softmax)
    difference = np.abs(best["swiftmax"].losses - best["NumPy"].losses)
    accuracy = np.mean(probabilities.argmax(-1) == data.test_digits)

    steps = len(difference)
    print()
    print(
        f"Handwritten digits: {len(data.train)} to train on, {len(data.test)} to test, {steps} steps"
    )
    for name, run in best.items():
        print(f"  {name:9} loss {run.losses[-45:].mean():.6f}   {run.seconds:.2f} s")
    print(f"  test accuracy {accuracy:.1%}")
    print(f"  largest difference of the two loss curves {difference.max():.1e}")

    path = ROOT / "out" / "demo.png"
    path.parent.mkdir(exist_ok=True)
    picture.draw(path, data, best, probabilities, lines)
    print(f"  picture: {path.relative_to(ROOT)}")
    if not difference.max() <= LOSS_TOLERANCE:
        print(f"The loss curves differ by more than {LOSS_TOLERANCE}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
