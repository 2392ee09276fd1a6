"""One test for each bug of a peer that could be ours: repository, issue number and reason."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import reference
import swiftmax
from inputs import DTYPES, FORWARD, Array, logits, normal

INF = float("inf")


def call(name: str, *arrays: Any, **arguments: Any) -> Array:
    return np.asarray(getattr(swiftmax, name)(*arrays, **arguments))


# ---- Wrong values -------------------------------------------------------------------------------


def test_pytorch_158310() -> None:
    """log_softmax in float16 over an axis of 1 or 2 was -inf: x - max was held in float16."""
    x = np.linspace(-20260, -19740, 18 * 2 * 2 * 21 * 2).reshape(18, 1, 2, 2, 21, 2).astype("f2")
    for axis in range(x.ndim):
        result = call("log_softmax", x, axis=axis)
        assert np.isfinite(result).all()
        reference.check("log_softmax", result, x, axis=axis)
    assert (call("log_softmax", x, axis=1) == 0).all()


@pytest.mark.parametrize("large", [1e4, 1e7, 1e10, 1e16, 1e36])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_pytorch_11752(name: str, large: float) -> None:
    """log_softmax of large logits with small differences lost them in max + log(sum)."""
    for dtype in ("float32", "float64"):
        step = float(np.spacing(np.array(large, dtype)))
        x = np.array([large, large - step, large - 3 * step, large], dtype)
        reference.check(name, call(name, x), x)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_mlx_4169(dtype: str) -> None:
    """Two equal logits have log(1/2) each, however large they are."""
    for value in [1.0, 1e4, 6e4, 1e8, 1e20, 1e36]:
        if value < float(np.finfo(dtype).max):
            result = call("log_softmax", np.array([[value, value]], dtype))
            assert (result == np.array(-np.log(2)).astype(dtype)).all()


def test_scipy_18295() -> None:
    """logsumexp([0, -40]) is exp(-40), not 0; and so is minus the log_softmax there."""
    expected = np.log1p(np.exp(-40.0))
    assert abs(call("logsumexp", [0.0, -40.0]) - expected) <= 2 * np.spacing(expected)
    assert abs(-call("log_softmax", [0.0, -40.0])[0] - expected) <= 2 * np.spacing(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scipy_23074(dtype: str) -> None:
    """softmax(x / temperature) is good from one-hot to even shares."""
    x = logits("normal", 1, (50, 20), dtype)
    for temperature in (1e-30, 1e-6, 1e-2, 1, 1e2, 1e30):
        scaled = x / np.array(temperature, dtype)
        result = call("softmax", scaled)
        reference.check("softmax", result, scaled)
        assert (result.argmax(axis=1) == x.argmax(axis=1)).all() or temperature == 1e30
    assert (call("softmax", x / np.array(1e-30, dtype)).max(axis=1) == 1).all()
    assert (call("softmax", x / np.array(1e30, dtype)) == np.array(0.05, dtype)).all()


@pytest.mark.parametrize("length", [2, 10, 1000, 50257, 128256])
def test_numpy_6123(length: int) -> None:
    """float32 shares did not sum to 1, and random.choice refused them."""
    shares = call("softmax", logits("normal", 1, (length,), "float32"))
    assert abs(shares.sum(dtype=np.float64) - 1) < 1e-7


def test_numpy_8053() -> None:
    """random.multinomial refused float32 shares whose sum, in float64, is above 1."""
    generator = np.random.Generator(np.random.PCG64(1))
    for seed in range(50):
        shares = call("softmax", logits("normal", seed, (7,), "float32"), dtype=np.float64)
        assert generator.multinomial(100, shares).sum() == 100


def test_onnxruntime_5707() -> None:
    """softmax over an axis in the middle took that axis and all after it for one slice."""
    x = normal(1, (2, 3, 4, 5)).astype(np.float32)
    for axis in range(-4, 4):
        sums = call("softmax", x, axis=axis).sum(axis=axis, dtype=np.float64)
        np.testing.assert_allclose(sums, np.ones(sums.shape), atol=1e-6)


# ---- Infinities ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_pytorch_25110(dtype: str) -> None:
    """A row of -inf is NaN, and users who mask whole rows by -inf lose them; where= gives zeros."""
    x = np.full((2, 9), -INF, dtype)
    x[1] = 1
    assert np.isnan(call("softmax", x)[0]).all()
    result = call("softmax", x, where=x > -INF)
    assert not result[0].any()
    np.testing.assert_allclose(result[1].astype("f8"), 1 / 9, rtol=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_pytorch_55056(dtype: str) -> None:
    """The gradient of a fully masked row is zero and not NaN, and so it does not spread."""
    x = np.full((2, 9), -INF, dtype)
    x[1] = 1
    output = call("softmax", x, where=x > -INF)
    grad = call("softmax_backward", np.ones((2, 9), dtype), output)
    assert not grad[0].any()
    assert np.isfinite(grad.astype("f8")).all()


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 5000])
def test_onnxruntime_26055(length: int) -> None:
    """A row of -inf gave NaN or not by the length of the row and the kernel that it met."""
    x = np.full((3, length), -INF, np.float32)
    x[1] = 0
    for array, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        result = np.moveaxis(call("softmax", array, axis=axis), axis, 1)
        assert np.isnan(result[[0, 2]]).all()
        assert np.isfinite(result[1]).all()


@pytest.mark.parametrize("name", FORWARD)
def test_mlx_1467(name: str) -> None:
    """127 times -inf gave zeros and 128 times gave NaN."""
    expected = -INF if name == "logsumexp" else np.nan
    for length in (127, 128, 129):
        result = call(name, np.full(length, -INF, np.float32))
        assert np.array_equal(result, np.full(result.shape, expected), equal_nan=True)


def test_jax_21495() -> None:
    """+inf gives NaN, on purpose: inf - inf has no value. logsumexp has one."""
    assert np.isnan(call("softmax", [INF, 0])).all()
    assert np.isnan(call("softmax", [INF, 0, INF])).all()
    assert call("logsumexp", [INF, 0]) == INF


# ---- Layouts and axes ---------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1])
def test_pytorch_75923(axis: int) -> None:
    """out= with strides was filled as if it were contiguous."""
    x = normal(1, (2, 3)).astype(np.float32)
    expected = call("softmax", x, axis=axis)
    memory = np.full((4, 9), 7, np.float32)
    call("softmax", x, axis=axis, out=memory[::2, 1::3])
    assert (memory[::2, 1::3] == expected).all()
    memory[::2, 1::3] = 7
    assert (memory == 7).all()


def test_pytorch_71357() -> None:
    """Several axes at once, which PyTorch does not take."""
    x = normal(1, (3, 4, 5))
    result = call("softmax", x, axis=(0, 2))
    flat = call("softmax", x.transpose(1, 0, 2).reshape(4, 15)).reshape(4, 3, 5).transpose(1, 0, 2)
    assert (result == flat).all()
    assert (call("softmax", x, axis=(2, 0)) == flat).all()


MEMORY_TEST = """
import resource, sys
import numpy as np, swiftmax
x = np.ones((4096, 4096), np.float32)
out = np.ones_like(x)
view, view_out = [(x, out), (x.T, out.T), (x[::-1, ::-2], out[:, ::2])][int(sys.argv[2])]
swiftmax.softmax(view[:2, :2].copy())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
swiftmax.softmax(view, axis=int(sys.argv[1]), out=view_out)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert after - before < 16 * 1024, f"{after - before} KiB more"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
@pytest.mark.parametrize("layout", [0, 1, 2], ids=["rows", "columns", "strided"])
@pytest.mark.parametrize("axis", [0, 1])
def test_pytorch_34728(axis: int, layout: int) -> None:
    """An axis other than the last was slow; to copy the array instead would cost its memory."""
    command = [sys.executable, "-c", MEMORY_TEST, str(axis), str(layout)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- The same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORWARD)
