"""The demo in one picture."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from crosscheck import FUNCTIONS, LIBRARIES, Row, in_short
from digits import Data, Training
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure

COLORS = {"swiftmax": "#d1495b", "NumPy": "#30638e", "SciPy": "#8fb8de"}
TRUTH, OTHER, INK = "#00798c", "#cfd4d9", "#4a4f55"
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "legend.frameon": False,
}


def draw(
    data: Data, ours: Training, numpys: Training, table: list[Row], tolerance: float, path: Path
) -> None:
    """Loss curves, the errors of the cross-check, and some digits with their probabilities."""
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(13, 8.4), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)
        top, bottom = figure.subfigures(2, 1, height_ratios=[1.7, 1], hspace=0.03)
        left, right = top.subfigures(1, 2, width_ratios=[1, 1.15], wspace=0.02)
        curves, difference = left.subplots(2, 1, sharex=True, height_ratios=[1.5, 1])
        draw_losses(curves, ours, numpys)
        draw_difference(difference, np.abs(ours.losses - numpys.losses), tolerance)
        draw_errors(right.subplots(), table)
        draw_digits(bottom, data, ours)
        path.parent.mkdir(exist_ok=True)
        figure.savefig(path, dpi=130)
        plt.close(figure)


def draw_losses(axes: Axes, ours: Training, numpys: Training) -> None:
    """Both curves, the mean of each epoch."""
    epochs = np.arange(1, len(ours.losses) + 1)
    for name, training, width, alpha in (("NumPy", numpys, 7, 0.35), ("swiftmax", ours, 2, 1)):
        axes.semilogy(
            epochs,
            training.losses.mean(-1),
            color=COLORS[name],
            lw=width,
            alpha=alpha,
            solid_capstyle="round",
            label=f"{name}, {training.seconds:.2f} s",
        )
    axes.set(ylabel="loss", title="Learning handwritten digits: training loss")
    axes.legend()


def draw_difference(axes: Axes, difference: np.ndarray, tolerance: float) -> None:
    """How far the curves are apart: the largest difference in each epoch."""
    epochs = np.arange(1, len(difference) + 1)
    axes.semilogy(epochs, np.maximum(difference.max(-1), 1e-17), color=INK, lw=1.2)
    axes.axhline(tolerance, color=INK, lw=0.8, ls=":")
    axes.annotate(
        "allowed", (1, tolerance), (0, -3), textcoords="offset points", color=INK, va="top"
    )
    axes.set(xlabel="epoch", ylabel="difference", ylim=(1e-17, 1e-8), title="swiftmax - NumPy")


def draw_errors(axes: Axes, table: list[Row]) -> None:
    """A bar a library for each function: its largest error in any dtype and layout."""
    lowest = 0.1
    for place, (name, color) in enumerate(COLORS.items()):
        largest = [
            max(r.errors.get(name, np.nan) for r in table if r.function == f) for f in FUNCTIONS
        ]
        positions = np.arange(len(FUNCTIONS)) + (place - 1) * 0.3
        axes.bar(positions, largest, 0.28, color=color, label=name)
        for x, error in zip(positions, largest, strict=True):
            missing = np.isnan(error)
            axes.annotate(
                "none" if missing else in_short(error),
                (x, lowest if missing else error),
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=INK,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            )
    axes.axhline(2, color=INK, lw=0.8, ls=":", zorder=0)
    axes.set(yscale="log", ylim=(lowest, 1e9), ylabel="ULP")
    axes.set_title("Largest error, of float32 and float64 in all layouts (dotted: 2 ULP)")
    axes.set_xticks(range(len(FUNCTIONS)), [f.replace("_back", "\n_back") for f in FUNCTIONS])
    axes.tick_params(axis="x", length=0)
    axes.legend(ncols=len(LIBRARIES), loc="upper right")


def draw_digits(figure: SubFigure, data: Data, training: Training) -> None:
    """Of each digit the test image that was hardest, and the probabilities it was given."""
    figure.suptitle(
        f"{training.accuracy(data):.1%} of {len(data.test)} test images right; of each digit the"
        " hardest one, and its probabilities (teal: the truth)",
        x=0.006,
        ha="left",
        fontsize=11,
        fontweight="bold",
    )
    images, charts = figure.subplots(2, 10, height_ratios=[1.15, 1])
    for digit, (image, chart) in enumerate(zip(images, charts, strict=True)):
        believed = np.where(data.test_labels == digit, training.logp[:, digit], np.inf)
        hardest = believed.argmin()
        image.imshow(data.test[hardest].reshape(8, 8), cmap="gray_r", interpolation="nearest")
        image.set(xticks=[], yticks=[])
        image.spines[:].set(visible=True, color=OTHER)
        colors = [TRUTH if d == digit else OTHER for d in range(10)]
        chart.bar(range(10), np.exp(training.logp[hardest]), 0.85, color=colors)
        chart.set(ylim=(0, 1), yticks=[])
        chart.set_xticks(range(10))
        chart.tick_params(length=0, labelsize=7.5, pad=2)
        chart.spines["left"].set_visible(False)
