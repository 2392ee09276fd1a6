"""Agreement with SciPy, PyTorch, JAX and onnxruntime, with their own samples, and with calculus."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import swiftmax
from inputs import BACKWARD, FORWARD, Array, logits, normal, uniform

# How far the peers themselves are from the exact result, relative to the largest element.
TOLERANCE = {"float32": 2e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 2e-2}

CASES: list[tuple[tuple[int, ...], int]] = [
    ((10,), 0),
    ((4, 100), 1),
    ((100, 4), 0),
    ((3, 17, 5), 1),
    ((2, 3, 4, 5), -2),
    ((3, 1), 1),
    ((2, 5000), 1),
]


def agree(name: str, result: Any, peer: Any, dtype: str) -> None:
    """Equal in shape and dtype, to within what the peer can do."""
    peer = np.asarray(peer)
    assert result.shape == peer.shape
    assert result.dtype == peer.dtype == np.dtype(dtype)
    result, peer = result.astype(np.float64), peer.astype(np.float64)
    scale = max(1.0, np.abs(peer, where=np.isfinite(peer), out=np.zeros_like(peer)).max(initial=0))
    np.testing.assert_allclose(
        result, peer, rtol=0, atol=TOLERANCE[dtype] * scale, equal_nan=True, err_msg=name
    )


def inputs(dtype: str) -> Iterator[tuple[Array, int]]:
    for seed, (shape, axis) in enumerate(CASES):
        yield logits("normal", seed, shape, dtype), axis
        yield logits("logits", seed, shape, dtype)[::-1], axis
        yield np.asfortranarray(logits("wide", seed, shape, dtype)), axis


# ---- SciPy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORWARD)
def test_scipy(name: str, dtype: str) -> None:
    special = pytest.importorskip("scipy.special", reason="SciPy is not installed")
    for x, axis in inputs(dtype):
        for axes in (axis, None, tuple(range(x.ndim))):
            expected = getattr(special, name)(x, axis=axes)
            agree(name, getattr(swiftmax, name)(x, axis=axes), np.asarray(expected), dtype)
    x = logits("normal", 1, (3, 4, 5), dtype)
    expected = special.logsumexp(x, axis=(0, 2), keepdims=True)
    agree("keepdims", swiftmax.logsumexp(x, axis=(0, 2), keepdims=True), expected, dtype)


def test_scipy_cases_of_softmax() -> None:
    """What SciPy's own tests look at: one-hot limits, ties, offsets, axes and scalars."""
    np.testing.assert_array_equal(swiftmax.softmax([800, 0, 0]), [1, 0, 0])
    np.testing.assert_array_equal(swiftmax.softmax([-2, -2]), [0.5, 0.5])
    np.testing.assert_array_equal(swiftmax.softmax([0, 1e5]), [0, 1])
    np.testing.assert_allclose(swiftmax.softmax([0, 1]), [1 / (1 + np.e), np.e / (1 + np.e)], 1e-15)
    x = np.arange(5)
    shares = np.exp(x) / np.exp(x).sum()
    np.testing.assert_allclose(swiftmax.softmax(x), shares, 1e-14)
    np.testing.assert_allclose(swiftmax.softmax(x + 1000), shares, 1e-14)
    np.testing.assert_allclose(swiftmax.softmax(x.reshape(5, 1), axis=None), shares[:, None], 1e-14)
    np.testing.assert_array_equal(swiftmax.softmax(1000), 1)
    pairs = np.array([[0.0, 900], [900, 0]])
    np.testing.assert_array_equal(swiftmax.softmax(pairs, axis=0), pairs / 900)
    np.testing.assert_array_equal(swiftmax.softmax(pairs, axis=1), pairs / 900)
    cube = normal(1, (3, 4, 5))
    flat = swiftmax.softmax(cube.reshape(12, 5), axis=0).reshape(cube.shape)
    np.testing.assert_array_equal(swiftmax.softmax(cube, axis=(0, 1)), flat)


def test_scipy_cases_of_log_softmax() -> None:
    """What SciPy's own tests look at: one-hot limits, offsets, axes and scalars."""
    np.testing.assert_array_equal(swiftmax.log_softmax([1000.0, 1.0]), [0, -999])
    np.testing.assert_array_equal(
        swiftmax.log_softmax([[1000.0, 1.0], [1.0, 1000.0]]), [[0, -999], [-999, 0]]
    )
    np.testing.assert_array_equal(swiftmax.log_softmax(1), 0)
    x = np.arange(4.0)
    expected = x - 3 - np.log1p(np.exp(-1) + np.exp(-2) + np.exp(-3))
    for offset in (0, 100, -100, 1e6):
        np.testing.assert_allclose(swiftmax.log_softmax(x + offset), expected, rtol=1e-14)
    square = np.stack([x, x + 1000])
    np.testing.assert_allclose(swiftmax.log_softmax(square, axis=1), [expected] * 2, rtol=1e-14)
    np.testing.assert_allclose(
        swiftmax.log_softmax(square.T, axis=0), np.stack([expected] * 2, 1), 1e-14
    )
    np.testing.assert_allclose(
        swiftmax.log_softmax(x[None, :, None], axis=1)[0, :, 0], expected, 1e-14
    )