def test_pytorch_115417(name: str) -> None:
    """The same sentence had other bits in a batch padded to another size."""
    x = logits("logits", 1, (12, 100), "float32")
    alone = call(name, x)
    for rows in (13, 16, 64):
        padded = np.zeros((rows, 100), np.float32)
        padded[:12] = x
        assert call(name, padded)[:12].tobytes() == alone.tobytes()
        wide = np.zeros((12, 100, rows), np.float32)
        wide[:, :, 5] = x
        assert call(name, wide, axis=1)[..., 5].tobytes() == alone.tobytes()


# ---- Processes ----------------------------------------------------------------------------------


FORK_TEST = """
import os, signal, sys
import numpy as np, swiftmax
function = getattr(swiftmax, sys.argv[1])
x = (np.arange(1_500_000) % 97).astype(np.float32).reshape(500, 3000)
swiftmax.set_num_threads(4)
expected = function(x).tobytes()

def descend(generations):
    assert function(x).tobytes() == expected
    if generations == 0:
        return
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # so that a deadlock fails the test and does not hang it
        descend(generations - 1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert function(x).tobytes() == expected

descend(int(sys.argv[2]))
"""


def run_fork_test(name: str, generations: int) -> None:
    command = [sys.executable, "-W", "ignore", "-c", FORK_TEST, name, str(generations)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("name", FORWARD)
def test_pytorch_4628(name: str) -> None:
    """softmax in a worker process, after one in the parent, blocked for ever."""
    run_fork_test(name, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_pytorch_2245() -> None:
    """Forks of forks, each with threads of its own."""
    run_fork_test("log_softmax", 4)
