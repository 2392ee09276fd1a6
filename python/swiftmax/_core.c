/* The CPython extension `swiftmax._core`: NumPy arrays to descriptors of the C ABI, and back.
 *
 * All five functions take one way, `compute`: read the arguments, check that they fit together, allocate
 * the result, and call the library with descriptors that point straight at NumPy's own shapes and strides.
 * The public functions are these C functions themselves: a wrapper in Python would cost more than a small
 * softmax. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#define NPY_NO_DEPRECATED_API NPY_1_23_API_VERSION
#define NPY_TARGET_VERSION NPY_1_23_API_VERSION
#include <numpy/arrayobject.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "_core_docs.h"
#include "_memory.h"
#include "swiftmax.h"

/* A function for errors, or seldom called: compiled for size, and out of the way of others. */
#define SWIFTMAX_SELDOM __attribute__((cold))

#define MAX_RANK SWIFTMAX_MAX_RANK

/* Below this many elements a call is shorter than handing the GIL over and back is worth. */
#define GIL_THRESHOLD 16384

_Static_assert(sizeof(npy_intp) == sizeof(int64_t), "NumPy's shapes are passed to the ABI as they are");
_Static_assert(NPY_MAXDIMS <= MAX_RANK, "every NumPy array fits a descriptor");

/* ---- What the functions have in common, and what sets them apart -------------------------------- */

enum { AXIS, DTYPE, OUT, WHERE, KEEPDIMS, OPTION_COUNT };

static const char *const option_names[OPTION_COUNT] = {"axis", "dtype", "out", "where", "keepdims"};

/* The names above as interned strings, so that a keyword is found by comparing pointers. */
static PyObject *option_keys[OPTION_COUNT];

/* The capsule that makes NumPy take the memory of an array from _memory.c. */
static PyObject *memory_handler;

static PyDataMem_Handler memory_functions = {
    .name = "swiftmax",
    .version = 1,
    .allocator = {NULL, swiftmax_memory_malloc, swiftmax_memory_calloc, swiftmax_memory_realloc,
                  swiftmax_memory_free},
};

#define OPTION(o) (1u << (o))

typedef int32_t Kernel(const swiftmax_array *operands, const swiftmax_array *out, const int32_t *axes,
                       int32_t axis_count, const swiftmax_array *where);

typedef struct {
    const char *name;
    const char *operand_names[2];
    int operand_count;
    unsigned options;
    bool reduces;
    Kernel *kernel;
} Function;

/* One call, on its way from arguments to descriptors. Filled in by the `read_` functions in turn,
 * looked over by the `check_` functions. */
typedef struct {
    const Function *function;
    PyArrayObject *operands[2]; /* owned */
    int type_num;               /* the dtype of the computation and of the result, for NumPy, */
    int32_t dtype;              /* and for the ABI */

    int32_t axes[MAX_RANK];
    int32_t axis_count;
    uint64_t reduced; /* bit i: axis i is part of a slice */

    int result_ndim;
    npy_intp result_shape[MAX_RANK];

    PyArrayObject *where; /* owned, or NULL */
    npy_intp where_strides[MAX_RANK];

    PyArrayObject *out; /* borrowed, or NULL */
} Call;

/* ---- Arguments ---------------------------------------------------------------------------------- */

static int find_option(PyObject *key) {
    for (int o = 0; o < OPTION_COUNT; o++) {
        if (key == option_keys[o])
            return o;
    }
    for (int o = 0; o < OPTION_COUNT; o++) {
        if (PyUnicode_CompareWithASCIIString(key, option_names[o]) == 0)
            return o;
    }
    return -1;
}

/* Checks the count of positional arguments and sorts axis and the keywords into `options`. */
static int read_options(const Function *f, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames,
                        PyObject **options) {
    if (nargs < f->operand_count || nargs > f->operand_count + 1) {
        PyErr_Format(PyExc_TypeError, "%s() takes %d or %d positional arguments (%s%s%s, axis), got %zd",
                     f->name, f->operand_count, f->operand_count + 1, f->operand_names[0],
                     f->operand_count == 2 ? ", " : "", f->operand_count == 2 ? f->operand_names[1] : "",
                     nargs);
        return -1;
    }
    memset(options, 0, OPTION_COUNT * sizeof *options);
    if (nargs > f->operand_count)
        options[AXIS] = args[f->operand_count];

    Py_ssize_t count = kwnames == NULL ? 0 : PyTuple_Size(kwnames);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *key = PyTuple_GetItem(kwnames, i);
        int o = find_option(key);
        if (o < 0 || !(f->options & OPTION(o))) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", f->name, key);
            return -1;
        }
        if (options[o] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", f->name, key);
            return -1;
        }
        options[o] = args[nargs + i];
    }
    /* For all but axis, None says the same as no argument. */
    for (int o = DTYPE; o < OPTION_COUNT; o++) {
        if (options[o] == Py_None)
            options[o] = NULL;
    }
    return 0;
}

