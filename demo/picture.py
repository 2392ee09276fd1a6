"""The picture of the demonstration."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from crosscheck import LAYOUTS, Line
from digits import BATCH, Array, Data, Run
from matplotlib.axes import Axes
from matplotlib.gridspec import SubplotSpec
from plots import COLORS

SHOWN = 12


def draw(
    path: Path, data: Data, runs: dict[str, Run], probabilities: Array, lines: list[Line]
) -> None:
    """Draw the loss curves, some test digits with their probabilities, and the errors."""
    figure = plt.figure(figsize=(14, 9.2), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1, 1.25), height_ratios=(1.25, 0.75, 1.25))
    _losses(figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0]), runs, len(data.train))
    _digits(figure, grid[:2, 1], data, probabilities)
    _bars(figure.add_subplot(grid[2, 0]), lines, "errors", "Largest error, ULP (float32)")
    _bars(figure.add_subplot(grid[2, 1]), lines, "seconds", "Time, us (float32, 256000 elements)")
    accuracy = np.mean(probabilities.argmax(-1) == data.test_digits)
    figure.suptitle(
        f"swiftmax: handwritten digits, {accuracy:.1%} of {len(data.test)} test images right",
        fontsize=16,
        fontweight="bold",
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bare(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _losses(curves: Axes, differences: Axes, runs: dict[str, Run], images: int) -> None:
    """Both loss curves, an epoch a point, and below how far they are apart."""
    steps = -(-images // BATCH)
    epochs = np.arange(1, len(runs["NumPy"].losses) // steps + 1)

    def per_epoch(name: str) -> Array:
        return runs[name].losses.reshape(-1, steps).mean(-1)

    curves.plot(
        epochs, per_epoch("NumPy"), color=COLORS["NumPy"], linewidth=6, alpha=0.45, label="NumPy"
    )
    curves.plot(
        epochs, per_epoch("swiftmax"), color=COLORS["swiftmax"], linewidth=1.6, label="swiftmax"
    )
    curves.set(yscale="log", title="Training loss", xlim=(1, len(epochs)))
    curves.tick_params(labelbottom=False)
    curves.legend(
        frameon=False,
        title=" / ".join(f"{name} {run.seconds:.2f} s" for name, run in runs.items()),
    )
    _bare(curves)

    apart = np.abs(runs["swiftmax"].losses - runs["NumPy"].losses).reshape(-1, steps).max(-1)
    differences.semilogy(epochs, np.maximum(apart, 1e-18), color="#333333", linewidth=1)
    differences.axhline(1e-9, color=COLORS["swiftmax"], linestyle="--", linewidth=1)
    differences.text(len(epochs), 1.6e-9, "allowed", ha="right", color=COLORS["swiftmax"])
    differences.set(
        title="Difference of the two curves", xlabel="epoch", ylim=(1e-18, 1e-7), xlim=(1, len(epochs))
    )
    _bare(differences)


def _digits(figure: plt.Figure, place: SubplotSpec, data: Data, probabilities: Array) -> None:
    """The test images the classifier is least sure of, with its probabilities."""
    unsure = np.argsort(probabilities.max(-1))[:SHOWN]
    grid = place.subgridspec(4, 3, wspace=0.12, hspace=0.1)
    for cell, index in zip(grid, unsure, strict=True):
        image_place, bars_place = cell.subgridspec(1, 2, width_ratios=(1, 1.6), wspace=0.02)
        image = figure.add_subplot(image_place)
        image.imshow(data.test[index].reshape(8, 8), cmap="gray_r", interpolation="nearest")
        image.set(xticks=[], yticks=[])
        for side in image.spines.values():
            side.set_color("#bbbbbb")
        bars = figure.add_subplot(bars_place)
        truth = data.test_digits[index]
        guess = probabilities[index].argmax()
        colors = ["#c9c9c9"] * 10
        colors[guess] = COLORS["swiftmax"]
        colors[truth] = COLORS["JAX"]
        bars.bar(range(10), probabilities[index], color=colors)
        bars.set(ylim=(0, 1), yticks=[], xticks=range(10))
        bars.tick_params(labelsize=7, length=0, pad=1)
        bars.spines["left"].set_visible(False)
        _bare(bars)
        if cell is grid[0, 1]:
            bars.set_title("x")


def _bars(axes: Axes, lines: list[Line], field: str, title: str) -> None:
    """Of each function and layout a group of bars, a bar for each library."""
    chosen = [line for line in lines if line.dtype == "float32"]
    names = ("swiftmax", "NumPy", "SciPy")
    for i, name in enumerate(names):
        places, heights = [], []
        for j, line in enumerate(chosen):
            value = getattr(line, field).get(name)
            if value is not None:
                places.append(j + j // len(LAYOUTS) * 0.6 + (i - 1) * 0.27)
                heights.append(value * (1e6 if field == "seconds" else 1))
        axes.bar(places, heights, width=0.27, color=COLORS[name], label=name)
    axes.set(yscale="log", title=title)
    middle = len(LAYOUTS) // 2
    groups = [line.function for line in chosen[:: len(LAYOUTS)]]
    axes.set_xticks(
        [g * (len(LAYOUTS) + 0.6) + middle for g in range(len(groups))],
        [name.replace("_backward", "\nbackward") for name in groups],
    )
    axes.tick_params(axis="x", length=0)
    axes.legend(frameon=False, ncols=3, loc="upper right")
    _bare(axes)
