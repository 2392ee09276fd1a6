"""The library built for arm64 and emulated: the same bits as here.

SwiftPM has no arm64 target on an x86-64 machine, but in Embedded mode the compiler needs none.
Debian's cross compiler links the objects with a C program, ../arm64/harness.c, and qemu runs it.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import swiftmax
from inputs import BACKWARD, DTYPES, FORWARD, Array, gradients, logits

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "Sources"
HEADERS = [f"-I{include}" for include in sorted(SOURCES.glob("*/include"))]
TOOLS = {
    "swiftc": "the Swift toolchain",
    "aarch64-linux-gnu-gcc": "Debian: gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "qemu-aarch64": "Debian: qemu-user",
}
# As in swiftmax.h.
DTYPE_CODES = {"float32": 1, "float64": 2, "float16": 3, "bfloat16": 4}


def run(*command: str | Path, data: bytes | None = None) -> bytes:
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-4000:]
    return done.stdout


def compile_swift(module: str, folder: str, output: Path, *options: str) -> Path:
    """One object of all Swift files in a folder of Sources."""
    target = ["-enable-experimental-feature", "Embedded", "-target", "aarch64-none-none-elf"]
    target += ["-Xcc", "-isystem", "-Xcc", "/usr/aarch64-linux-gnu/include"]
    sources = sorted((SOURCES / folder).glob("*.swift"))
    mode = ["-O", "-wmo", "-parse-as-library", "-module-name", module]
    run("swiftc", *target, *HEADERS, *mode, *options, "-c", *sources, "-o", output)
    return output


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that runs calls on an emulated arm64."""
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} ({package})")
    folder = tmp_path_factory.mktemp("arm64")
    objects = [
        compile_swift(module, module, folder / f"{module}.o") for module in ("Swiftmax", "ExactSum")
    ]
    for element, *others in [("FLOAT32", "POWER_TABLE"), ("FLOAT64",)]:
        # As in Package.swift.
        defines = [f"-DSWIFTMAX_{name}" for name in ("BASELINE", element, *others)]
        options = [part for define in defines for part in (define, "-Xcc", f"{define}=1")]
        output = folder / f"Kernels{element}.o"
        objects.append(compile_swift(f"Kernels{element}", "Kernels", output, *options))
    program = folder / "harness"
    support, source = SOURCES / "CSupport" / "support.c", ROOT / "Tests" / "arm64" / "harness.c"
    gcc = ["aarch64-linux-gnu-gcc", "-std=c11", "-O2", "-fPIE", "-static-pie", *HEADERS]
    run(*gcc, source, support, *objects, "-o", program)
    return program


def calls(dtype: str) -> Iterator[tuple[str, str, tuple[Array, ...], dict[str, Any]]]:
    """The cases of golden.py, and a row long enough to be shared out among threads."""
    yield from (call for call in golden.calls() if call[2][0].dtype == np.dtype(dtype))
    shape = (1, 200_003)
    for name in FORWARD:
        yield f"{name} {dtype} long", name, (logits("normal", 9, shape, dtype),), {"axis": 1}
    for name in BACKWARD:
        yield f"{name} {dtype} long", name, gradients(name, 9, shape, dtype), {"axis": 1}


def encoded(name: str, arrays: tuple[Array, ...], axis: Any, where: Array | None = None) -> bytes:
    """A call as the harness reads it."""
    shape = arrays[0].shape
    axes = axis if isinstance(axis, tuple) else (axis,)
    function = [*FORWARD, *BACKWARD].index(name)
    code = DTYPE_CODES[arrays[0].dtype.name]
    head = struct.pack("=5i", function, code, len(shape), len(axes), where is not None)
    parts = [head, np.array(shape, np.int64).tobytes(), np.array(axes, np.int32).tobytes()]
    parts += [array.tobytes() for array in arrays]
    if where is not None:
        parts.append(np.broadcast_to(where, shape).tobytes())
    return b"".join(parts)


def without_nan_bits(results: bytes, dtype: Any) -> bytes:
    """Which NaN a NaN is depends on the CPU."""
    values = np.frombuffer(results, dtype).copy()
    values[np.isnan(values)] = np.nan
    return values.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits(harness: Path, dtype: str) -> None:
    if swiftmax.show_config("dicts")["isa"] == "baseline":
        pytest.skip("the kernels in use here are those without FMA, which give other bits")
    cases = list(calls(dtype))
    data = b"".join(encoded(name, arrays, **arguments) for _, name, arrays, arguments in cases)
    results = run("qemu-aarch64", harness, data=data)

    start = 0
    wrong = []
    for case, name, arrays, arguments in cases:
        function: Callable[..., Any] = getattr(swiftmax, name)
        expected = np.asarray(function(*arrays, **arguments)).tobytes()
        found = results[start : start + len(expected)]
        start += len(expected)
        if without_nan_bits(found, dtype) != without_nan_bits(expected, dtype):
            wrong.append(f"{case} of shape {arrays[0].shape}")
    assert not wrong, "\n".join(["other bits on arm64:", *wrong])
    assert start == len(results)
