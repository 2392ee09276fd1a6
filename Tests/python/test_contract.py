"""What the functions take, return and refuse; threads and forks."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import swiftmax
from inputs import BACKWARD, DTYPES, FORWARD, Array, logits

try:
    from numpy.exceptions import AxisError
except ImportError:  # NumPy before 1.25
    from numpy import AxisError  # type: ignore[attr-defined,no-redef]

EVERY = [*FORWARD, *BACKWARD]
MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)


def call(name: str, *arrays: Any, **arguments: Any) -> Array:
    """A call with the same array for both arguments of a backward."""
    if name in BACKWARD and len(arrays) == 1:
        arrays *= 2
    result: Array = getattr(swiftmax, name)(*arrays, **arguments)
    return result


# ---- What comes back ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_always_an_ndarray(name: str) -> None:
    for x in (1.5, np.float32(1), np.array(1.0), [1.0, 2.0], MATRIX):
        assert type(call(name, x)) is np.ndarray
        assert type(call(name, x, axis=None)) is np.ndarray


@pytest.mark.parametrize("x", [3, 3.5, True, np.float32(3), np.array(3.0), np.int8(3)])
@pytest.mark.parametrize("axis", [-1, 0, None, (), (0,), (-1,)])
def test_0d_input(x: Any, axis: Any) -> None:
    assert call("softmax", x, axis=axis).shape == ()
    assert call("softmax", x, axis=axis) == 1
    assert call("log_softmax", x, axis=axis) == 0
    assert call("logsumexp", x, axis=axis, keepdims=True) == x
    assert call("softmax_backward", x, 1.0, axis=axis) == 0


@pytest.mark.parametrize("name", EVERY)
def test_array_likes(name: str) -> None:
    class Like:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            return MATRIX

    expected = call(name, MATRIX)
    likes: list[Any] = [Like(), MATRIX.data]
    for x in likes:
        assert call(name, x).tobytes() == expected.tobytes()
    expected = call(name, MATRIX.astype(np.float64))
    for x in (MATRIX.tolist(), tuple(map(tuple, MATRIX.tolist())), list(MATRIX.astype(np.float64))):
        assert call(name, x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", EVERY)
def test_subclasses_come_back_as_plain_arrays(name: str, tmp_path: Path) -> None:
    class Sub(np.ndarray[Any, Any]):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.matrix(MATRIX)
    on_disk = np.memmap(tmp_path / "x", np.float32, "w+", shape=MATRIX.shape)
    on_disk[...] = MATRIX
    for x in (matrix, on_disk, MATRIX.view(Sub)):
        for axis in (0, 1, None):
            result = call(name, x, axis=axis)
            assert type(result) is np.ndarray
            assert result.tobytes() == call(name, MATRIX, axis=axis).tobytes()
            assert result.shape == call(name, MATRIX, axis=axis).shape
        out = np.zeros_like(call(name, MATRIX)).view(Sub)
        assert call(name, x, out=out) is out


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", DTYPES)
def test_floating_dtypes_stay(name: str, dtype: str) -> None:
    for x in (MATRIX.astype(dtype), MATRIX.astype(dtype)[::2, ::-1], np.array(1, dtype)):
        assert call(name, x).dtype == np.dtype(dtype)
    assert call(name, MATRIX.astype(">f8")).dtype == np.dtype("=f8")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", "?bBhHiIlLqQ")
def test_integers_and_bool_go_to_float64(name: str, dtype: str) -> None:
    assert call(name, MATRIX.astype(dtype)).dtype == np.float64


@pytest.mark.parametrize("name", BACKWARD)
def test_a_backward_promotes_as_numpy_does(name: str) -> None:
    wide = MATRIX.astype(np.float64)
    for pair in ((MATRIX, wide), (wide, MATRIX), (MATRIX, MATRIX.astype(np.float16))):
        promoted = np.result_type(*pair)
        expected = call(name, *[a.astype(promoted) for a in pair])
        assert call(name, *pair).dtype == promoted
        assert call(name, *pair).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["softmax", "log_softmax", *BACKWARD])
def test_the_result_keeps_the_order_of_memory(name: str) -> None:
    cube = logits("normal", 1, (3, 4, 5), "float32")
    assert call(name, cube).flags.c_contiguous
    assert call(name, np.asfortranarray(cube)).flags.f_contiguous
    assert call(name, cube.transpose(1, 2, 0)).strides == cube.transpose(1, 2, 0).strides
    assert call(name, cube[::2, :, ::-1]).flags.c_contiguous
    assert call(name, np.broadcast_to(cube[:1], (3, 4, 5))).flags.owndata


@pytest.mark.parametrize("name", EVERY)
def test_the_result_is_a_new_array(name: str) -> None:
    result = call(name, MATRIX)
    assert result.flags.writeable
    assert result.flags.aligned
    assert not np.shares_memory(result, MATRIX)


def test_logsumexp_shapes() -> None:
    x = np.zeros((2, 3, 4))
    for axis in (0, 1, 2, -1, (0, 1), (2, 0), (), None):
        for keepdims in (False, True):
            result = swiftmax.logsumexp(x, axis=axis, keepdims=keepdims)
            assert result.shape == x.sum(axis=axis, keepdims=keepdims).shape


@pytest.mark.parametrize("name", EVERY)
def test_the_default_axis_is_the_last(name: str) -> None:
    expected = call(name, MATRIX, axis=1)
    assert call(name, MATRIX).tobytes() == expected.tobytes()
    arrays = [MATRIX] * (2 if name in BACKWARD else 1)
    assert call(name, *arrays, 1).tobytes() == expected.tobytes()
    assert call(name, MATRIX, axis=np.int64(1)).tobytes() == expected.tobytes()
    assert call(name, MATRIX, axis=(1,)).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", EVERY)
def test_none_says_the_same_as_no_argument(name: str) -> None:
    arguments = {"out": None} | ({"dtype": None, "where": None} if name in FORWARD else {})
    assert call(name, MATRIX, **arguments).tobytes() == call(name, MATRIX).tobytes()


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("dtype", [np.float64, "f4", "float16", np.dtype(">f8"), float])
def test_forms_of_dtype(name: str, dtype: Any) -> None:
    result = call(name, MATRIX, dtype=dtype)
    assert result.dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize("name", EVERY)
def test_rank_of_numpys_limit(name: str) -> None:
    most = 64 if int(np.__version__.split(".")[0]) >= 2 else 32
    x = np.zeros((1,) * (most - 1) + (3,))
    assert call(name, x).shape == (x.shape[:-1] if name == "logsumexp" else x.shape)
    assert call(name, x, axis=tuple(range(most))).size == (1 if name == "logsumexp" else 3)


def test_an_out_that_overlaps_itself() -> None:
    """As with NumPy, something is written and nothing breaks."""
    out = np.lib.stride_tricks.as_strided(np.zeros(16, np.float32), (3, 4), (8, 4))
    assert swiftmax.softmax(MATRIX, out=out) is out


# ---- What is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("x", "dtype"),
    [
        (MATRIX.astype(np.complex64), "complex64"),
        (MATRIX.astype(np.longdouble), np.dtype(np.longdouble).name),
        (MATRIX.astype("M8[s]"), "datetime64"),
        (MATRIX.astype("m8[s]"), "timedelta64"),
        (MATRIX.astype(object), "object"),
        (MATRIX.astype(str), "<U"),
        (np.zeros(3, [("a", "f4")]), "'a'"),
        (np.zeros(3, "V4"), "V4"),
        (None, "object"),
        ("text", "<U4"),
        ({1: 2}, "object"),
        ([1j], "complex128"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_dtypes_are_refused(name: str, x: Any, dtype: str) -> None:
    with pytest.raises(TypeError, match=dtype):
        call(name, x)
    if name in BACKWARD:
        shape = np.shape(x)
        with pytest.raises(TypeError, match=dtype):
            call(name, np.zeros(shape), x)


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("dtype", [int, "complex128", "longdouble", object, "?", "U3", "M8[s]"])
def test_other_results_are_refused(name: str, dtype: Any) -> None:
    with pytest.raises(TypeError, match=str(np.dtype(dtype)).replace("[", r"\[")):
        call(name, MATRIX, dtype=dtype)
    with pytest.raises(TypeError, match="no_such_dtype"):
        call(name, MATRIX, dtype="no_such_dtype")


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("axis", [2, -3, 64, -65, 2**31, -(2**31) - 1, 2**64, (0, 2), (5,)])
def test_an_axis_out_of_range(name: str, axis: Any) -> None:
    worst = max(axis, key=abs) if isinstance(axis, tuple) else axis
    with pytest.raises(AxisError, match=rf"axis {worst}\b.*dimension 2"):
        call(name, MATRIX, axis=axis)


@pytest.mark.parametrize("axis", [1, -2, (1,), (0, 0)])
def test_an_axis_that_a_0d_array_lacks(axis: Any) -> None:
    with pytest.raises(ValueError, match="axis"):  # an AxisError is one
        swiftmax.softmax(1.0, axis=axis)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("axis", [(0, 0), (1, -1), (-2, 1, 0)])
def test_a_repeated_axis(name: str, axis: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"axis.*\(" + ", ".join(map(str, axis))):
        call(name, MATRIX, axis=axis)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("axis", [1.0, "1", [0], True, (0, 1.5), b"0", (None,), {0}, np.True_])
def test_an_axis_of_another_type(name: str, axis: Any) -> None:
    with pytest.raises(TypeError, match="axis"):
        call(name, MATRIX, axis=axis)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", *BACKWARD])
@pytest.mark.parametrize("shape", [(4, 3), (12,), (3, 4, 1), (1, 3, 4), (3, 0), ()])
def test_an_out_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"out.*" + str(shape).replace("(", r"\(")[:-1]):
        call(name, MATRIX, out=np.zeros(shape, np.float32))


def test_an_out_of_logsumexp_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"out.*\(3, 1\).*\(3,\)"):
        swiftmax.logsumexp(MATRIX, out=np.zeros((3, 1), np.float32))
    with pytest.raises(ValueError, match=r"out.*\(3,\).*\(3, 1\)"):
        swiftmax.logsumexp(MATRIX, keepdims=True, out=np.zeros(3, np.float32))


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "complex64", "bool"])
def test_an_out_of_another_dtype(name: str, dtype: str) -> None:
    out = np.zeros(call(name, MATRIX).shape, dtype)
    with pytest.raises(TypeError, match=rf"out.*{dtype}.*float32"):
        call(name, MATRIX, out=out)


@pytest.mark.parametrize("name", EVERY)
def test_an_out_that_cannot_be_written(name: str) -> None:
    out = np.zeros_like(call(name, MATRIX))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        call(name, MATRIX, out=out)
    assert not out.any()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("out", [[1.0, 2.0], 3, "out", (np.zeros((3, 4), np.float32),)])
def test_an_out_that_is_no_array(name: str, out: Any) -> None:
    with pytest.raises(TypeError, match="out"):
        call(name, MATRIX, out=out)


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("shape", [(3,), (4, 1), (2, 4), (1, 3, 4), (3, 5), (0,)])
def test_a_where_that_does_not_broadcast(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"where.*" + str(shape).replace("(", r"\(")[:-1]):
        call(name, MATRIX, where=np.ones(shape, bool))


@pytest.mark.parametrize("name", FORWARD)
@pytest.mark.parametrize("where", [1, 0.5, [1, 0, 1, 0], "yes", MATRIX])
def test_a_where_of_another_dtype(name: str, where: Any) -> None:
    with pytest.raises(TypeError, match=r"where.*bool"):
        call(name, MATRIX, where=where)


@pytest.mark.parametrize("name", FORWARD)
def test_a_where_with_bytes_other_than_0_and_1(name: str) -> None:
    odd = np.array([0, 2, 255, 128], np.uint8).view(bool)
    expected = call(name, MATRIX, where=[False, True, True, True])
    assert call(name, MATRIX, where=odd).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", BACKWARD)
@pytest.mark.parametrize("shape", [(4, 3), (3,), (4,), (1, 4), (3, 1), (3, 4, 1), ()])
def test_a_gradient_of_another_shape(name: str, shape: tuple[int, ...]) -> None:
    other = np.zeros(shape, np.float32)
    text = str(shape).replace("(", r"\(")[:-1]
    for pair in ((MATRIX, other), (other, MATRIX)):
        with pytest.raises(ValueError, match=text):
            call(name, *pair)


@pytest.mark.parametrize("name", EVERY)
def test_masked_arrays_are_refused(name: str) -> None:
    masked = np.ma.masked_array(MATRIX, MATRIX > 5)
    with pytest.raises(TypeError, match=r"MaskedArray.*where="):
        call(name, masked)
    with pytest.raises(TypeError, match="MaskedArray"):
        call(name, MATRIX, out=np.ma.zeros(call(name, MATRIX).shape, np.float32))
    if name in FORWARD:
        with pytest.raises(TypeError, match="MaskedArray"):
            call(name, MATRIX, where=masked > 3)
    else:
        with pytest.raises(TypeError, match="MaskedArray"):
            call(name, MATRIX, masked)


@pytest.mark.parametrize("name", EVERY)
def test_the_wrong_number_of_arguments(name: str) -> None:
    function = getattr(swiftmax, name)
    with pytest.raises(TypeError):
        function()
    with pytest.raises(TypeError):
        function(*[MATRIX] * (3 if name in BACKWARD else 2), 1)
    first = "grad_output" if name in BACKWARD else "x"
    with pytest.raises(TypeError):
        function(**{first: MATRIX})
    with pytest.raises(TypeError, match="no_such_argument"):
        call(name, MATRIX, no_such_argument=1)
    with pytest.raises(TypeError, match="axis"):
        function(*[MATRIX] * (2 if name in BACKWARD else 1), 1, axis=1)
    if name != "logsumexp":
        with pytest.raises(TypeError, match="keepdims"):
            call(name, MATRIX, keepdims=True)
    if name in BACKWARD:
        with pytest.raises(TypeError, match="dtype"):
            call(name, MATRIX, dtype=float)
        with pytest.raises(TypeError, match="where"):
            call(name, MATRIX, where=True)


@pytest.mark.parametrize("name", EVERY)
def test_errors_from_arguments_come_through(name: str) -> None:
    class Broken:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
            raise RuntimeError("broken")

        def __index__(self) -> int:
            raise RuntimeError("broken")

        def __bool__(self) -> bool:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        call(name, Broken())
    with pytest.raises(RuntimeError, match="broken"):
        call(name, MATRIX, axis=Broken())
    if name == "logsumexp":
        with pytest.raises(RuntimeError, match="broken"):
            call(name, MATRIX, keepdims=Broken())


@pytest.mark.parametrize("name", EVERY)
def test_a_refused_call_leaves_no_reference_behind(name: str) -> None:
    x, out = MATRIX.copy(), np.zeros((7, 7), np.float32)
    counts = sys.getrefcount(x), sys.getrefcount(out)
    for arguments in (
        {"axis": 9},
        {"axis": (0, 0)},
        {"axis": 1.5},
        {"out": out},
        {"out": out, "axis": 0},
        {"unknown": 1},
    ):
        for _ in range(10):
            with pytest.raises((TypeError, ValueError)):
                call(name, x, **arguments)
    for _ in range(10):
        call(name, x)
        call(name, x, out=np.zeros_like(call(name, x)))
    assert (sys.getrefcount(x), sys.getrefcount(out)) == counts


# ---- The functions themselves --------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_docstrings(name: str) -> None:
    function = getattr(swiftmax, name)
    document = inspect.getdoc(function)
    assert document
    for section in ("Parameters", "Returns", "Raises", "Examples"):
        assert f"\n{section}\n---" in document
    assert name in swiftmax.__all__
    assert pickle.loads(pickle.dumps(function)) is function


@pytest.mark.parametrize("name", EVERY)
def test_signatures(name: str) -> None:
    parameters = inspect.signature(getattr(swiftmax, name)).parameters
    kinds = {p.kind for n, p in parameters.items() if n in ("x", "grad_output", "output")}
    assert kinds == {inspect.Parameter.POSITIONAL_ONLY}
    assert parameters["axis"].default == -1
    assert parameters["axis"].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert parameters["out"].kind is inspect.Parameter.KEYWORD_ONLY


def test_the_number_of_threads(threads: None) -> None:
    assert swiftmax.get_num_threads() >= 1
    for count in (1, 2, 5, 1000):
        swiftmax.set_num_threads(count)
        assert swiftmax.get_num_threads() == count
        assert call("softmax", MATRIX).shape == (3, 4)
    for bad in (0, -1, 2**31, 2**70):
        with pytest.raises(ValueError, match=str(bad)):
            swiftmax.set_num_threads(bad)
    for worse in (1.5, "2"):
        with pytest.raises(TypeError):
            swiftmax.set_num_threads(worse)  # type: ignore[arg-type]
    assert swiftmax.get_num_threads() == 1000


def test_show_config(capsys: pytest.CaptureFixture[str]) -> None:
    config = swiftmax.show_config("dicts")
    assert config["version"] == swiftmax.__version__
    assert config["isa"] in config["isas"]
    assert config["threads"] == swiftmax.get_num_threads()
    assert capsys.readouterr().out == ""
    assert swiftmax.show_config() is None
    printed = capsys.readouterr().out
    for value in (config["version"], config["isa"], str(config["threads"])):
        assert value in printed
    with pytest.raises(ValueError, match="json"):
        swiftmax.show_config("json")  # type: ignore[call-overload]


# ---- Threads and forks ---------------------------------------------------------------------------


LARGE = logits("normal", 3, (300, 4000), "float32")


def test_python_threads_at_once(threads: None) -> None:
    """Each gets its own result, whether the calls inside use threads too or not."""
    arrays = [logits("normal", seed, (200 + seed, 999), "float32") for seed in range(8)]
    expected = [call("softmax", x).tobytes() for x in arrays]
    for count in (1, 4):
        swiftmax.set_num_threads(count)
        wrong: list[int] = []

        def work(which: int, wrong: list[int] = wrong) -> None:
            for _ in range(20):
                if call("softmax", arrays[which]).tobytes() != expected[which]:
                    wrong.append(which)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(len(arrays))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong


def test_threads_do_not_wait_for_long(threads: None) -> None:
    """After a call its threads look out for the next one, but not for good."""
    swiftmax.set_num_threads(4)
    call("softmax", LARGE)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1


def digest(_: int) -> bytes:
    return call("log_softmax", LARGE).tobytes()[:4096]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_use_after_fork(threads: None) -> None:
    """A child forked after use with threads can use them too."""
    swiftmax.set_num_threads(4)
    expected = call("softmax", LARGE)
    child = os.fork()
    if child == 0:
        same = False
        signal.alarm(120)  # so that a deadlock fails the test and does not hang it
        try:
            same = call("softmax", LARGE).tobytes() == expected.tobytes()
        finally:
            os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_worker_processes(threads: None) -> None:
    swiftmax.set_num_threads(4)
    expected = digest(0)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(digest, range(4)).get(timeout=120) == [expected] * 4