/* 1 if `array` is a numpy.ma.MaskedArray, -1 with an exception set. */
static int is_masked(PyObject *array) {
    /* Where numpy.ma has not been imported, no such array exists. */
    PyObject *name = PyUnicode_FromString("numpy.ma");
    if (name == NULL)
        return -1;
    PyObject *module = PyImport_GetModule(name);
    Py_DECREF(name);
    if (module == NULL)
        return PyErr_Occurred() ? -1 : 0;
    PyObject *type = PyObject_GetAttrString(module, "MaskedArray");
    Py_DECREF(module);
    if (type == NULL)
        return -1;
    int masked = PyObject_IsInstance(array, type);
    Py_DECREF(type);
    return masked;
}

SWIFTMAX_SELDOM static int refuse_masked(const Function *f, const char *name, PyObject *array) {
    int masked = is_masked(array);
    if (masked > 0) {
        PyErr_Format(PyExc_TypeError,
                     "%s is a numpy.ma.MaskedArray, and %s() would drop its mask; pass the data, and as "
                     "where= the elements to keep (~numpy.ma.getmaskarray(x))",
                     name, f->name);
    }
    return masked == 0 ? 0 : -1;
}

/* numpy.asanyarray, save that masked arrays are refused. Other subclasses are read as the plain arrays
 * they hold. */
static PyArrayObject *as_array(const Function *f, const char *name, PyObject *object) {
    if (PyArray_CheckExact(object)) {
        Py_INCREF(object);
        return (PyArrayObject *)object;
    }
    PyObject *array = PyArray_FROM_O(object);
    if (array != NULL && !PyArray_CheckExact(array) && refuse_masked(f, name, array) < 0)
        Py_CLEAR(array);
    return (PyArrayObject *)array;
}

static int read_arrays(Call *call, PyObject *const *args, PyObject *const *options) {
    const Function *f = call->function;
    for (int i = 0; i < f->operand_count; i++) {
        call->operands[i] = as_array(f, f->operand_names[i], args[i]);
        if (call->operands[i] == NULL)
            return -1;
    }
    if (options[WHERE] != NULL) {
        call->where = as_array(f, "where", options[WHERE]);
        if (call->where == NULL)
            return -1;
    }
    PyObject *out = options[OUT];
    if (out == NULL)
        return 0;
    if (!PyArray_Check(out)) {
        PyErr_Format(PyExc_TypeError, "out must be a numpy.ndarray, not %R", out);
        return -1;
    }
    call->out = (PyArrayObject *)out;
    return PyArray_CheckExact(out) ? 0 : refuse_masked(f, "out", out);
}

/* ---- Element types ------------------------------------------------------------------------------ */

/* NumPy gives bfloat16 a type number when ml_dtypes registers it, so it is known by its name. Returns
 * 1, 0, or -1 with an exception set. */
static int is_bfloat16(const PyArray_Descr *descr) {
    static _Atomic int known = NPY_NOTYPE;
    if (descr->type_num == known)
        return 1;
    if (!PyTypeNum_ISUSERDEF(descr->type_num))
        return 0;
    PyObject *name = PyObject_GetAttrString((PyObject *)descr->typeobj, "__name__");
    if (name == NULL)
        return -1;
    int same = PyUnicode_CompareWithASCIIString(name, "bfloat16") == 0;
    Py_DECREF(name);
    if (same)
        known = descr->type_num;
    return same;
}

/* The ABI's name of an element type in `*dtype`, 0 for those the kernels do not take. */
static int abi_dtype(const PyArray_Descr *descr, int32_t *dtype) {
    int bfloat16;
    switch (descr->type_num) {
    case NPY_FLOAT:
        *dtype = SWIFTMAX_FLOAT32;
        return 0;
    case NPY_DOUBLE:
        *dtype = SWIFTMAX_FLOAT64;
        return 0;
    case NPY_HALF:
        *dtype = SWIFTMAX_FLOAT16;
        return 0;
    default:
        bfloat16 = is_bfloat16(descr);
        *dtype = bfloat16 > 0 ? SWIFTMAX_BFLOAT16 : 0;
        return bfloat16 < 0 ? -1 : 0;
    }
}

