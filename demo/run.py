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


def main() -> int:
    table = list(crosscheck.rows())
    crosscheck.print_table(table)

    print(
        "\nHandwritten digits: the same training with swiftmax and with NumPy's textbook formulas\n"
    )
    data = digits.load()
    ours = digits.train(data, swiftmax, "swiftmax")
    numpys = digits.train(data, textbook, "NumPy")
    difference = float(np.abs(ours.losses - numpys.losses).max())
    for name, result in (("swiftmax", ours), ("NumPy", numpys)):
        print(
            f"{name:9} last loss {result.losses[-1]:.6f}   test accuracy {result.accuracy:.2%}"
            f"   {result.seconds:.2f} s"
        )
    print(f"largest difference between the loss curves: {difference:.1e}")

    picture.draw(data, ours, numpys, table, PICTURE)
    print(f"\nThe picture: {PICTURE}")
    return 0 if difference < 1e-9 else 1


if __name__ == "__main__":
    sys.exit(main())
