"""What a run of the benchmark says: `python benchmarks/report.py FILE` prints a kept one.

Of several FILEs, runs of the same cells on the same machine, each candidate's least time counts: on
a machine that is shared with others, not every minute of a run is undisturbed. `--json FILE` keeps
that.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peers

Record = dict[str, Any]


def over_ours(record: Record, name: str) -> float | None:
    """Return a candidate's time over ours, both minima."""
    times = record["times"]
    if name not in times:
        return None
    return float(times[name]["minimum"] / times["swiftmax"]["minimum"])


def fastest_over_ours(record: Record) -> float:
    """Return the fastest peer's time over ours; infinity where no peer agrees with the formula."""
    rivals = set(record["times"]) - {peers.Swiftmax.name, peers.SwiftmaxOut.name}
    return min((over_ours(record, name) or math.inf for name in rivals), default=math.inf)


def over_floor(record: Record) -> float:
    """Return our time over the greater of the two floors."""
    return float(record["times"]["swiftmax"]["minimum"] / max(record["floor"].values()))


def table(records: Sequence[Record]) -> str:
    """Return one line a cell, in blocks of a function and dtype."""
    columns = [peer.name for peer in peers.OTHERS] + [peers.SwiftmaxOut.name]
    lines = []
    block = None
    for r in records:
        if (r["function"], r["dtype"]) != block:
            block = (r["function"], r["dtype"])
            lines.append("")
            lines.append(
                f"{' '.join(block):32}{'swiftmax us':>12}"
                + "".join(f"{name:>14}" for name in columns)
                + f"{'fastest peer':>14}{'over floor':>12}"
            )
        ratios = [over_ours(r, name) for name in columns]
        lines.append(
            f"  {r['label']:30}{r['times']['swiftmax']['minimum'] * 1e6:12.2f}"
            + "".join(f"{'-' if x is None else f'{x:.2f}':>14}" for x in ratios)
            + f"{fastest_over_ours(r):14.2f}"
            + (f"{over_floor(r):12.2f}" if r["elements"] >= 4096 else f"{'-':>12}")
        )
    return "\n".join(lines[1:])


def summary(records: Sequence[Record]) -> str:
    """Return the geometric mean of each kind, how many cells are below 1, and the worst."""

    def line(title: str, chosen: list[tuple[float, Record]]) -> str:
        if not chosen:
            return f"{title:48} -"
        mean = statistics.geometric_mean(ratio for ratio, _ in chosen)
        worst, r = min(chosen, key=lambda pair: pair[0])
        behind = f"{sum(ratio < 1 for ratio, _ in chosen)} of {len(chosen)}"
        where = f"{r['function']} {r['dtype']} {r['label']}"
        return f"{title:48}{mean:6.2f}{behind:>12}{worst:7.2f}   {where}"

    lines = [f"{'':48}{'mean':>6}{'below 1':>12}{'worst':>7}   worst cell"]
    for kind, functions in (("forward", peers.FORWARD), ("backward", peers.BACKWARD)):
        chosen = [r for r in records if r["function"] in functions]
        wide = [r for r in chosen if r["dtype"] in ("float32", "float64")]
        lines.append(
            line(
                f"{kind}, 32 and 64 bits: fastest peer over ours",
                [(ratio, r) for r in wide if (ratio := fastest_over_ours(r)) < math.inf],
            )
        )
        for bits, some in (("32 and 64", wide), ("16", [r for r in chosen if r not in wide])):
            ratios = [(over_ours(r, "PyTorch"), r) for r in some]
            lines.append(
                line(
                    f"{kind}, {bits} bits: PyTorch over ours",
                    [(ratio, r) for ratio, r in ratios if ratio is not None],
                )
            )
    large = [(over_floor(r), r) for r in records if r["elements"] >= 4096]
    if large:
        mean = statistics.geometric_mean(x for x, _ in large)
        worst, r = max(large, key=lambda pair: pair[0])
        lines.append(
            f"{'ours over the floor, 4096 elements and more':48}{mean:6.2f}{'':12}{worst:7.2f}   "
            f"{r['function']} {r['dtype']} {r['label']}"
        )
    return "\n".join(lines)


def groups(records: Sequence[Record]) -> str:
    """Return the fastest peer's time over ours by function and kind of shape, where one agrees."""
    chosen: dict[tuple[str, str], list[float]] = {}
    for r in records:
        ratio = fastest_over_ours(r)
        if math.isfinite(ratio):
            chosen.setdefault((r["function"], r["group"]), []).append(ratio)
    lines = [f"{'fastest peer over ours':38}{'mean':>6}{'below 1':>14}{'worst':>7}"]
    for (function, group), ratios in sorted(chosen.items()):
        behind = f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}"
        mean = statistics.geometric_mean(ratios)
        lines.append(f"{function:22}{group:16}{mean:6.2f}{behind:>14}{min(ratios):7.2f}")
    return "\n".join(lines)


def header(machine: Record) -> str:
    """Return what the numbers depend on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    environment = [f"{name}={value}" for name, value in machine["environment"].items()]
    return "\n".join(
        [
            f"{machine['cpu']}, {machine['threads']} thread(s) on core(s) {machine['cores']}",
            f"{machine['system']}, Python {machine['python']}",
            versions,
            *machine["config"],
            *environment,
        ]
    )


def text(result: Record) -> str:
    """Return everything below the header."""
    records = result["cells"]
    lines = ["", "Times of the others are multiples of ours.", table(records), "", groups(records)]
    lines += ["", summary(records)]
    for r in records:
        for name, reason in r["left_out"].items():
            lines.append(f"left out: {name}, {r['function']} {r['dtype']} {r['label']}: {reason}")
    if "memory" in result:
        peaks = ", ".join(f"{name} {value:.0f}" for name, value in result["memory"].items())
        lines += ["", f"Peak memory beyond a float32 input of 256 MiB, softmax, in MiB: {peaks}"]
    return "\n".join(lines)


def least(runs: Sequence[Record]) -> Record:
    """Return the first of the runs, with the least times of all."""
    for cells in zip(*(run["cells"] for run in runs), strict=True):
        first = cells[0]
        for name in first["times"]:
            times = [cell["times"][name] for cell in cells if name in cell["times"]]
            first["times"][name] = min(times, key=lambda t: float(t["minimum"]))
        for kind in first["floor"]:
            first["floor"][kind] = min(cell["floor"][kind] for cell in cells)
    return runs[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the least times")
    arguments = parser.parse_args()
    kept = least([json.loads(path.read_text()) for path in arguments.files])
    if arguments.json:
        arguments.json.write_text(json.dumps(kept, indent=1) + "\n")
    print(header(kept["machine"]))
    print(text(kept))


if __name__ == "__main__":
    main()
