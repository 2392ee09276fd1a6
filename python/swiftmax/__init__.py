"""Softmax, log-softmax and log-sum-exp for NumPy arrays, forward and backward, computed in Swift.

====================== =================================================
softmax                exp(x) / sum(exp(x))
log_softmax            x - log(sum(exp(x)))
logsumexp              log(sum(exp(x)))
softmax_backward       output * (grad_output - sum(grad_output * output))
log_softmax_backward   grad_output - exp(output) * sum(grad_output)
set_num_threads        set the most threads one call may use
get_num_threads        the most threads one call may use
show_config            what runs: versions, kernels, threads
====================== =================================================

The functions work along any axis or axes of arrays of any layout, in float16, bfloat16 (that of
ml_dtypes), float32 and float64; integers and bool are computed in float64. They take array-likes
and always return an ndarray.
"""

from typing import Any, Literal, overload

import numpy as np

from ._core import (
    get_num_threads,
    library_config,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    set_num_threads,
    softmax,
    softmax_backward,
)

__version__: str = library_config()["version"]

__all__ = [
    "get_num_threads",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "set_num_threads",
    "show_config",
    "softmax",
    "softmax_backward",
]

# The functions are those of the extension module; their documented home is this one.
for _function in (
    get_num_threads,
    log_softmax,
    log_softmax_backward,
    logsumexp,
    set_num_threads,
    softmax,
    softmax_backward,
):
    _function.__module__ = __name__
del _function


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Show what runs: the versions, the kernels chosen for this CPU and the number of threads.

    Parameters
    ----------
    mode : {"stdout", "dicts"}, optional
        Whether to print it (the default) or to return it as a dictionary.

    Returns
    -------
    dict or None
        With mode "dicts", the keys "version", "isa" (the kernel set in use), "isas" (those this
        CPU can run, widest first), "threads" and "numpy".

    Raises
    ------
    ValueError
        For any other mode.
    """
    library = library_config()
    config = {
        "version": library["version"],
        "isa": library["isa"],
        "isas": [name for name, runs in library["isas"] if runs],
        "threads": library["threads"],
        "numpy": np.__version__,
    }
    if mode == "dicts":
        return config
    if mode != "stdout":
        raise ValueError(f"mode must be 'stdout' or 'dicts', not {mode!r}")
    for key, value in config.items():
        print(f"{key + ':':<9}{', '.join(value) if isinstance(value, list) else value}")
    return None