# ---- PyTorch ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch is not installed")


def from_torch(tensor: Any) -> Array:
    """A tensor as an array; bfloat16 goes by way of float32."""
    if str(tensor.dtype) == "torch.bfloat16":
        tensor = tensor.float()
        return np.asarray(tensor.numpy(), "bfloat16")
    return np.asarray(tensor.detach().numpy())


def to_torch(torch: Any, x: Array) -> Any:
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.ascontiguousarray(x))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_torch(torch: Any, dtype: str) -> None:
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed")
    for x, axis in inputs(dtype):
        tensor = to_torch(torch, x)
        for name in FORWARD:
            expected = from_torch(getattr(torch, name)(tensor, dim=axis))
            agree(name, getattr(swiftmax, name)(x, axis=axis), expected, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BACKWARD)
def test_torch_backward(torch: Any, name: str, dtype: str) -> None:
    operator = getattr(torch.ops.aten, f"_{name}_data")
    forward = getattr(swiftmax, name.removesuffix("_backward"))
    for x, axis in inputs(dtype):
        grad = normal(9, x.shape).astype(dtype)
        output = forward(x, axis=axis)
        tensors = to_torch(torch, grad), to_torch(torch, output)
        expected = operator(*tensors, axis, getattr(torch, dtype))
        agree(name, getattr(swiftmax, name)(grad, output, axis=axis), expected.numpy(), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BACKWARD)
def test_torch_autograd(torch: Any, name: str, dtype: str) -> None:
    forward = name.removesuffix("_backward")
    for x, axis in inputs(dtype):
        tensor = to_torch(torch, x).requires_grad_()
        grad = normal(9, x.shape).astype(dtype)
        getattr(torch, forward)(tensor, dim=axis).backward(to_torch(torch, grad))
        output = getattr(swiftmax, forward)(x, axis=axis)
        result = getattr(swiftmax, name)(grad, output, axis=axis)
        agree(name, result, tensor.grad.numpy(), dtype)


def test_torch_double_backward(torch: Any) -> None:
    """The backward is linear in the gradient, and so serves for its own derivative."""
    x = torch.tensor(normal(1, (3, 7)), requires_grad=True)
    grad = torch.tensor(normal(2, (3, 7)), requires_grad=True)
    second = normal(3, (3, 7))
    output = torch.softmax(x, 1)
    (first,) = torch.autograd.grad(output, x, grad, create_graph=True)
    (expected,) = torch.autograd.grad(first, grad, torch.tensor(second))
    result = swiftmax.softmax_backward(second, swiftmax.softmax(x.detach().numpy()))
    agree("double backward", result, expected.numpy(), "float64")


@pytest.fixture(scope="module")
def op_db(torch: Any) -> Any:
    """PyTorch's own samples of the arguments of each operator."""
    methods = pytest.importorskip(
        "torch.testing._internal.common_methods_invocations",
        reason="PyTorch's samples cannot be imported (they need expecttest)",
        exc_type=ImportError,
    )
    return methods.op_db


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FORWARD)
def test_torch_opinfo_samples(torch: Any, op_db: Any, name: str, dtype: str) -> None:
    count = 0
    for info in (info for info in op_db if info.name == name):
        for sample in info.sample_inputs("cpu", getattr(torch, dtype)):
            expected = from_torch(info.op(sample.input, *sample.args, **sample.kwargs))
            axis, *rest = sample.args or (sample.kwargs.get("dim"),)
            arguments: dict[str, Any] = {"axis": axis}
            if name == "logsumexp":
                arguments["keepdims"] = (
                    bool(rest[0]) if rest else sample.kwargs.get("keepdim", False)
                )
            if sample.kwargs.get("dtype") is not None:
                arguments["dtype"] = str(sample.kwargs["dtype"]).removeprefix("torch.")
            x = sample.input.detach().numpy()
            result = getattr(swiftmax, name)(x, **arguments)
            agree(f"{name} {sample}", result, expected, expected.dtype.name)
            count += 1
    assert count >= 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_torch_opinfo_samples_of_the_backward(torch: Any, op_db: Any, dtype: str) -> None:
    info = next(info for info in op_db if info.name == "_softmax_backward_data")
    samples = list(info.sample_inputs("cpu", getattr(torch, dtype)))
    assert samples
    for sample, name in itertools.product(samples, BACKWARD):
        operator = getattr(torch.ops.aten, f"_{name}_data")
        expected = from_torch(operator(sample.input, *sample.args))
        output, axis, *_ = sample.args
        result = getattr(swiftmax, name)(sample.input.numpy(), output.numpy(), axis=axis)
        agree(f"{name} {sample}", result, expected, dtype)


