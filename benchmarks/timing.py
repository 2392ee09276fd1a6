"""Interleaved timing: every candidate in turn, round after round, so that drift hits all alike."""

from __future__ import annotations

import statistics
import time
import timeit
from collections.abc import Mapping
from dataclasses import dataclass

from peers import Call


@dataclass(frozen=True)
class Times:
    """Seconds a call takes, over all rounds."""

    minimum: float
    median: float
    rounds: int


def interleaved(
    calls: Mapping[str, Call],
    budget: float,
    min_rounds: int = 5,
    sample: float = 1e-4,
    settle: float = 0.0,
) -> dict[str, Times]:
    """Time calls against each other.

    Parameters
    ----------
    calls : mapping of str to Call
        The candidates; each has already been run once.
    budget : float
        Seconds after which no further round begins.
    min_rounds : int
        Rounds that are run whatever the budget.
    sample : float
        Seconds a sample should last at least; short calls are repeated within a sample.
    settle : float
        Seconds a candidate runs before its sample is taken, at least one call. The threads of some
        peers wait for more work on a core for a while, on which those of the next would not start.

    Returns
    -------
    dict of str to Times
    """
    timers = {name: timeit.Timer(c.statement, globals=c.names) for name, c in calls.items()}
    repeats = {}
    for name, timer in timers.items():
        once = min(timer.timeit(1) for _ in range(2))
        repeats[name] = max(1, round(sample / once))
    samples: dict[str, list[float]] = {name: [] for name in timers}
    end = time.perf_counter() + budget
    rounds = 0
    while rounds < min_rounds or time.perf_counter() < end:
        for name, timer in timers.items():
            settled = time.perf_counter() + settle
            timer.timeit(1)  # So that the caches hold this candidate's data, not the last one's.
            while time.perf_counter() < settled:
                timer.timeit(1)
            samples[name].append(timer.timeit(repeats[name]) / repeats[name])
        rounds += 1
    return {n: Times(min(s), statistics.median(s), rounds) for n, s in samples.items()}
