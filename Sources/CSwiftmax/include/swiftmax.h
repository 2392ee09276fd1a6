/// swiftmax: softmax, log-softmax and log-sum-exp over strided arrays, forward and backward.
///
/// This header is the contract. Everything the Python package does, a C program can do through it.
/// All functions are thread-safe, keep a block of scratch memory for each thread, keep no reference to their
/// arguments, and leave the caller's floating-point environment (rounding mode, flush-to-zero,
/// exception flags) as they found it; the results do not depend on it.

#ifndef SWIFTMAX_H
#define SWIFTMAX_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// The highest rank (number of dimensions) of an array.
#define SWIFTMAX_MAX_RANK 64

/// As `axis_count`: all axes of the array form one slice; `axes` is not read.
#define SWIFTMAX_ALL_AXES (-1)

/// Element types.
enum {
    SWIFTMAX_FLOAT32 = 1,  ///< IEEE binary32
    SWIFTMAX_FLOAT64 = 2,  ///< IEEE binary64
    SWIFTMAX_FLOAT16 = 3,  ///< IEEE binary16; computed in float32, rounded once
    SWIFTMAX_BFLOAT16 = 4, ///< upper half of a binary32; computed in float32, rounded once
    SWIFTMAX_BOOL = 5      ///< one byte, zero is false; for `where` alone
};

/// What a call reports. Zero is success; on any other status nothing was written.
enum {
    SWIFTMAX_OK = 0,
    SWIFTMAX_NULL_POINTER = 1,   ///< a required pointer is null
    SWIFTMAX_BAD_DTYPE = 2,      ///< a dtype is unknown, or not allowed for this argument
    SWIFTMAX_BAD_RANK = 3,       ///< an ndim is negative or above SWIFTMAX_MAX_RANK
    SWIFTMAX_NEGATIVE_SIZE = 4,  ///< a shape has a negative entry
    SWIFTMAX_TOO_LARGE = 5,      ///< an array's extent in bytes does not fit in 63 bits
    SWIFTMAX_BAD_AXIS = 6,       ///< an axis is outside [-ndim, ndim)
    SWIFTMAX_REPEATED_AXIS = 7,  ///< an axis is named twice
    SWIFTMAX_SHAPE_MISMATCH = 8, ///< two arrays that must agree in shape do not
    SWIFTMAX_DTYPE_MISMATCH = 9, ///< two arrays that must agree in dtype do not
    SWIFTMAX_OVERLAP = 10,       ///< an output shares memory with an input in another layout
    SWIFTMAX_OUT_OF_MEMORY = 11  ///< no memory for scratch
};

/// A strided array. `data` points at the element whose indices are all zero; it needs no alignment.
/// Strides are in bytes and may be zero or negative. `shape` and `strides` hold `ndim` entries each and
/// may be null when `ndim` is 0; `data` may be null when the array holds no element.
typedef struct swiftmax_array {
    void *data;
    const int64_t *shape;
    const int64_t *strides;
    int32_t ndim;
    int32_t dtype;
} swiftmax_array;

/// softmax: out = exp(x - max) / sum(exp(x - max)) over each slice.
///
/// A slice is formed by the axes `axes[0..<axis_count]`, in increasing order, each in [-ndim, ndim);
/// SWIFTMAX_ALL_AXES takes all, and no axis at all makes each element its own slice.
///
/// - `x`: float32, float64, float16 or bfloat16, any shape and strides.
/// - `out`: same dtype and shape. It may be `x` itself (same data and strides); any other array whose
///   range of addresses meets that of an input is refused with SWIFTMAX_OVERLAP.
/// - `where`: null, or SWIFTMAX_BOOL of the same shape (strides of 0 broadcast). Elements where it is
///   false take no part and give 0; so does a whole slice with none left.
///
/// A NaN makes its slice NaN; so does +inf, and a slice of nothing but -inf. Else -inf gives exactly 0.
int32_t swiftmax_softmax(const swiftmax_array *x, const swiftmax_array *out, const int32_t *axes,
                         int32_t axis_count, const swiftmax_array *where);

/// log_softmax: out = x - max - log(sum(exp(x - max))) over each slice.
/// Arguments as in `swiftmax_softmax`; elements left out by `where` give -inf, and so does -inf.
int32_t swiftmax_log_softmax(const swiftmax_array *x, const swiftmax_array *out, const int32_t *axes,
                             int32_t axis_count, const swiftmax_array *where);

/// logsumexp: out = log(sum(exp(x))) over each slice.
/// `out` has the rank of `x`, with size 1 along each reduced axis; it must not overlap an input.
/// +inf gives +inf unless there is a NaN; a slice of nothing but -inf, or of no element, gives -inf.
/// The other arguments are as in `swiftmax_softmax`.
int32_t swiftmax_logsumexp(const swiftmax_array *x, const swiftmax_array *out, const int32_t *axes,
                           int32_t axis_count, const swiftmax_array *where);

/// softmax_backward: grad_input = output * (grad_output - sum(grad_output * output)) over each slice,
/// where `output` is what `swiftmax_softmax` gave. All three agree in dtype and shape; `grad_input` may
/// be either input itself, with the rule of overlap of `swiftmax_softmax`.
int32_t swiftmax_softmax_backward(const swiftmax_array *grad_output, const swiftmax_array *output,
                                  const swiftmax_array *grad_input, const int32_t *axes, int32_t axis_count);

/// log_softmax_backward: grad_input = grad_output - exp(output) * sum(grad_output) over each slice,
/// where `output` is what `swiftmax_log_softmax` gave. Arguments as in `swiftmax_softmax_backward`.
int32_t swiftmax_log_softmax_backward(const swiftmax_array *grad_output, const swiftmax_array *output,
                                      const swiftmax_array *grad_input, const int32_t *axes,
                                      int32_t axis_count);

/// One English sentence for a status; a static string, never null.
const char *swiftmax_status_message(int32_t status);

/// The most threads one call may use. At load: SWIFTMAX_NUM_THREADS if set to a positive integer, else
/// the processors this process may run on (affinity and cgroup quota). Small calls use one.
int32_t swiftmax_get_num_threads(void);

/// Sets the most threads one call may use; below 1 restores the value at load.
void swiftmax_set_num_threads(int32_t count);

/// The kernels in use: "avx512", "avx2" or "baseline". Chosen once, at the first call: the widest this
/// CPU runs, or what the environment variable SWIFTMAX_ISA names if this CPU runs it.
const char *swiftmax_isa(void);

/// The name of kernel set `index`, widest first; null past the last one.
const char *swiftmax_isa_name(int32_t index);

/// 1 if this CPU can run kernel set `index`, else 0.
int32_t swiftmax_isa_runs(int32_t index);

/// The version of the library, "major.minor.patch".
const char *swiftmax_version(void);

#ifdef __cplusplus
}
#endif

#endif
