"""The same five functions in other libraries, each prepared the way it runs best.

A peer turns a `Case` into a `Call`: a Python statement with its names bound, so that it can be
timed without a wrapper around it. Inputs are placed in the peer's own container beforehand: PyTorch
gets a tensor over the same memory, with the same strides; JAX and onnxruntime, which have no
strided arrays, get a contiguous copy, and so does PyTorch where a stride is negative, which it has
not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import swiftmax

FORWARD = ("softmax", "log_softmax", "logsumexp")
BACKWARD = ("softmax_backward", "log_softmax_backward")
FUNCTIONS = FORWARD + BACKWARD
DTYPES = ("float32", "float64", "float16", "bfloat16")


def dtype_of(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype of that name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    return np.dtype(name)


@dataclass
class Case:
    """One function on one input; `arrays` is (x,) forward and (grad_output, output) backward."""

    function: str
    arrays: tuple[np.ndarray, ...]
    axis: int = -1
    where: np.ndarray | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.arrays[0].dtype


@dataclass
class Call:
    """A statement that assigns its result to `y`, its names, and how to see `y` as an array."""

    statement: str
    names: dict[str, Any]
    to_numpy: Callable[[Any], np.ndarray] = np.asarray

    def result(self) -> np.ndarray:
        """Run the statement once and return its result as a NumPy array."""
        names = dict(self.names)
        exec(self.statement, names)
        return self.to_numpy(names["y"])


class Unsupported(Exception):
    """The peer has no such function for this dtype or input."""


class Swiftmax:
    name = "swiftmax"
    version = swiftmax.__version__

    def __init__(self, threads: int) -> None:
        swiftmax.set_num_threads(threads)

    def prepare(self, case: Case) -> Call:
        names = {"f": getattr(swiftmax, case.function), "axis": case.axis, "where": case.where}
        names |= zip("ab", case.arrays, strict=False)
        arguments = "a" if len(case.arrays) == 1 else "a, b"
        where = "" if case.where is None else ", where=where"
        return Call(f"y = f({arguments}, axis=axis{where})", names)


class SwiftmaxOut(Swiftmax):
    """The same with out=, which spares large results the page faults of fresh memory."""

    name = "swiftmax out="

    def prepare(self, case: Case) -> Call:
        call = super().prepare(case)
        call.names["out"] = np.empty_like(call.result())
        call.statement = call.statement[:-1] + ", out=out)"
        return call


# MARK: NumPy's textbook formulas


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def _log_softmax(x: np.ndarray, axis: int) -> np.ndarray:
    shifted = x - x.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def _logsumexp(x: np.ndarray, axis: int) -> np.ndarray:
    top = x.max(axis, keepdims=True)
    return (top + np.log(np.exp(x - top).sum(axis, keepdims=True))).squeeze(axis)


def _softmax_backward(grad_output: np.ndarray, output: np.ndarray, axis: int) -> np.ndarray:
    return output * (grad_output - (grad_output * output).sum(axis, keepdims=True))


def _log_softmax_backward(grad_output: np.ndarray, output: np.ndarray, axis: int) -> np.ndarray:
    return grad_output - np.exp(output) * grad_output.sum(axis, keepdims=True)


TEXTBOOK: dict[str, Callable[..., np.ndarray]] = {
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "softmax_backward": _softmax_backward,
    "log_softmax_backward": _log_softmax_backward,
}


class NumPy:
    name = "NumPy"
    version = np.__version__

    def __init__(self, threads: int) -> None:
        self.functions: dict[str, Callable[..., Any]] = TEXTBOOK

    def prepare(self, case: Case) -> Call:
        names = {"f": self.functions[case.function], "axis": case.axis}
        names |= zip("ab", case.arrays, strict=False)
        arguments = ", ".join("ab"[: len(case.arrays)])
        if case.where is not None:
            arguments = "where(mask, a, low)"
            low = np.array(-np.inf, case.dtype)
            names |= {"where": np.where, "mask": case.where, "low": low}
        return Call(f"y = f({arguments}, axis)", names)


class SciPy(NumPy):
    name = "SciPy"

    def __init__(self, threads: int) -> None:
        self.version = importlib.import_module("scipy").__version__
        special = importlib.import_module("scipy.special")
        self.functions = {name: getattr(special, name) for name in FORWARD}

    def prepare(self, case: Case) -> Call:
        if case.function not in self.functions or case.dtype.kind == "V":
            raise Unsupported
        return super().prepare(case)


class PyTorch:
    name = "PyTorch"

    def __init__(self, threads: int) -> None:
        self.torch = importlib.import_module("torch")
        self.version = self.torch.__version__
        self.torch.set_num_threads(threads)
        aten = self.torch.ops.aten
        self.functions = {
            "softmax": self.torch.softmax,
            "log_softmax": self.torch.log_softmax,
            "logsumexp": self.torch.logsumexp,
            "softmax_backward": aten._softmax_backward_data,
            "log_softmax_backward": aten._log_softmax_backward_data,
        }

    def tensor(self, array: np.ndarray) -> Any:
        if any(stride < 0 for stride in array.strides):
            array = array.copy()
        if array.dtype.name == "bfloat16":
            return self.torch.from_numpy(array.view(np.int16)).view(self.torch.bfloat16)
        return self.torch.from_numpy(array)

    def to_numpy(self, tensor: Any) -> np.ndarray:
        if tensor.dtype == self.torch.bfloat16:
            bits: np.ndarray = tensor.view(self.torch.int16).numpy()
            return bits.view(dtype_of("bfloat16"))
        return np.asarray(tensor)

    def prepare(self, case: Case) -> Call:
        tensors = [self.tensor(array) for array in case.arrays]
        names = {"f": self.functions[case.function], "axis": case.axis}
        names |= zip("ab", tensors, strict=False)
        statement = "y = f(a, axis)"
        if case.function in BACKWARD:
            statement = "y = f(a, b, axis, dtype)"
            names["dtype"] = tensors[0].dtype
        elif case.where is not None:
            statement = "y = f(a.masked_fill(hidden, low), axis)"
            names |= {"hidden": self.torch.from_numpy(~case.where), "low": -np.inf}
        return Call(statement, names, self.to_numpy)


class JAX:
    name = "JAX"

    def __init__(self, threads: int) -> None:
        self.jax = importlib.import_module("jax")
        self.version = self.jax.__version__
        self.jax.config.update("jax_platforms", "cpu")
        self.jax.config.update("jax_enable_x64", True)

    def prepare(self, case: Case) -> Call:
        jax, jnp, axis = self.jax, self.jax.numpy, case.axis
        functions: dict[str, Callable[..., Any]] = {
            "softmax": lambda x, **mask: jax.nn.softmax(x, axis, **mask),
            "log_softmax": lambda x, **mask: jax.nn.log_softmax(x, axis, **mask),
            "logsumexp": lambda x, **mask: jax.nn.logsumexp(x, axis, **mask),
            "softmax_backward": lambda g, y: y * (g - (g * y).sum(axis, keepdims=True)),
            "log_softmax_backward": lambda g, y: g - jnp.exp(y) * g.sum(axis, keepdims=True),
        }
        arguments = dict(
            zip("ab", (jnp.array(np.ascontiguousarray(a)) for a in case.arrays), strict=False)
        )
        listed = ", ".join(arguments)
        if case.where is not None:
            arguments["mask"] = jnp.array(case.where)
            listed += ", where=mask"
        jitted = jax.jit(functions[case.function])
        return Call(f"y = f({listed}).block_until_ready()", {"f": jitted, **arguments})


class ONNXRuntime:
    name = "onnxruntime"

    def __init__(self, threads: int) -> None:
        self.operators = {
            "softmax": "Softmax",
            "log_softmax": "LogSoftmax",
            "logsumexp": "ReduceLogSumExp",
        }
        self.onnx = importlib.import_module("onnx")
        self.runtime = importlib.import_module("onnxruntime")
        self.version = self.runtime.__version__
        self.options = self.runtime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1
        self.options.log_severity_level = 4

    def model(self, case: Case, result_shape: tuple[int, ...]) -> bytes:
        helper = self.onnx.helper
        element = helper.np_dtype_to_tensor_dtype(case.dtype)
        shape = list(case.arrays[0].shape)
        inputs = [helper.make_tensor_value_info("x", element, shape)]
        nodes, source, constants = [], "x", []
        if case.where is not None:
            inputs.append(helper.make_tensor_value_info("mask", self.onnx.TensorProto.BOOL, shape))
            constants.append(helper.make_tensor("low", element, [], [-np.inf]))
            nodes.append(helper.make_node("Where", ["mask", "x", "low"], ["masked"]))
            source = "masked"
        if case.function == "logsumexp":
            attributes: dict[str, Any] = {"axes": [case.axis], "keepdims": 0}
        else:
            attributes = {"axis": case.axis}
        nodes.append(helper.make_node(self.operators[case.function], [source], ["y"], **attributes))
        output = helper.make_tensor_value_info("y", element, list(result_shape))
        graph = helper.make_graph(nodes, "case", inputs, [output], constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        model.ir_version = 8
        serialized: bytes = model.SerializeToString()
        return serialized

    def prepare(self, case: Case) -> Call:
        if case.function not in self.operators or case.dtype not in (np.float32, np.float64):
            raise Unsupported
        (x,) = case.arrays
        kept = list(x.shape)
        if case.function == "logsumexp":
            del kept[case.axis]
        session = self.runtime.InferenceSession(
            self.model(case, tuple(kept)), self.options, providers=["CPUExecutionProvider"]
        )
        # An OrtValue does not keep the array that it was made from alive: the names do.
        place = self.runtime.OrtValue.ortvalue_from_numpy
        inputs = [np.ascontiguousarray(x)]
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", place(inputs[0]))
        if case.where is not None:
            inputs.append(np.ascontiguousarray(case.where))
            binding.bind_ortvalue_input("mask", place(inputs[1]))
        output = np.empty(kept, case.dtype)
        binding.bind_ortvalue_output("y", place(output))
        names = {"run": session.run_with_iobinding, "binding": binding, "inputs": inputs}
        return Call("run(binding); y = output", names | {"output": output})


OTHERS = (PyTorch, JAX, ONNXRuntime, SciPy, NumPy)


def installed(threads: int = 1, kinds: tuple[Any, ...] = OTHERS) -> list[Any]:
    """Return the peers that can be imported here, set to that many threads."""
    peers = []
    for kind in kinds:
        try:
            peers.append(kind(threads))
        except ImportError:
            continue
    return peers
