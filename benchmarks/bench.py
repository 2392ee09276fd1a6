"""swiftmax beside its peers: `python benchmarks/bench.py --help`.

All candidates run in one process on the same cores, in turn, round after round. Before a cell is
timed, every candidate's result is checked against the formula in float64; who disagrees is left
out, and if swiftmax does, the run fails.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import platform
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import memory
import numpy as np
import peers
import plots
import report
import swiftmax
from cells import Cell, cells, random_cells
from peers import DTYPES, FUNCTIONS, Call, Case
from timing import interleaved
from tqdm import tqdm

# The largest error that passes for agreement, in units of the dtype's epsilon: enough for a peer
# that sums 128256 terms in one float32 chain, far too little for another function or axis.
TOLERANCE = {"float32": 500, "float64": 500, "float16": 32, "bfloat16": 32}
EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def disagreement(case: Case, result: np.ndarray) -> float:
    """Return the largest error of a result over what is tolerated."""
    wide = tuple(array.astype(np.float64) for array in case.arrays)
    expected = peers.NumPy(1).prepare(Case(case.function, wide, case.axis, case.where)).result()
    result = np.asarray(result, np.float64)
    if result.shape != expected.shape:
        return math.inf
    # softmax is judged in relative terms, the others beside the size of what they subtract.
    size = np.abs(expected) + (1e-6 if case.function == "softmax" else 1)
    hidden = np.isneginf(expected)
    if not np.array_equal(hidden, np.isneginf(result)):
        return math.inf
    with np.errstate(invalid="ignore"):
        error = np.where(hidden, 0, np.abs(result - expected) / size)
    tolerance = TOLERANCE[case.dtype.name] * EPSILON[case.dtype.name]
    return float(error.max() / tolerance)


# MARK: The floor


def traffic(case: Case) -> Call:
    """The least that moves this case's memory: a copy; a maximum for logsumexp, which writes
    nothing; an addition for a backward, which has two inputs. As integers, for which NumPy has SIMD
    in any size.
    """
    views = [array.view(f"i{array.itemsize}") for array in case.arrays]
    names: dict[str, Any] = dict(zip("ab", views, strict=False))
    if case.function == "logsumexp":
        return Call("y = a.max()", names)
    names |= {"np": np, "y0": np.empty_like(views[0])}
    if len(views) == 2:
        return Call("y = np.add(a, b, out=y0)", names)
    return Call("np.copyto(y0, a); y = y0", names)


def exponential_cost(dtype: str) -> float:
    """Seconds an element costs that must be exponentiated and summed, its data in L1.

    As the library shows no such loop, this is the slope of logsumexp's time between two lengths.
    """
    size = peers.dtype_of(dtype).itemsize
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(n // size).astype(peers.dtype_of(dtype)) for n in (8192, 16384)]
    calls = {str(x.size): peers.Swiftmax(1).prepare(Case("logsumexp", (x,))) for x in rows}
    short, long = (t.minimum for t in interleaved(calls, 0.2, 20).values())
    return (long - short) / (rows[1].size - rows[0].size)


# MARK: Measuring


def measure(
    cell: Cell, candidates: Sequence[Any], budget: float, loop: float, settle: float
) -> dict[str, Any]:
    """Check and time all candidates on one cell."""
    case = cell.case()
    calls, left_out = {}, {}
    for candidate in candidates:
        try:
            call = candidate.prepare(case)
            excess = disagreement(case, call.result())
        except peers.Unsupported:
            continue
        except Exception as error:  # A peer may refuse in its own way; ours may not.
            if isinstance(candidate, peers.Swiftmax):
                raise
            left_out[candidate.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if excess <= 1:
            calls[candidate.name] = call
        elif isinstance(candidate, peers.Swiftmax):
            raise SystemExit(f"{cell}: {candidate.name} is {excess:.3g} times the tolerance off")
        else:
            left_out[candidate.name] = f"{excess:.3g} times the tolerance off"
    calls["traffic"] = traffic(case)
    times = interleaved(calls, budget, settle=settle)
    moved = times.pop("traffic").minimum
    # softmax_backward alone has no exponential in it.
    computed = 0.0 if cell.function == "softmax_backward" else loop * cell.shape.elements
    return {
        "function": cell.function,
        "dtype": cell.dtype,
        "group": cell.shape.group,
        "shape": cell.shape.shape,
        "axis": cell.shape.axis,
        "layout": cell.shape.layout,
        "label": str(cell.shape),
        "elements": cell.shape.elements,
        "times": {name: vars(t) for name, t in times.items()},
        "floor": {"traffic": moved, "compute": computed},
        "left_out": left_out,
    }


def machine(threads: int, candidates: Iterable[Any]) -> dict[str, Any]:
    """Return what the numbers depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((s.split(": ")[1] for s in lines if s.startswith("model name")), cpu)
    config = io.StringIO()
    with contextlib.redirect_stdout(config):
        swiftmax.show_config()
    versions = {c.name: c.version for c in candidates if c.name != peers.SwiftmaxOut.name}
    return {
        "cpu": cpu,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "threads": threads,
        "cores": sorted(os.sched_getaffinity(0)),
        "config": config.getvalue().strip().splitlines(),
        "environment": {
            name: os.environ[name]
            for name in ("SWIFTMAX_ISA", "ATEN_CPU_CAPABILITY")
            if name in os.environ
        },
    }


