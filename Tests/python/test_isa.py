"""Every kernel set that this CPU runs, and other CPUs through qemu."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import swiftmax

HERE = Path(__file__).parent
GOLDEN = HERE / "golden.py"

CONFIG = swiftmax.show_config("dicts")
RUNNABLE = CONFIG["isas"]
OTHERS = [name for name in RUNNABLE if name != CONFIG["isa"]]


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command without SWIFTMAX_ISA, and with these environment variables."""
    environment = {k: v for k, v in os.environ.items() if k != "SWIFTMAX_ISA"} | variables
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=900
    )


def succeed(command: list[str], **variables: str) -> None:
    done = run(command, **variables)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("isa", RUNNABLE)
def test_the_environment_chooses(isa: str) -> None:
    code = f"import swiftmax; assert swiftmax.show_config('dicts')['isa'] == {isa!r}"
    succeed([sys.executable, "-c", code], SWIFTMAX_ISA=isa)


@pytest.mark.parametrize("isa", OTHERS)
def test_values_with_other_kernels(isa: str) -> None:
    """The tests of values and bits again; this process runs them with the best kernels."""
    files = [
        str(HERE / "test_values.py"),
        str(HERE / "test_special.py"),
        str(HERE / "test_bits.py"),
    ]
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=short"]
    succeed([sys.executable, "-m", "pytest", *options, *files], SWIFTMAX_ISA=isa)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_stored_hashes(isa: str) -> None:
    """All kernels with FMA give the stored bits; the baseline of x86-64 has none, and differs."""
    differs = isa == "baseline" and platform.machine() == "x86_64"
    arguments = ["--accuracy"] if differs else []
    succeed([sys.executable, str(GOLDEN), *arguments], SWIFTMAX_ISA=isa)


@pytest.mark.parametrize(
    ("cpu", "arguments"), [("Haswell", []), ("Nehalem", ["--accuracy"])], ids=["Haswell", "Nehalem"]
)
def test_other_cpus(cpu: str, arguments: list[str]) -> None:
    """The very same extension on a CPU without AVX-512, and on one without AVX and FMA."""
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if platform.machine() != "x86_64" or qemu is None:
        pytest.skip("needs x86-64 and qemu-x86_64 (Debian: qemu-user)")
    python = [qemu, "-cpu", cpu, sys.executable]
    # NumPy's OpenBLAS may take the emulated CPU for a newer one.
    blas = {"OPENBLAS_CORETYPE": cpu}
    trial = run([*python, "-c", "import numpy"], **blas)
    if trial.returncode != 0:
        pytest.skip(f"NumPy does not run on an emulated {cpu}: {trial.stderr.strip()[-200:]}")
    succeed([*python, str(GOLDEN), *arguments], **blas)