/* The element type an operand is computed in when no dtype= is given. */
static int natural_type(const Call *call, int i, int *type_num, int32_t *dtype) {
    PyArray_Descr *descr = PyArray_DESCR(call->operands[i]);
    *type_num = descr->type_num;
    if (abi_dtype(descr, dtype) < 0)
        return -1;
    if (*dtype != 0)
        return 0;
    if (PyTypeNum_ISINTEGER(*type_num) || PyTypeNum_ISBOOL(*type_num)) {
        *type_num = NPY_DOUBLE;
        *dtype = SWIFTMAX_FLOAT64;
        return 0;
    }
    PyErr_Format(PyExc_TypeError,
                 "%s() takes float16, bfloat16, float32, float64, integers or bool, but %s has dtype %S",
                 call->function->name, call->function->operand_names[i], descr);
    return -1;
}

static int promote(Call *call, int other) {
    PyArray_Descr *a = PyArray_DescrFromType(call->type_num);
    PyArray_Descr *b = PyArray_DescrFromType(other);
    PyArray_Descr *common = a && b ? PyArray_PromoteTypes(a, b) : NULL;
    Py_XDECREF(a);
    Py_XDECREF(b);
    if (common == NULL)
        return -1;
    call->type_num = common->type_num;
    int status = abi_dtype(common, &call->dtype);
    Py_DECREF(common);
    return status;
}

/* Settles the dtype of the computation. An operand that has none of the accepted dtypes is refused
 * whatever dtype= says: a cast from complex or object would lose what it holds. */
static int read_dtype(Call *call, PyObject *option) {
    if (natural_type(call, 0, &call->type_num, &call->dtype) < 0)
        return -1;
    if (call->function->operand_count == 2) {
        int other;
        int32_t other_dtype;
        if (natural_type(call, 1, &other, &other_dtype) < 0)
            return -1;
        return other == call->type_num ? 0 : promote(call, other);
    }
    if (option == NULL)
        return 0;
    PyArray_Descr *descr;
    if (!PyArray_DescrConverter(option, &descr))
        return -1;
    call->type_num = descr->type_num;
    int status = abi_dtype(descr, &call->dtype);
    if (status == 0 && call->dtype == 0) {
        PyErr_Format(PyExc_TypeError, "dtype must be float16, bfloat16, float32 or float64, not %S", descr);
        status = -1;
    }
    Py_DECREF(descr);
    return status;
}

static bool needs_cast(const Call *call, PyArrayObject *array) {
    return PyArray_TYPE(array) != call->type_num || PyArray_ISBYTESWAPPED(array);
}

/* ---- Axes and shapes ----------------------------------------------------------------------------- */

SWIFTMAX_SELDOM static void raise_axis_error(PyObject *axis, int ndim) {
    /* numpy.exceptions is new in NumPy 1.25. */
    PyObject *module = PyImport_ImportModule("numpy.exceptions");
    if (module == NULL && PyErr_ExceptionMatches(PyExc_ImportError)) {
        PyErr_Clear();
        module = PyImport_ImportModule("numpy");
    }
    if (module == NULL)
        return;
    PyObject *type = PyObject_GetAttrString(module, "AxisError");
    Py_DECREF(module);
    if (type == NULL)
        return;
    PyObject *error = PyObject_CallFunction(type, "Oi", axis, ndim);
    if (error != NULL)
        PyErr_SetObject(type, error);
    Py_XDECREF(error);
    Py_DECREF(type);
}

/* Adds one axis, any object with __index__ but a bool, to the call. */
static int read_one_axis(Call *call, PyObject *object, int ndim, PyObject *all) {
    if (PyBool_Check(object) || PyArray_IsScalar(object, Bool)) {
        PyErr_Format(PyExc_TypeError, "axis must be an integer, a tuple of integers or None, not %R", all);
        return -1;
    }
    PyObject *index = PyNumber_Index(object);
    if (index == NULL) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyErr_Format(PyExc_TypeError, "axis must be an integer, a tuple of integers or None, not %R",
                         all);
        }
        return -1;
    }
    int overflow;
    long axis = PyLong_AsLongAndOverflow(index, &overflow);
    /* As in NumPy's reductions, a 0-d array has an axis 0, of one element. */
    int count = ndim == 0 ? 1 : ndim;
    if (overflow != 0 || axis < -count || axis >= count) {
        raise_axis_error(index, ndim);
        Py_DECREF(index);
        return -1;
    }
    Py_DECREF(index);
    if (axis < 0)
        axis += count;
    if (call->reduced >> axis & 1) {
        PyErr_Format(PyExc_ValueError, "axis %ld is named twice in axis=%R", axis, all);
        return -1;
    }
    call->reduced |= UINT64_C(1) << axis;
    call->axes[call->axis_count++] = (int32_t)axis;
    return 0;
}