# MARK: The command


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer cells, in under a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results")
    parser.add_argument("--plot", action="store_true", help="draw the pictures of docs/images")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="time for each cell")
    parser.add_argument("--function", nargs="+", choices=FUNCTIONS, default=FUNCTIONS)
    parser.add_argument("--dtype", nargs="+", choices=DTYPES)
    parser.add_argument("--peer", nargs="+", choices=[peer.name for peer in peers.OTHERS])
    parser.add_argument("--random", type=int, metavar="N", help="N cells of random shapes instead")
    parser.add_argument("--seed", type=int, default=0, help="of the random shapes")
    parser.add_argument("--powers", action="store_true", help="random shapes of powers of two")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    cores = sorted(os.sched_getaffinity(0))
    if options.threads > len(cores):
        raise SystemExit(f"--threads {options.threads}: this process may use {len(cores)} cores")
    # The last cores, as interrupts favor the first. Before the peers load: JAX counts cores then.
    os.sched_setaffinity(0, cores[-options.threads :])
    warnings.filterwarnings("ignore")
    dtypes = options.dtype or (("float32", "float64") if options.quick else DTYPES)
    # With one thread, before the candidates are told how many they have.
    loops = {dtype: exponential_cost(dtype) for dtype in dtypes}
    others = [peer for peer in peers.OTHERS if peer.name in (options.peer or [peer.name])]
    candidates = peers.installed(options.threads, (peers.Swiftmax, peers.SwiftmaxOut, *others))

    info = machine(options.threads, candidates)
    print(report.header(info), flush=True)

    names = (tuple(options.function), tuple(dtypes))
    if options.random:
        chosen = list(random_cells(*names, options.random, options.seed, options.powers))
    else:
        chosen = list(cells(*names, options.quick))
    settle = 0.01 if options.threads > 1 else 0.0
    budget = options.budget or (0.1 if options.quick else 1.0)
    records = []
    for cell in (bar := tqdm(chosen, unit="cell", file=sys.stderr)):
        bar.set_description(f"{cell.function} {cell.dtype} {cell.shape}")
        records.append(measure(cell, candidates, budget, loops[cell.dtype], settle))
    result: dict[str, Any] = {"machine": info, "cells": records}
    if not options.quick and not options.random:
        result["memory"] = {name: memory.measure(name) for name in info["versions"]}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(report.text(result))
    if options.plot:
        plots.draw(result, Path(__file__).parents[1] / "docs" / "images")


if __name__ == "__main__":
    main()
