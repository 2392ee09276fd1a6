from typing import Any, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

_Axis: TypeAlias = SupportsIndex | tuple[SupportsIndex, ...] | None
_Float = TypeVar("_Float", np.float16, np.float32, np.float64)
_Out = TypeVar("_Out", bound=NDArray[Any])

@overload
def softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    dtype: DTypeLike | None = None,
    out: _Out,
    where: ArrayLike | None = None,
) -> _Out: ...
@overload
def softmax(
    x: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    dtype: None = None,
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[_Float]: ...
@overload
def softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    dtype: DTypeLike | None = None,
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[Any]: ...
@overload
def log_softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    dtype: DTypeLike | None = None,
    out: _Out,
    where: ArrayLike | None = None,
) -> _Out: ...
@overload
def log_softmax(
    x: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    dtype: None = None,
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[_Float]: ...
@overload
def log_softmax(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    dtype: DTypeLike | None = None,
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[Any]: ...
@overload
def logsumexp(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
    out: _Out,
    where: ArrayLike | None = None,
) -> _Out: ...
@overload
def logsumexp(
    x: NDArray[_Float],
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    dtype: None = None,
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[_Float]: ...
@overload
def logsumexp(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    dtype: type[_Float] | np.dtype[_Float],
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[_Float]: ...
@overload
def logsumexp(
    x: ArrayLike,
    /,
    axis: _Axis = -1,
    *,
    keepdims: bool = False,
    dtype: DTypeLike | None = None,
    out: None = None,
    where: ArrayLike | None = None,
) -> NDArray[Any]: ...
@overload
def softmax_backward(
    grad_output: ArrayLike, output: ArrayLike, /, axis: _Axis = -1, *, out: _Out
) -> _Out: ...
@overload
def softmax_backward(
    grad_output: NDArray[_Float], output: NDArray[_Float], /, axis: _Axis = -1, *, out: None = None
) -> NDArray[_Float]: ...
@overload
def softmax_backward(
    grad_output: ArrayLike, output: ArrayLike, /, axis: _Axis = -1, *, out: None = None
) -> NDArray[Any]: ...
@overload
def log_softmax_backward(
    grad_output: ArrayLike, output: ArrayLike, /, axis: _Axis = -1, *, out: _Out
) -> _Out: ...
@overload
def log_softmax_backward(
    grad_output: NDArray[_Float], output: NDArray[_Float], /, axis: _Axis = -1, *, out: None = None
) -> NDArray[_Float]: ...
@overload
def log_softmax_backward(
    grad_output: ArrayLike, output: ArrayLike, /, axis: _Axis = -1, *, out: None = None
) -> NDArray[Any]: ...
def set_num_threads(n: SupportsIndex | None, /) -> None: ...
def get_num_threads() -> int: ...
def library_config() -> dict[str, Any]: ...
