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


def environment(isa: str | None) -> dict[str, str]:
    """This process's environment, with the kernels of ``isa``, or those that suit the CPU best."""
    variables = {k: v for k, v in os.environ.items() if k != "SWIFTMAX_ISA"}
    if isa is not None:
        variables["SWIFTMAX_ISA"] = isa
    return variables


def run(command: list[str], isa: str | None = None) -> None:
    done = subprocess.run(
        command, env=environment(isa), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.parametrize("isa", RUNNABLE)
def test_the_environment_chooses(isa: str) -> None:
    code = f"import swiftmax; assert swiftmax.show_config('dicts')['isa'] == {isa!r}"
    run([sys.executable, "-c", code], isa)


@pytest.mark.parametrize("isa", OTHERS)
def test_values_with_other_kernels(isa: str) -> None:
    """The tests of values and bits again; this process runs them with the best kernels."""
    files = [
        str(HERE / "test_values.py"),
        str(HERE / "test_special.py"),
        str(HERE / "test_bits.py"),
    ]
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=short"]
    run([sys.executable, "-m", "pytest", *options, *files], isa)


@pytest.mark.parametrize("isa", RUNNABLE)
def test_stored_hashes(isa: str) -> None:
    """All kernels with FMA give the stored bits; the baseline of x86-64 has none, and differs."""
    differs = isa == "baseline" and platform.machine() == "x86_64"
    run([sys.executable, str(GOLDEN), *(["--accuracy"] if differs else [])], isa)


@pytest.mark.parametrize(
    ("cpu", "arguments"), [("Haswell", []), ("Nehalem", ["--accuracy"])], ids=["Haswell", "Nehalem"]
)
def test_other_cpus(cpu: str, arguments: list[str]) -> None:
    """The very same extension on a CPU without AVX-512, and on one without AVX and FMA."""
    qemu = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if platform.machine() != "x86_64" or qemu is None:
        pytest.skip("needs x86-64 and qemu-x86_64 (Debian: qemu-user)")
    python = [qemu, "-cpu", cpu, sys.executable]
    trial = subprocess.run(
        [*python, "-c", "import numpy"], capture_output=True, text=True, check=False
    )
    if trial.returncode != 0:
        pytest.skip(f"NumPy does not run on an emulated {cpu}: {trial.stderr.strip()[-200:]}")
    run([*python, str(GOLDEN), *arguments])
