/* Docstrings of the public functions. The line before `--` is what inspect.signature() reads. */

#ifndef SWIFTMAX_CORE_DOCS_H
#define SWIFTMAX_CORE_DOCS_H

/* clang-format off */

#define AXIS_DOC                                                                                        \
    "axis : int, tuple of ints or None, optional\n"                                                     \
    "    The axis or axes that form a slice; negative ones count from the end. None takes\n"            \
    "    all axes, () makes each element its own slice. The default is the last axis.\n"

#define DTYPE_DOC                                                                                       \
    "dtype : dtype, optional\n"                                                                         \
    "    float16, bfloat16, float32 or float64: `x` is cast to it first.\n"

#define OUT_DOC                                                                                         \
    "out : ndarray, optional\n"                                                                         \
    "    Where to put the result. It must have the shape and dtype of the result and may be\n"          \
    "    an operand itself (in place) or overlap one in any way.\n"

#define X_DOC                                                                                           \
    "x : array_like\n"                                                                                  \
    "    Any shape and strides. float16, bfloat16 (of ml_dtypes), float32 and float64 keep\n"           \
    "    their type, the 16-bit ones computed in float32 and rounded once; integers and bool\n"         \
    "    are computed in float64.\n"

#define RAISES_DOC                                                                                      \
    "Raises\n"                                                                                          \
    "------\n"                                                                                          \
    "TypeError\n"                                                                                       \
    "    For a dtype other than those above, a numpy.ma.MaskedArray (use `where`), or an `out`\n"       \
    "    that is no array or of another dtype.\n"                                                       \
    "numpy.exceptions.AxisError\n"                                                                      \
    "    If an axis is out of range.\n"                                                                 \
    "ValueError\n"                                                                                      \
    "    If an axis is repeated, if shapes do not agree, or if `out` is read-only.\n"

#define softmax_doc                                                                                     \
    "softmax($module, x, /, axis=-1, *, dtype=None, out=None, where=None)\n"                            \
    "--\n\n"                                                                                            \
    "Softmax along an axis: exp(x) / sum(exp(x)), computed without overflow.\n"                         \
    "\n"                                                                                                \
    "Parameters\n"                                                                                      \
    "----------\n"                                                                                      \
    X_DOC                                                                                               \
    AXIS_DOC                                                                                            \
    DTYPE_DOC                                                                                           \
    OUT_DOC                                                                                             \
    "where : array_like of bool, optional\n"                                                            \
    "    Broadcast against `x`. Elements where it is False take no part in their slice and\n"           \
    "    give 0; a slice with none left gives all 0.\n"                                                 \
    "\n"                                                                                                \
    "Returns\n"                                                                                         \
    "-------\n"                                                                                         \
    "ndarray\n"                                                                                         \
    "    Of the shape of `x`, or `out` where that is given. Each slice sums to 1.\n"                    \
    "\n"                                                                                                \
    RAISES_DOC                                                                                          \
    "\n"                                                                                                \
    "See Also\n"                                                                                        \
    "--------\n"                                                                                        \
    "log_softmax : its logarithm, exact also where softmax is 0.\n"                                     \
    "softmax_backward : its gradient.\n"                                                                \
    "\n"                                                                                                \
    "Notes\n"                                                                                           \
    "-----\n"                                                                                           \
    "A NaN makes its slice NaN; so does +inf, and a slice of nothing but -inf. Else -inf\n"             \
    "gives exactly 0. The bits of a slice do not depend on the axis, the strides, the batch\n"          \
    "around it or the number of threads.\n"                                                             \
    "\n"                                                                                                \
    "Examples\n"                                                                                        \
    "--------\n"                                                                                        \
    ">>> import numpy as np\n"                                                                          \
    ">>> import swiftmax\n"                                                                             \
    ">>> swiftmax.softmax([0.0, np.log(3.0)])\n"                                                        \
    "array([0.25, 0.75])\n"                                                                             \
    ">>> swiftmax.softmax([[1000, 1000], [0, 0]], axis=None)\n"                                         \
    "array([[0.5, 0.5],\n"                                                                              \
    "       [0. , 0. ]])\n"                                                                             \
    ">>> swiftmax.softmax([1.0, 1.0, 9.0], where=[True, True, False])\n"                                \
    "array([0.5, 0.5, 0. ])\n"

