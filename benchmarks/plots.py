"""Pictures of a run: `python benchmarks/plots.py FILE` draws a kept one into docs/images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import peers
import report
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

COLORS = {
    "swiftmax": "#d1421f",
    "PyTorch": "#7b5ea7",
    "JAX": "#1b8a6b",
    "onnxruntime": "#2f6fb3",
    "SciPy": "#e0a100",
    "NumPy": "#8a8a8a",
}
RATIOS = (0.5, 1, 2, 5, 10, 20, 50, 100)


def draw(result: dict[str, Any], folder: Path) -> None:
    """Draw one picture a dtype: each peer's time over ours, cell by cell."""
    folder.mkdir(parents=True, exist_ok=True)
    for dtype in dict.fromkeys(r["dtype"] for r in result["cells"]):
        records = [r for r in result["cells"] if r["dtype"] == dtype]
        figure = ratios(records, f"{dtype}: time of the others, as a multiple of swiftmax's")
        machine = result["machine"]
        note = (
            f"{machine['cpu']}, {machine['threads']} thread(s); dashed: equal; {_versions(machine)}"
        )
        figure.text(0.995, 0.003, note, ha="right", va="bottom", fontsize=7, color="#666666")
        figure.savefig(folder / f"benchmark-{dtype}.png", dpi=130)
        plt.close(figure)


def _versions(machine: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in machine["versions"].items())


def ratios(records: list[dict[str, Any]], title: str) -> plt.Figure:
    """Draw a panel for each function, a line for each shape, a mark for each peer."""
    functions = list(dict.fromkeys(r["function"] for r in records))
    labels = list(dict.fromkeys(r["label"] for r in records))
    groups = {r["label"]: r["group"] for r in records}
    rows, row = {}, 0.0
    for i, label in enumerate(labels):
        row += 1 if i == 0 or groups[label] == groups[labels[i - 1]] else 1.6
        rows[label] = row
    figure, axes = plt.subplots(
        1,
        len(functions),
        sharey=True,
        squeeze=False,
        layout="constrained",
        figsize=(3.2 + 2.5 * len(functions), 1.4 + 0.235 * row),
    )
    figure.get_layout_engine().set(rect=(0, 0.02, 1, 0.98))
    for panel, function in zip(axes[0], functions, strict=True):
        panel.axvspan(1e-3, 1, color="#f6e3dd", zorder=0)
        panel.axvline(1, color=COLORS["swiftmax"], linestyle="--", linewidth=1, zorder=1)
        chosen = [r for r in records if r["function"] == function]
        for r in chosen:
            panel.axhline(rows[r["label"]], color="#e8e8e8", linewidth=0.6, zorder=0)
        low, high = 0.8, 2.0
        for peer in peers.OTHERS:
            points = [(report.over_ours(r, peer.name), rows[r["label"]]) for r in chosen]
            known = [(x, y) for x, y in points if x is not None]
            if known:
                x, y = zip(*known, strict=True)
                low, high = min(low, *x), max(high, *x)
                panel.scatter(
                    x, y, s=22, color=COLORS[peer.name], edgecolor="white", linewidth=0.4, zorder=2
                )
        panel.set_xscale("log")
        panel.set_xlim(low / 1.15, high * 1.3)
        panel.xaxis.set_major_locator(FixedLocator(RATIOS))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}x"))
        panel.set_title(function, fontsize=10)
        panel.tick_params(axis="both", labelsize=8, length=0)
        for side in panel.spines.values():
            side.set_visible(False)
    axes[0, 0].set_yticks(list(rows.values()), list(rows))
    axes[0, 0].set_ylim(row + 0.7, 0.3)
    marks = [
        plt.Line2D([], [], marker="o", linestyle="", color=COLORS[peer.name], label=peer.name)
        for peer in peers.OTHERS
    ]
    figure.suptitle(title, fontsize=12, fontweight="bold", x=0.01, ha="left")
    figure.legend(handles=marks, loc="upper right", ncols=len(marks), frameon=False, fontsize=9)
    return figure


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(__file__).parents[1] / "docs" / "images")