static int read_axis(Call *call, PyObject *option) {
    int ndim = PyArray_NDIM(call->operands[0]);
    call->axis_count = 0;
    call->reduced = 0;
    if (option == NULL) {
        if (ndim > 0) {
            call->axes[call->axis_count++] = ndim - 1;
            call->reduced = UINT64_C(1) << (ndim - 1);
        }
        return 0;
    }
    if (option == Py_None) {
        call->axis_count = SWIFTMAX_ALL_AXES;
        call->reduced = ~UINT64_C(0);
        return 0;
    }
    bool is_tuple = PyTuple_Check(option);
    Py_ssize_t count = is_tuple ? PyTuple_Size(option) : 1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *axis = is_tuple ? PyTuple_GetItem(option, i) : option;
        if (read_one_axis(call, axis, ndim, option) < 0)
            return -1;
    }
    if (ndim == 0) {
        /* The library knows no axis of a 0-d array; its one element is a slice without. */
        call->axis_count = 0;
        call->reduced = 0;
    }
    return 0;
}

static void read_result_shape(Call *call, bool keepdims) {
    int ndim = PyArray_NDIM(call->operands[0]);
    const npy_intp *shape = PyArray_DIMS(call->operands[0]);
    call->result_ndim = 0;
    for (int i = 0; i < ndim; i++) {
        bool reduced = call->function->reduces && call->reduced >> i & 1;
        if (!reduced)
            call->result_shape[call->result_ndim++] = shape[i];
        else if (keepdims)
            call->result_shape[call->result_ndim++] = 1;
    }
}

SWIFTMAX_SELDOM static PyObject *shape_tuple(const npy_intp *shape, int ndim) {
    PyObject *tuple = PyTuple_New(ndim);
    for (int i = 0; tuple != NULL && i < ndim; i++) {
        PyObject *size = PyLong_FromSsize_t(shape[i]);
        if (size == NULL || PyTuple_SetItem(tuple, i, size) < 0)
            Py_CLEAR(tuple);
    }
    return tuple;
}

/* Raises a ValueError from a format with places for the shape of an array and for another shape. */
SWIFTMAX_SELDOM static void raise_shape_error(const char *format, PyArrayObject *array, const npy_intp *shape,
                                              int ndim) {
    PyObject *first = shape_tuple(PyArray_DIMS(array), PyArray_NDIM(array));
    PyObject *second = shape_tuple(shape, ndim);
    if (first != NULL && second != NULL)
        PyErr_Format(PyExc_ValueError, format, first, second);
    Py_XDECREF(first);
    Py_XDECREF(second);
}

static bool same_shape(PyArrayObject *array, const npy_intp *shape, int ndim) {
    return PyArray_NDIM(array) == ndim && PyArray_CompareLists(PyArray_DIMS(array), shape, ndim);
}

static int check_operands(const Call *call) {
    if (call->function->operand_count == 1)
        return 0;
    PyArrayObject *grad_output = call->operands[0], *output = call->operands[1];
    if (same_shape(grad_output, PyArray_DIMS(output), PyArray_NDIM(output)))
        return 0;
    raise_shape_error("grad_output has shape %R, but output has shape %R", grad_output, PyArray_DIMS(output),
                      PyArray_NDIM(output));
    return -1;
}

/* Strides of 0 broadcast `array` to a shape; false if its own shape does not allow it. */
static bool broadcast_strides(PyArrayObject *array, const npy_intp *shape, int ndim, npy_intp *strides) {
    int lead = ndim - PyArray_NDIM(array);
    if (lead < 0)
        return false;
    for (int i = 0; i < ndim; i++) {
        npy_intp size = i < lead ? 1 : PyArray_DIM(array, i - lead);
        if (size != 1 && size != shape[i])
            return false;
        strides[i] = size == 1 ? 0 : PyArray_STRIDE(array, i - lead);
    }
    return true;
}

static int check_where(Call *call) {
    PyArrayObject *where = call->where;
    if (where == NULL)
        return 0;
    if (PyArray_TYPE(where) != NPY_BOOL) {
        PyErr_Format(PyExc_TypeError, "where must have dtype bool, not %S", PyArray_DESCR(where));
        return -1;
    }
    int ndim = PyArray_NDIM(call->operands[0]);
    const npy_intp *shape = PyArray_DIMS(call->operands[0]);
    if (broadcast_strides(where, shape, ndim, call->where_strides))
        return 0;
    raise_shape_error("where has shape %R, which does not broadcast to the shape %R of x", where, shape,
                      ndim);
    return -1;
}