#define log_softmax_doc                                                                                 \
    "log_softmax($module, x, /, axis=-1, *, dtype=None, out=None, where=None)\n"                        \
    "--\n\n"                                                                                            \
    "Logarithm of softmax along an axis: x - log(sum(exp(x))), computed without overflow.\n"            \
    "\n"                                                                                                \
    "It is not computed from softmax: where that rounds to 0 or 1, the logarithm is still exact.\n"     \
    "\n"                                                                                                \
    "Parameters\n"                                                                                      \
    "----------\n"                                                                                      \
    X_DOC                                                                                               \
    AXIS_DOC                                                                                            \
    DTYPE_DOC                                                                                           \
    OUT_DOC                                                                                             \
    "where : array_like of bool, optional\n"                                                            \
    "    Broadcast against `x`. Elements where it is False take no part in their slice and\n"           \
    "    give -inf; a slice with none left gives all -inf.\n"                                           \
    "\n"                                                                                                \
    "Returns\n"                                                                                         \
    "-------\n"                                                                                         \
    "ndarray\n"                                                                                         \
    "    Of the shape of `x`, or `out` where that is given.\n"                                          \
    "\n"                                                                                                \
    RAISES_DOC                                                                                          \
    "\n"                                                                                                \
    "See Also\n"                                                                                        \
    "--------\n"                                                                                        \
    "log_softmax_backward : its gradient.\n"                                                            \
    "\n"                                                                                                \
    "Notes\n"                                                                                           \
    "-----\n"                                                                                           \
    "A NaN makes its slice NaN; so does +inf, and a slice of nothing but -inf. Else -inf\n"             \
    "gives -inf. The bits of a slice do not depend on the axis, the strides, the batch\n"               \
    "around it or the number of threads.\n"                                                             \
    "\n"                                                                                                \
    "Examples\n"                                                                                        \
    "--------\n"                                                                                        \
    ">>> import swiftmax\n"                                                                             \
    ">>> swiftmax.log_softmax([0.0, -1000.0])\n"                                                        \
    "array([    0., -1000.])\n"                                                                         \
    ">>> bool(swiftmax.log_softmax([0.0, -30.0])[0] < 0)\n"                                                \
    "True\n"

#define logsumexp_doc                                                                                   \
    "logsumexp($module, x, /, axis=-1, *, keepdims=False, dtype=None, out=None, where=None)\n"          \
    "--\n\n"                                                                                            \
    "Logarithm of the sum of exponentials along an axis, log(sum(exp(x))), without overflow.\n"         \
    "\n"                                                                                                \
    "Parameters\n"                                                                                      \
    "----------\n"                                                                                      \
    X_DOC                                                                                               \
    AXIS_DOC                                                                                            \
    "keepdims : bool, optional\n"                                                                       \
    "    Whether the reduced axes stay, with size 1.\n"                                                 \
    DTYPE_DOC                                                                                           \
    OUT_DOC                                                                                             \
    "where : array_like of bool, optional\n"                                                            \
    "    Broadcast against `x`. Elements where it is False take no part; a slice with none\n"           \
    "    left gives -inf.\n"                                                                            \
    "\n"                                                                                                \
    "Returns\n"                                                                                         \
    "-------\n"                                                                                         \
    "ndarray\n"                                                                                         \
    "    Of the shape of `x` without the reduced axes (0-d if none is left), or `out` where\n"          \
    "    that is given.\n"                                                                              \
    "\n"                                                                                                \
    RAISES_DOC                                                                                          \
    "\n"                                                                                                \
    "Notes\n"                                                                                           \
    "-----\n"                                                                                           \
    "A NaN makes its slice NaN, else +inf makes it +inf. A slice of nothing but -inf, or of no\n"       \
    "element at all, gives -inf.\n"                                                                     \
    "\n"                                                                                                \
    "Examples\n"                                                                                        \
    "--------\n"                                                                                        \
    ">>> import swiftmax\n"                                                                             \
    ">>> swiftmax.logsumexp([[1000.0, 1000.0], [0.0, 0.0]])\n"                                          \
    "array([1.00069315e+03, 6.93147181e-01])\n"                                                         \
    ">>> swiftmax.logsumexp([[1.0], [2.0]], keepdims=True)\n"                                           \
    "array([[1.],\n"                                                                                    \
    "       [2.]])\n"

