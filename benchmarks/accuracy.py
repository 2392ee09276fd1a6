"""The accuracy table: largest and mean error in ULP, swiftmax beside its peers.

    python benchmarks/accuracy.py             prints it
    python benchmarks/accuracy.py --write     puts it into docs/accuracy.md, and draws the figure

Errors are against the exact results of Tests/python/reference.py: in ULP of the exact value, those
of gradients in ULP of the larger of their two terms.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "Tests/python"))
import reference  # noqa: E402
from inputs import BACKWARD, DTYPES, FORWARD, gradients, logits  # noqa: E402

PAGE = ROOT / "docs/accuracy.md"
PICTURE = ROOT / "docs/images/accuracy.png"
MARK = "<!-- the table of benchmarks/accuracy.py -->"
# Name of a family of inputs, that of Tests/python/inputs.py, and a shape.
FAMILIES = {
    "normal": ("normal", (64, 1000)),
    "logits x10": ("logits", (64, 1000)),
    "wide +-80": ("wide", (64, 1000)),
    "offset 1e4": ("offset_1e4", (64, 1000)),
    "offset -1e6": ("offset_-1e6", (64, 1000)),
    "one-hot": ("one_hot", (64, 1000)),
    "vocabulary": ("logits", (1, 128256)),
    "pairs": ("logits", (16000, 2)),
    "tiny rows": ("logits", (6000, 11)),
    "near ties": ("near_ties", (64, 1000)),
    "ties below": ("ties_below", (16, 4096)),
    "heavy tails": ("heavy_tails", (64, 1000)),
    "outliers": ("outliers", (64, 1000)),
    "subnormal results": ("subnormal_results", (64, 1000)),
}


def cases(dtypes: list[str]) -> Iterator[tuple[str, str, str, tuple[np.ndarray, ...]]]:
    """Function, dtype, family and arrays of each line."""
    for function in FORWARD:
        for dtype in dtypes:
            for seed, (family, (kind, shape)) in enumerate(FAMILIES.items()):
                # 16-bit types cannot hold these.
                if dtype.endswith("16") and family.startswith("offset"):
                    continue
                yield function, dtype, family, (logits(kind, seed, shape, dtype),)
    for function in BACKWARD:
        for dtype in dtypes:
            for seed, shape in enumerate([(64, 1000), (6000, 11), (1, 128256)]):
                arrays = gradients(function, seed, shape, dtype)
                yield function, dtype, f"{shape[0]} x {shape[1]}", arrays


def errors(library: Any, function: str, arrays: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """The error of each element of a library's result; None where it has no such function."""
    try:
        result = library.prepare(peers.Case(function, arrays, -1, None)).result()
    except peers.Unsupported:
        return None
    result = np.asarray(result)
    if result.dtype != arrays[0].dtype:
        return None
    with np.errstate(all="ignore"):
        return np.asarray(reference.error_of(function, result, *arrays), float)


def measured(
    libraries: list[Any], dtypes: list[str]
) -> Iterator[tuple[list[str], dict[str, np.ndarray]]]:
    """Each line's name and the errors of the libraries that take part."""
    for function, dtype, family, arrays in tqdm(list(cases(dtypes)), file=sys.stderr, unit="case"):
        found = {}
        for library in libraries:
            line = errors(library, function, arrays)
            if line is not None:
                found[library.name] = line
        yield [function, dtype, family], found


def cell(error: np.ndarray | None) -> str:
    """Largest and mean error."""
    if error is None:
        return "-"
    if not np.isfinite(error).all():
        return "wrong"
    return f"{error.max():.3g} / {error.mean():.2g}"


def draw(lines: list[tuple[list[str], dict[str, np.ndarray]]], path: Path) -> None:
    """How often each library errs by how much, in float32 softmax and log_softmax."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    colors = ["#d1495b", "#30638e", "#00798c", "#edae49", "#8d96a3", "#6f4e7c"]
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, charts = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained", sharey=True)
    for chart, function in zip(charts, ("softmax", "log_softmax"), strict=True):
        chosen = [e for (f, dtype, _), e in lines if f == function and dtype == "float32"]
        names = list(dict.fromkeys(name for e in chosen for name in e))
        for name, color in zip(names, colors, strict=False):
            every = np.concatenate([e[name].ravel() for e in chosen if name in e])
            every = np.sort(every[np.isfinite(every)])
            share = 1 - np.arange(len(every)) / len(every)
            width = 3 if name == "swiftmax" else 1.4
            chart.loglog(np.maximum(every, 1e-2), share, color=color, lw=width, label=name)
        chart.axvline(2, color="#888888", lw=0.8, ls=":")
        chart.set(title=f"{function}, float32", xlabel="error in ULP", xlim=(1e-2, 3e7))
    charts[0].set_ylabel("share of results with a larger error")
    charts[1].legend(frameon=False)
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--write", action="store_true", help="update docs/accuracy.md and its figure"
    )
    parser.add_argument("--dtype", nargs="+", default=DTYPES, choices=DTYPES)
    arguments = parser.parse_args()

    libraries = [peers.Swiftmax(1), *peers.installed()]
    names = [library.name for library in libraries]
    lines = list(measured(libraries, arguments.dtype))
    heads = ["function", "dtype", "inputs", *names]
    table = [[*name, *(cell(found.get(n)) for n in names)] for name, found in lines]
    widths = [max(len(row[i]) for row in [heads, *table]) for i in range(len(heads))]
    text = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    text.insert(0, "| " + " | ".join(h.ljust(w) for h, w in zip(heads, widths, strict=True)) + " |")
    text.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print("largest / mean error in ULP\n")
    print("\n".join(text))
    worst: dict[tuple[str, str], float] = {}
    for (function, dtype, _), found in lines:
        key = (function, dtype)
        worst[key] = max(worst.get(key, 0), float(found["swiftmax"].max()))
    print("\nlargest of swiftmax: " + ", ".join(f"{f} {d} {e:.3g}" for (f, d), e in worst.items()))
    if arguments.write:
        before, _, rest = PAGE.read_text().partition(MARK)
        _, _, after = rest.partition(MARK)
        PAGE.write_text(before + MARK + "\n\n" + "\n".join(text) + "\n\n" + MARK + after)
        draw(lines, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
