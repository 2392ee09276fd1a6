"""Cross-check swiftmax with exact results, NumPy and SciPy, and learn handwritten digits with it.

Prints a table and two training reports, and draws out/demo.png. Exits with 1 if the two trainings,
swiftmax's and NumPy's, differ by more than 1e-9 in any loss.
"""

from __future__ import annotations

import sys
from pathlib import Path

import crosscheck
import digits
import numpy as np
import picture
import swiftmax
import textbook

PICTURE = Path(__file__).parents[1] / "out/demo.png"
TOLERANCE = 1e-9


def main() -> int:
    swiftmax.set_num_threads(1)  # As many as the others use.

    print(f"{crosscheck.SHAPE[0]} slices of {crosscheck.SHAPE[1]} logits of scale 10, one thread\n")
    table = crosscheck.print_table()
    print("\nErrors are against exact results; those of gradients in ULP of the larger term.")

    print("\nHandwritten digits, the same training with swiftmax and with NumPy's formulas:\n")
    data = digits.load()
    ours = digits.train(data, swiftmax, "swiftmax")
    numpys = digits.train(data, textbook, "NumPy")
    for name, training in (("swiftmax", ours), ("NumPy", numpys)):
        print(
            f"{name:9} loss {training.losses[-1].mean():.6f}"
            f"   test accuracy {training.accuracy(data):.2%}   {training.seconds:.2f} s"
        )
    difference = float(np.abs(ours.losses - numpys.losses).max())
    print(f"largest difference of the loss curves: {difference:.1e}")

    picture.draw(data, ours, numpys, table, TOLERANCE, PICTURE)
    print(f"\nThe picture: {PICTURE}")
    if not difference <= TOLERANCE:
        print(f"The loss curves differ by more than {TOLERANCE}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