static int check_out(const Call *call) {
    PyArrayObject *out = call->out;
    if (out == NULL)
        return 0;
    if (PyArray_TYPE(out) != call->type_num) {
        PyArray_Descr *needed = PyArray_DescrFromType(call->type_num);
        PyErr_Format(PyExc_TypeError, "out has dtype %S, but the result has dtype %S", PyArray_DESCR(out),
                     needed);
        Py_XDECREF(needed);
        return -1;
    }
    if (!same_shape(out, call->result_shape, call->result_ndim)) {
        raise_shape_error("out has shape %R, but the result has shape %R", out, call->result_shape,
                          call->result_ndim);
        return -1;
    }
    return PyArray_FailUnlessWriteable(out, "out");
}

/* ---- Running ------------------------------------------------------------------------------------ */

/* K order, but C for arrays that are broadcast: NumPy takes axes of stride 0 for the innermost ones, and
 * the elements of what is then a row would be far apart. */
static NPY_ORDER result_order(PyArrayObject *x) {
    for (int i = 0; i < PyArray_NDIM(x); i++) {
        if (PyArray_STRIDE(x, i) == 0 && PyArray_DIM(x, i) > 1)
            return NPY_CORDER;
    }
    return NPY_KEEPORDER;
}

static PyArrayObject *allocate_result(const Call *call) {
    PyArrayObject *x = call->operands[0];
    if (!call->function->reduces && !needs_cast(call, x))
        return (PyArrayObject *)PyArray_NewLikeArray(x, result_order(x), NULL, 0);
    PyArray_Descr *descr = PyArray_DescrFromType(call->type_num);
    if (descr == NULL)
        return NULL;
    if (!call->function->reduces)
        return (PyArrayObject *)PyArray_NewLikeArray(x, result_order(x), descr, 0);
    int fortran = PyArray_IS_F_CONTIGUOUS(x) && !PyArray_IS_C_CONTIGUOUS(x);
    return (PyArrayObject *)PyArray_NewFromDescr(&PyArray_Type, descr, call->result_ndim, call->result_shape,
                                                 NULL, NULL, fortran ? NPY_ARRAY_F_CONTIGUOUS : 0, NULL);
}

/* A new array for the result, in the memory order of the operand. Those that are not small come from the
 * memory of _memory.c, unless the caller has set a memory handler of their own. */
static PyArrayObject *new_result(const Call *call) {
    size_t item = call->dtype == SWIFTMAX_FLOAT64 ? 8 : call->dtype == SWIFTMAX_FLOAT32 ? 4 : 2;
    size_t size = (size_t)PyArray_MultiplyList(call->result_shape, call->result_ndim);
    if (size < SWIFTMAX_PLACED_OUTPUT / item)
        return allocate_result(call);
    PyObject *current = PyDataMem_GetHandler();
    if (current == NULL)
        return NULL;
    bool is_default = current == PyDataMem_DefaultHandler;
    Py_DECREF(current);
    if (!is_default)
        return allocate_result(call);
    PyObject *previous = PyDataMem_SetHandler(memory_handler);
    if (previous == NULL)
        return NULL;
    PyArrayObject *x = call->operands[0], *other = call->operands[1];
    swiftmax_memory_place(PyArray_DATA(x), PyArray_DATA(other == NULL ? x : other));
    PyArrayObject *result = allocate_result(call);
    PyObject *ours = PyDataMem_SetHandler(previous);
    Py_DECREF(previous);
    if (ours == NULL)
        Py_CLEAR(result);
    Py_XDECREF(ours);
    return result;
}

/* False only if no two elements of the array can share memory: going from the smallest stride to the
 * largest, each steps over all that the ones before it span. */
static bool may_overlap_itself(PyArrayObject *array) {
    if (PyArray_ISONESEGMENT(array) || PyArray_SIZE(array) == 0)
        return false;
    npy_intp span = PyArray_ITEMSIZE(array);
    uint64_t left = 0;
    for (int i = 0; i < PyArray_NDIM(array); i++)
        left |= (uint64_t)(PyArray_DIM(array, i) > 1) << i;
    while (left != 0) {
        int next = -1;
        npy_intp smallest = 0;
        for (int i = 0; i < PyArray_NDIM(array); i++) {
            npy_intp stride = Py_ABS(PyArray_STRIDE(array, i));
            if (left >> i & 1 && (next < 0 || stride < smallest)) {
                next = i;
                smallest = stride;
            }
        }
        if (smallest < span)
            return true;
        span += smallest * (PyArray_DIM(array, next) - 1);
        left &= ~(UINT64_C(1) << next);
    }
    return false;
}