# ---- JAX ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_jax(dtype: str) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    for x, axis in inputs(dtype):
        for name in FORWARD:
            expected = getattr(jax.nn, name)(jax.numpy.asarray(x), axis=axis)
            agree(name, getattr(swiftmax, name)(x, axis=axis), expected, dtype)
        grad = normal(9, x.shape).astype(dtype)
        if dtype == "float32":
            for name in BACKWARD:
                forward = name.removesuffix("_backward")
                output, pullback = jax.vjp(lambda x: getattr(jax.nn, forward)(x, axis=axis), x)  # noqa: B023
                (expected,) = pullback(jax.numpy.asarray(grad))
                result = getattr(swiftmax, name)(grad, np.asarray(output), axis=axis)
                agree(name, result, expected, dtype)


# ---- ONNX ---------------------------------------------------------------------------------------


OPERATORS = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_onnxruntime(operator: str, dtype: str) -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    helper = onnx.helper
    for x, axis in inputs(dtype):
        element = helper.np_dtype_to_tensor_dtype(x.dtype)
        values = [helper.make_tensor_value_info(name, element, x.shape) for name in "xy"]
        node = helper.make_node(operator, ["x"], ["y"], axis=axis)
        model = helper.make_model(
            helper.make_graph([node], "one", values[:1], values[1:]),
            opset_imports=[helper.make_opsetid("", 13)],
            ir_version=8,
        )
        session = runtime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (expected,) = session.run(None, {"x": np.ascontiguousarray(x)})
        result = getattr(swiftmax, OPERATORS[operator])(x, axis=axis)
        agree(operator, result, expected, dtype)


@pytest.fixture(scope="module")
def node_cases() -> Any:
    node = pytest.importorskip("onnx.backend.test.case.node", reason="ONNX is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from cases of other operators
        return node.collect_testcases(None)


@pytest.mark.parametrize("operator", OPERATORS)
def test_onnx_node_cases(node_cases: Any, operator: str) -> None:
    count = 0
    for case in node_cases:
        node = case.model.graph.node[0]
        if node.op_type != operator:
            continue
        axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
        for (x,), (expected,) in case.data_sets:
            agree(
                case.name,
                getattr(swiftmax, OPERATORS[operator])(x, axis=axis),
                expected,
                str(x.dtype),
            )
            count += 1
    assert count >= 7


# ---- Calculus -----------------------------------------------------------------------------------


def differences(name: str, x: Array, direction: Array, axis: int) -> Array:
    """The derivative of a forward function along a direction, by central differences."""
    step = 1e-5
    function = getattr(swiftmax, name)
    ahead, behind = (
        function(x + step * direction, axis=axis),
        function(x - step * direction, axis=axis),
    )
    return np.asarray((ahead - behind) / (2 * step))


@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_gradients_against_finite_differences(name: str, shape: tuple[int, ...], axis: int) -> None:
    """sum(grad * d forward(x)[direction]) == sum(backward(grad) * direction)."""
    x, direction, grad = normal(1, shape) * 2, uniform(2, shape, -1, 1), normal(3, shape)
    output = getattr(swiftmax, name)(x, axis=axis)
    backward = getattr(swiftmax, name + "_backward")(grad, output, axis=axis)
    expected = np.sum(grad * differences(name, x, direction, axis), axis=axis)
    np.testing.assert_allclose(np.sum(backward * direction, axis=axis), expected, atol=2e-7)


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_the_gradient_of_logsumexp_is_softmax(shape: tuple[int, ...], axis: int) -> None:
    x, direction = normal(1, shape) * 2, uniform(2, shape, -1, 1)
    expected = differences("logsumexp", x, direction, axis)
    result = np.sum(swiftmax.softmax(x, axis=axis) * direction, axis=axis)
    np.testing.assert_allclose(result, expected, atol=2e-9)


@pytest.mark.parametrize(("shape", "axis"), CASES)
def test_the_backward_of_softmax_is_its_forward_derivative_too(
    shape: tuple[int, ...], axis: int
) -> None:
    """Its Jacobian is symmetric."""
    x, direction = normal(1, shape) * 2, uniform(2, shape, -1, 1)
    result = swiftmax.softmax_backward(direction, swiftmax.softmax(x, axis=axis), axis=axis)
    np.testing.assert_allclose(result, differences("softmax", x, direction, axis), atol=2e-9)


@pytest.mark.parametrize(("shape", "axis"), CASES)
@pytest.mark.parametrize("name", BACKWARD)
def test_the_backward_is_linear(name: str, shape: tuple[int, ...], axis: int) -> None:
    function = getattr(swiftmax, name)
    output = getattr(swiftmax, name.removesuffix("_backward"))(normal(1, shape), axis=axis)
    one, other = normal(2, shape), normal(3, shape)
    apart = 2 * function(one, output, axis=axis) - 3 * function(other, output, axis=axis)
    together = function(2 * one - 3 * other, output, axis=axis)
    np.testing.assert_allclose(together, apart, atol=1e-12 * np.abs(apart).max(initial=1))
    np.testing.assert_allclose(together.sum(axis=axis), 0, atol=1e-11)
