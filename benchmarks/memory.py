"""The peak memory of one softmax beyond its input: `memory.py PEER` prints it in MiB.

A peak is a property of a process, so each peer is measured in one of its own. Linux only.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import peers

SHAPE = (4096, 16_384)  # 256 MiB of float32, and as much of output


def _status(field: str) -> float:
    """A field of this process's memory accounting, in MiB.

    ru_maxrss would not do: it starts from the peak of the process that started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)


def growth(name: str) -> float:
    """Return by how much one call raises the peak, in MiB."""
    kind = next(kind for kind in (peers.Swiftmax, *peers.OTHERS) if kind.name == name)
    peer = kind(1)
    x = np.random.default_rng(0).standard_normal(SHAPE, np.float32)
    peer.prepare(peers.Case("softmax", (x[:8],))).result()
    call = peer.prepare(peers.Case("softmax", (x,)))
    Path("/proc/self/clear_refs").write_text("5")  # The peak is now what is resident.
    before = _status("VmHWM")
    call.result()
    return _status("VmHWM") - before


def measure(name: str) -> float:
    """Return `growth` of a fresh process."""
    command = [sys.executable, __file__, name]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(result.stdout)


if __name__ == "__main__":
    print(growth(sys.argv[1]))