/* Replaces operand `i` by a native array of the dtype of the computation; `into`, if not NULL, is to
 * hold it. */
static int cast_operand(Call *call, int i, PyArrayObject *into) {
    PyArrayObject *x = call->operands[i];
    PyArrayObject *copy = into;
    if (into != NULL) {
        Py_INCREF(copy);
    } else {
        PyArray_Descr *descr = PyArray_DescrFromType(call->type_num);
        if (descr != NULL)
            copy = (PyArrayObject *)PyArray_NewLikeArray(x, result_order(x), descr, 0);
        if (copy == NULL)
            return -1;
    }
    if (PyArray_CopyInto(copy, x) < 0) {
        Py_DECREF(copy);
        return -1;
    }
    call->operands[i] = copy;
    Py_DECREF(x);
    return 0;
}

static swiftmax_array describe(PyArrayObject *array, int32_t dtype) {
    return (swiftmax_array){
        .data = PyArray_DATA(array),
        .shape = (const int64_t *)PyArray_DIMS(array),
        .strides = (const int64_t *)PyArray_STRIDES(array),
        .ndim = PyArray_NDIM(array),
        .dtype = dtype,
    };
}

typedef struct {
    int64_t shape[MAX_RANK];
    int64_t strides[MAX_RANK];
} Layout;

/* The descriptor of a reduced result: as the operand's, with size 1 along each reduced axis. */
static swiftmax_array describe_reduced(const Call *call, PyArrayObject *result, Layout *layout) {
    int ndim = PyArray_NDIM(call->operands[0]);
    bool keepdims = PyArray_NDIM(result) == ndim;
    for (int i = 0, axis = 0; i < ndim; i++) {
        bool reduced = call->reduced >> i & 1;
        layout->shape[i] = reduced ? 1 : PyArray_DIM(result, axis);
        layout->strides[i] = reduced ? 0 : PyArray_STRIDE(result, axis);
        axis += !reduced || keepdims;
    }
    swiftmax_array array = describe(result, call->dtype);
    array.shape = layout->shape;
    array.strides = layout->strides;
    array.ndim = ndim;
    return array;
}

/* While the GIL is away, another thread may give an array a new shape in place: keep the one it has. */
static void keep_layout(swiftmax_array *array, Layout *layout) {
    size_t bytes = (size_t)array->ndim * sizeof(int64_t);
    array->shape = memcpy(layout->shape, array->shape, bytes);
    array->strides = memcpy(layout->strides, array->strides, bytes);
}

static int32_t run_without_gil(const Call *call, swiftmax_array *operands, swiftmax_array *out,
                               const swiftmax_array *where) {
    const Function *f = call->function;
    Layout layouts[3];
    for (int i = 0; i < f->operand_count; i++)
        keep_layout(&operands[i], &layouts[i]);
    if (!f->reduces)
        keep_layout(out, &layouts[2]);
    swiftmax_array kept_where;
    if (where != NULL) {
        kept_where = *where;
        kept_where.shape = operands[0].shape;
        where = &kept_where;
    }
    int32_t status;
    Py_BEGIN_ALLOW_THREADS;
    status = f->kernel(operands, out, call->axes, call->axis_count, where);
    Py_END_ALLOW_THREADS;
    return status;
}

/* Calls the kernel on the operands as they are, into `result`. */
static int32_t run_kernel(const Call *call, PyArrayObject *result) {
    const Function *f = call->function;
    Layout layout;
    swiftmax_array operands[2], out, where;
    for (int i = 0; i < f->operand_count; i++)
        operands[i] = describe(call->operands[i], call->dtype);
    out = f->reduces ? describe_reduced(call, result, &layout) : describe(result, call->dtype);
    if (call->where != NULL) {
        where = operands[0];
        where.data = PyArray_DATA(call->where);
        where.strides = (const int64_t *)call->where_strides;
        where.dtype = SWIFTMAX_BOOL;
    }
    const swiftmax_array *where_or_null = call->where != NULL ? &where : NULL;
    if (PyArray_SIZE(call->operands[0]) >= GIL_THRESHOLD)
        return run_without_gil(call, operands, &out, where_or_null);
    return f->kernel(operands, &out, call->axes, call->axis_count, where_or_null);
}

SWIFTMAX_SELDOM static int raise_status(const Function *f, int32_t status) {
    PyErr_Format(status == SWIFTMAX_OUT_OF_MEMORY ? PyExc_MemoryError : PyExc_ValueError, "%s(): %s", f->name,
                 swiftmax_status_message(status));
    return -1;
}

