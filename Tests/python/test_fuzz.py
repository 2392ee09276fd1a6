"""A short run of scripts/fuzz.py; the long one is for a person."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[2] / "scripts" / "fuzz.py"


@pytest.mark.skipif(sys.platform != "linux", reason="reads the resident memory from /proc")
def test_random_calls() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    command = [sys.executable, str(FUZZ), "--calls", "3000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
