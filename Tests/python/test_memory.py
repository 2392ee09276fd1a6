"""The memory of outputs: where it lies, and what of it is kept for the next ones."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import swiftmax

LARGE = 2_000_000  # float32 elements; from 4 MiB on, blocks are kept
MEDIUM = 40_000  # from 128 KiB on, they have a place

try:
    from numpy._core import multiarray
except ImportError:  # NumPy 1
    from numpy.core import multiarray  # type: ignore[no-redef]


def handler_of(array: np.ndarray[Any, Any]) -> Any:
    """The name of the allocator that an array's memory is from."""
    return multiarray.get_handler_name(array)


def test_small_outputs_are_from_the_memory_of_numpy() -> None:
    """And so is everybody else's array."""
    x = np.zeros(LARGE, np.float32)
    for size in (MEDIUM, LARGE):
        y = swiftmax.softmax(x[:size])
        assert y.flags.owndata
        assert handler_of(y) == "swiftmax"
    assert handler_of(swiftmax.softmax(x[:1000])) == "default_allocator"
    assert handler_of(swiftmax.logsumexp(x)) == "default_allocator"
    assert handler_of(np.zeros(LARGE)) == "default_allocator"


def test_outputs_lie_apart_from_their_operands() -> None:
    """At the start of a cache line, and a quarter of a page or more from both operands in it."""
    memory = np.zeros(LARGE + 2000, np.float32)
    for size in (MEDIUM, LARGE):
        for first in (0, 5, 400, 1023):
            x = memory[first : first + size]
            outputs = [swiftmax.softmax(x)]
            others = [memory[second : second + size] for second in (0, 3, 500, 1000)]
            outputs += [swiftmax.softmax_backward(x, other) for other in others]
            for operand, output in zip([x, *others], outputs, strict=True):
                place = output.ctypes.data
                assert place % 64 == 0
                for other in (x, operand):
                    distance = (place - other.ctypes.data) % 4096
                    assert 1024 - 64 <= distance <= 3072 + 64


def test_kept_memory_holds_any_later_output() -> None:
    """What an earlier output left in a block does not show."""
    for size in (LARGE, LARGE + 1, 2 * LARGE, LARGE):
        x = np.arange(size, dtype=np.float32) - size
        np.testing.assert_array_equal(swiftmax.softmax(x, axis=()), np.ones(size, np.float32))
        np.testing.assert_array_equal(swiftmax.log_softmax(x, axis=()), np.zeros(size, np.float32))


def test_large_outputs_can_be_resized() -> None:
    """ndarray.resize() reallocates them in place."""
    for first in (MEDIUM, LARGE):
        y = swiftmax.softmax(np.zeros(first, np.float32), axis=())
        for size in (10, first, MEDIUM + 10, LARGE, 3 * LARGE, MEDIUM):
            y.resize(size, refcheck=False)
            assert y.shape == (size,)
            assert y[9] == 1
            y[...] = 1


def test_threads_share_kept_memory() -> None:
    """Each output is its caller's alone."""
    wrong = []

    def work(size: int) -> None:
        for _ in range(20):
            y = swiftmax.softmax(np.zeros(size, np.float32))
            if not (y == y[0]).all() or abs(float(y[0]) * size - 1) > 1e-6:
                wrong.append(size)

    threads = [threading.Thread(target=work, args=(LARGE + i // 2,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_large_outputs_take_the_place_of_freed_ones() -> None:
    """Of up to a fifth more, too; their pages are not faulted in again."""
    x = np.zeros(25 << 20, np.float32)
    y = swiftmax.softmax(x)
    place = y.ctypes.data
    for size in (x.size, x.size - 1000, x.size * 5 // 6, x.size):
        del y
        y = swiftmax.softmax(x[:size])
        assert abs(y.ctypes.data - place) < 4096


MEMORY = """
import numpy as np, os, swiftmax
x = np.zeros(160 << 20, np.float32)
def resident():
    with open("/proc/self/smaps_rollup") as file:
        lines = [line.split() for line in file]
    sizes = {words[0]: int(words[1]) >> 10 for words in lines if words[-1] == "kB"}
    return sizes["Rss:"], sizes["Rss:"] - sizes["LazyFree:"]
swiftmax.softmax(x[:1000])
before, _ = resident()
"""


def mebibytes(code: str) -> list[int]:
    """What `code` prints, run after `MEMORY`."""
    environment = {**os.environ, "SWIFTMAX_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEMORY + code]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return [int(word) for word in result.stdout.split()]


def test_kept_memory_can_be_taken_back() -> None:
    """Of freed outputs at most 66 MiB are held, and some slack; the system may have the others."""
    held, kept = mebibytes("""
outputs = [swiftmax.softmax(x[: n << 20], axis=()) for n in range(2, 22, 3)]
assert resident()[0] - before > 200
del outputs
kept, held = resident()
print(held - before, kept - before)
""")
    assert held <= 66 + 16 < kept


def test_kept_memory_is_bounded() -> None:
    """At most 1 GiB, and some slack."""
    (kept,) = mebibytes("""
for n in (40, 55, 75, 100, 140):
    swiftmax.softmax(x[: n << 20], axis=())
print(resident()[0] - before)
""")
    assert 500 < kept <= 1024 + 16