/* Computes into `*result`, or into a new array put in its place if that one overlaps an operand. */
static int run(Call *call, PyArrayObject **result) {
    const Function *f = call->function;
    bool fresh = *result != call->out;
    for (int i = 0; i < f->operand_count; i++) {
        if (!needs_cast(call, call->operands[i]))
            continue;
        /* The cast goes to where the result will be, unless an operand still to be read may be there. */
        bool in_place = i == 0 && !f->reduces && (fresh || (f->operand_count == 1 && !call->where));
        if (cast_operand(call, i, in_place ? *result : NULL) < 0)
            return -1;
    }
    int32_t status = run_kernel(call, *result);
    if (status == SWIFTMAX_OVERLAP && !fresh) {
        Py_DECREF(*result);
        *result = new_result(call);
        if (*result == NULL)
            return -1;
        status = run_kernel(call, *result);
    }
    return status == SWIFTMAX_OK ? 0 : raise_status(f, status);
}

static PyObject *allocate_and_run(Call *call) {
    PyArrayObject *out = call->out;
    PyArrayObject *result;
    if (out != NULL && !PyArray_ISBYTESWAPPED(out) && !may_overlap_itself(out)) {
        Py_INCREF(out);
        result = out;
    } else {
        result = new_result(call);
        if (result == NULL)
            return NULL;
    }
    if (run(call, &result) < 0) {
        Py_XDECREF(result);
        return NULL;
    }
    if (out == NULL || result == out)
        return (PyObject *)result;
    int copied = PyArray_CopyInto(out, result);
    Py_DECREF(result);
    if (copied < 0)
        return NULL;
    Py_INCREF(out);
    return (PyObject *)out;
}

static PyObject *compute(const Function *f, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames) {
    PyObject *options[OPTION_COUNT];
    if (read_options(f, args, nargs, kwnames, options) < 0)
        return NULL;
    int keepdims = options[KEEPDIMS] == NULL ? 0 : PyObject_IsTrue(options[KEEPDIMS]);
    if (keepdims < 0)
        return NULL;

    Call call;
    call.function = f;
    call.operands[0] = call.operands[1] = call.where = call.out = NULL;
    PyObject *result = NULL;
    /* Arguments can be objects that run Python code when they are read, and that code can give an array a
     * new shape. So no shape is looked at until all of them have been read. */
    if (read_arrays(&call, args, options) == 0 && read_dtype(&call, options[DTYPE]) == 0 &&
        read_axis(&call, options[AXIS]) == 0) {
        read_result_shape(&call, keepdims);
        if (check_operands(&call) == 0 && check_where(&call) == 0 && check_out(&call) == 0)
            result = allocate_and_run(&call);
    }
    Py_XDECREF(call.operands[0]);
    Py_XDECREF(call.operands[1]);
    Py_XDECREF(call.where);
    return result;
}

/* ---- The functions ------------------------------------------------------------------------------ */

#define FORWARD(function)                                                                                    \
    static int32_t function##_kernel(const swiftmax_array *operands, const swiftmax_array *out,              \
                                     const int32_t *axes, int32_t axis_count, const swiftmax_array *where) { \
        return swiftmax_##function(&operands[0], out, axes, axis_count, where);                              \
    }

#define BACKWARD(function)                                                                                   \
    static int32_t function##_kernel(const swiftmax_array *operands, const swiftmax_array *out,              \
                                     const int32_t *axes, int32_t axis_count, const swiftmax_array *where) { \
        (void)where;                                                                                         \
        return swiftmax_##function(&operands[0], &operands[1], out, axes, axis_count);                       \
    }

