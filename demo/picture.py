"""The demo in one picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from crosscheck import FUNCTIONS, Row
from digits import Data, Training

OURS, NUMPY, SCIPY = "#d1495b", "#30638e", "#8fb8de"
SHOWN = 8


def draw(data: Data, ours: Training, numpys: Training, table: list[Row], path: Path) -> None:
    """Loss curves, some digits with their probabilities, and the errors of the cross-check."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure = plt.figure(figsize=(13, 8.6), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=[1.25, 0.55, 0.75])
    losses, errors = top.subplots(1, 2)

    width = 9
    smooth = np.convolve(ours.losses, np.ones(width) / width, "valid")
    losses.semilogy(numpys.losses, color=NUMPY, alpha=0.35, lw=1, label="NumPy, each step")
    losses.semilogy(
        np.arange(len(smooth)) + width // 2, smooth, color=OURS, lw=2, label="swiftmax, smoothed"
    )
    difference = np.maximum(np.abs(ours.losses - numpys.losses), 1e-18)
    losses.semilogy(difference, color="#888888", lw=0.8, label="difference of the two")
    losses.set(
        xlabel="step", ylabel="loss", title=f"Learning digits: test accuracy {ours.accuracy:.1%}"
    )
    losses.legend(frameon=False, loc="center right")

    position = np.arange(len(FUNCTIONS))
    for shift, (name, color) in enumerate([("swiftmax", OURS), ("NumPy", NUMPY), ("SciPy", SCIPY)]):
        heights = [
            max(
                (r.results[name][0] for r in table if r.function == f and name in r.results),
                default=np.nan,
            )
            for f in FUNCTIONS
        ]
        bars = errors.bar(position + (shift - 1) * 0.27, heights, 0.25, color=color, label=name)
        labels = ["" if np.isnan(h) else f"{h:.2g}" for h in heights]
        errors.bar_label(bars, labels, fontsize=8, padding=2)
    errors.set(yscale="log", ylabel="ULP", title="Largest error, float32 and float64")
    errors.set_xticks(position, [f.replace("_backward", "\nbackward") for f in FUNCTIONS])
    errors.axhline(2, color="#888888", lw=0.8, ls=":")
    errors.legend(frameon=False)

    # The digits it is least sure of are the ones worth a look.
    doubtful = np.argsort(ours.logp.max(-1))[:SHOWN]
    pictures, bars = middle.subplots(1, SHOWN), bottom.subplots(1, SHOWN, sharey=True)
    for image, chart, index in zip(pictures, bars, doubtful, strict=True):
        image.imshow(data.test[index].reshape(8, 8), cmap="gray_r", interpolation="nearest")
        image.set_axis_off()
        p = np.exp(ours.logp[index])
        label = data.test_labels[index]
        colors = [OURS if digit == label else "#c9c9c9" for digit in range(10)]
        chart.bar(range(10), p, color=colors)
        chart.set_xticks(range(10))
        chart.tick_params(labelsize=7)
    bars[0].set_ylabel("probability")
    middle.suptitle("The digits it was least sure of, and what it thought of them (red: the truth)")
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=130)