#define BACKWARD_OPERANDS_DOC(function)                                                                 \
    "grad_output : array_like\n"                                                                        \
    "    The gradient with respect to the output, of the shape of `output`.\n"                          \
    "output : array_like\n"                                                                             \
    "    What `" function "` returned. Dtypes as there; two that differ are promoted.\n"

#define softmax_backward_doc                                                                            \
    "softmax_backward($module, grad_output, output, /, axis=-1, *, out=None)\n"                         \
    "--\n\n"                                                                                            \
    "Gradient of softmax: output * (grad_output - sum(grad_output * output)).\n"                        \
    "\n"                                                                                                \
    "The Jacobian of softmax is symmetric, so this is its forward-mode derivative too.\n"               \
    "\n"                                                                                                \
    "Parameters\n"                                                                                      \
    "----------\n"                                                                                      \
    BACKWARD_OPERANDS_DOC("softmax")                                                                    \
    AXIS_DOC                                                                                            \
    OUT_DOC                                                                                             \
    "\n"                                                                                                \
    "Returns\n"                                                                                         \
    "-------\n"                                                                                         \
    "ndarray\n"                                                                                         \
    "    The gradient with respect to the input, of the shape of `output`; `out` where that\n"          \
    "    is given.\n"                                                                                   \
    "\n"                                                                                                \
    RAISES_DOC                                                                                          \
    "\n"                                                                                                \
    "Examples\n"                                                                                        \
    "--------\n"                                                                                        \
    ">>> import swiftmax\n"                                                                             \
    ">>> swiftmax.softmax_backward([1.0, 0.0], [0.25, 0.75])\n"                                         \
    "array([ 0.1875, -0.1875])\n"

#define log_softmax_backward_doc                                                                        \
    "log_softmax_backward($module, grad_output, output, /, axis=-1, *, out=None)\n"                     \
    "--\n\n"                                                                                            \
    "Gradient of log_softmax: grad_output - exp(output) * sum(grad_output).\n"                          \
    "\n"                                                                                                \
    "Parameters\n"                                                                                      \
    "----------\n"                                                                                      \
    BACKWARD_OPERANDS_DOC("log_softmax")                                                                \
    AXIS_DOC                                                                                            \
    OUT_DOC                                                                                             \
    "\n"                                                                                                \
    "Returns\n"                                                                                         \
    "-------\n"                                                                                         \
    "ndarray\n"                                                                                         \
    "    The gradient with respect to the input, of the shape of `output`; `out` where that\n"          \
    "    is given.\n"                                                                                   \
    "\n"                                                                                                \
    RAISES_DOC                                                                                          \
    "\n"                                                                                                \
    "Examples\n"                                                                                        \
    "--------\n"                                                                                        \
    "The gradient of the cross entropy -log_softmax(x)[0] is softmax(x) - [1, 0]:\n"                    \
    "\n"                                                                                                \
    ">>> import swiftmax\n"                                                                             \
    ">>> y = swiftmax.log_softmax([0.0, 0.0])\n"                                                        \
    ">>> swiftmax.log_softmax_backward([-1.0, 0.0], y)\n"                                               \
    "array([-0.5,  0.5])\n"

#define set_num_threads_doc                                                                             \
    "set_num_threads($module, n, /)\n"                                                                  \
    "--\n\n"                                                                                            \
    "Set the most threads one call may use.\n"                                                          \
    "\n"                                                                                                \
    "The results do not depend on it. Small calls use one thread whatever it is.\n"                     \
    "\n"                                                                                                \
    "Parameters\n"                                                                                      \
    "----------\n"                                                                                      \
    "n : int or None\n"                                                                                 \
    "    At least 1. None restores the value at import: SWIFTMAX_NUM_THREADS if that is set,\n"         \
    "    else the processors this process may run on (affinity and cgroup quota).\n"                    \
    "\n"                                                                                                \
    "Raises\n"                                                                                          \
    "------\n"                                                                                          \
    "ValueError\n"                                                                                      \
    "    If `n` is below 1 or does not fit in 32 bits.\n"

#define get_num_threads_doc                                                                             \
    "get_num_threads($module, /)\n"                                                                     \
    "--\n\n"                                                                                            \
    "The most threads one call may use; see `set_num_threads`."

#define library_config_doc                                                                              \
    "library_config($module, /)\n"                                                                      \
    "--\n\n"                                                                                            \
    "The library's version, kernel sets and threads, for `swiftmax.show_config`."

/* clang-format on */

#endif