#define PYTHON_FUNCTION(function, ...)                                                                       \
    static const Function function##_function = {                                                            \
        .name = #function, .kernel = function##_kernel, __VA_ARGS__};                                        \
    static PyObject *py_##function(PyObject *module, PyObject *const *args, Py_ssize_t nargs,                \
                                   PyObject *kwnames) {                                                      \
        (void)module;                                                                                        \
        return compute(&function##_function, args, nargs, kwnames);                                          \
    }

FORWARD(softmax)
FORWARD(log_softmax)
FORWARD(logsumexp)
BACKWARD(softmax_backward)
BACKWARD(log_softmax_backward)

#define ONE_OPERAND .operand_names = {"x"}, .operand_count = 1
#define TWO_OPERANDS .operand_names = {"grad_output", "output"}, .operand_count = 2
#define FORWARD_OPTIONS (OPTION(AXIS) | OPTION(DTYPE) | OPTION(OUT) | OPTION(WHERE))
#define BACKWARD_OPTIONS (OPTION(AXIS) | OPTION(OUT))

PYTHON_FUNCTION(softmax, ONE_OPERAND, .options = FORWARD_OPTIONS)
PYTHON_FUNCTION(log_softmax, ONE_OPERAND, .options = FORWARD_OPTIONS)
PYTHON_FUNCTION(logsumexp, ONE_OPERAND, .options = FORWARD_OPTIONS | OPTION(KEEPDIMS), .reduces = true)
PYTHON_FUNCTION(softmax_backward, TWO_OPERANDS, .options = BACKWARD_OPTIONS)
PYTHON_FUNCTION(log_softmax_backward, TWO_OPERANDS, .options = BACKWARD_OPTIONS)

SWIFTMAX_SELDOM static PyObject *py_set_num_threads(PyObject *module, PyObject *n) {
    (void)module;
    if (n == Py_None) {
        swiftmax_set_num_threads(0);
        Py_RETURN_NONE;
    }
    PyObject *index = PyNumber_Index(n);
    if (index == NULL)
        return NULL;
    int overflow;
    long count = PyLong_AsLongAndOverflow(index, &overflow);
    Py_DECREF(index);
    if (overflow != 0 || count < 1 || count > INT32_MAX)
        return PyErr_Format(PyExc_ValueError, "n must be from 1 to %d, or None, not %R", INT32_MAX, n);
    swiftmax_set_num_threads((int32_t)count);
    Py_RETURN_NONE;
}

static PyObject *py_get_num_threads(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyLong_FromLong(swiftmax_get_num_threads());
}

/* (name, whether this CPU runs it) of each kernel set, widest first. */
SWIFTMAX_SELDOM static PyObject *kernel_sets(void) {
    PyObject *list = PyList_New(0);
    const char *name;
    for (int32_t i = 0; list != NULL && (name = swiftmax_isa_name(i)) != NULL; i++) {
        PyObject *entry = Py_BuildValue("sO", name, swiftmax_isa_runs(i) ? Py_True : Py_False);
        if (entry == NULL || PyList_Append(list, entry) < 0)
            Py_CLEAR(list);
        Py_XDECREF(entry);
    }
    return list;
}

SWIFTMAX_SELDOM static PyObject *py_library_config(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    PyObject *sets = kernel_sets();
    if (sets == NULL)
        return NULL;
    return Py_BuildValue("{s:s,s:s,s:N,s:i}", "version", swiftmax_version(), "isa", swiftmax_isa(), "isas",
                         sets, "threads", swiftmax_get_num_threads());
}

/* ---- The module --------------------------------------------------------------------------------- */

#define ENTRY(name, function, flags) {#name, (PyCFunction)(void (*)(void))(function), (flags), name##_doc}

static PyMethodDef methods[] = {
    ENTRY(softmax, py_softmax, METH_FASTCALL | METH_KEYWORDS),
    ENTRY(log_softmax, py_log_softmax, METH_FASTCALL | METH_KEYWORDS),
    ENTRY(logsumexp, py_logsumexp, METH_FASTCALL | METH_KEYWORDS),
    ENTRY(softmax_backward, py_softmax_backward, METH_FASTCALL | METH_KEYWORDS),
    ENTRY(log_softmax_backward, py_log_softmax_backward, METH_FASTCALL | METH_KEYWORDS),
    ENTRY(set_num_threads, py_set_num_threads, METH_O),
    ENTRY(get_num_threads, py_get_num_threads, METH_NOARGS),
    ENTRY(library_config, py_library_config, METH_NOARGS),
    {NULL, NULL, 0, NULL},
};

SWIFTMAX_SELDOM static int module_exec(PyObject *module) {
    (void)module;
    import_array1(-1);
    for (int o = 0; o < OPTION_COUNT; o++) {
        if (option_keys[o] == NULL)
            option_keys[o] = PyUnicode_InternFromString(option_names[o]);
        if (option_keys[o] == NULL)
            return -1;
    }
    if (memory_handler == NULL)
        memory_handler = PyCapsule_New(&memory_functions, "mem_handler", NULL);
    return memory_handler == NULL ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)module_exec},
#ifdef Py_mod_multiple_interpreters
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
#ifdef Py_mod_gil
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, .m_name = "swiftmax._core", .m_doc = "The C functions behind swiftmax.",
    .m_size = 0,           .m_methods = methods,       .m_slots = slots,
};

PyMODINIT_FUNC PyInit__core(void) {
    return PyModuleDef_Init(&module_def);
}
