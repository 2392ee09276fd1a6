/// The contract between the plan (shapes, strides, threads) and the kernels (one table per instruction
/// set and element type). Kernels know rows and columns of contiguous elements, and no shapes.

#ifndef SWIFTMAX_KERNELS_H
#define SWIFTMAX_KERNELS_H

#include <stdbool.h>
#include <stdint.h>

/// The forward operations.
enum { SWIFTMAX_OP_SOFTMAX = 0, SWIFTMAX_OP_LOG_SOFTMAX = 1, SWIFTMAX_OP_LOGSUMEXP = 2 };

/// How the elements of a row lie, or those of columns side by side: as the kernels' own type, one after
/// another; the same in a 16-bit type; every other one of the own type; from the address of the first down,
/// and in a 16-bit type, of gradients alone.
enum {
    SWIFTMAX_ELEMENTS_OWN = 0,
    SWIFTMAX_ELEMENTS_FLOAT16 = 1,
    SWIFTMAX_ELEMENTS_BFLOAT16 = 2,
    SWIFTMAX_ELEMENTS_ALTERNATE = 3,
    SWIFTMAX_ELEMENTS_REVERSED = 4,
    SWIFTMAX_ELEMENTS_REVERSED_FLOAT16 = 5,
    SWIFTMAX_ELEMENTS_REVERSED_BFLOAT16 = 6
};

/// Elements of a slice that are summed together. Part of the definition of the result: a longer slice
/// is cut at multiples of it, whatever the layout and the number of threads.
#define SWIFTMAX_BLOCK 4096

/// Slices that a table has room for, and so columns of a row that can be taken at a time.
#define SWIFTMAX_TABLE_SLICES 768

/// Bytes of scratch that each kernel call needs: three tables, the partial sums of a batch of rows, the
/// elements of a tile of columns, and a block of one column.
/// Of a block of elements there is room for four lines of each row, as the CPU hardly reads ahead in less; in
/// their place, for two panels of exponentials. The members of a virtual lane lie eight or sixteen lines
/// apart in a panel: with four between the panels, those of one share no sets of the first cache with those
/// of the other.
enum {
    SWIFTMAX_TABLE_BYTES = 16 * 8 * SWIFTMAX_TABLE_SLICES,
    SWIFTMAX_PANEL_BYTES = 256 * 1024,
    SWIFTMAX_PANEL_GAP_BYTES = 4 * 64,
    SWIFTMAX_TILE_BYTES = 4 * 64 * SWIFTMAX_BLOCK,
    SWIFTMAX_LANE_SUM_BYTES = 64 * 1024,
    SWIFTMAX_KERNEL_SCRATCH_BYTES = 3 * SWIFTMAX_TABLE_BYTES + SWIFTMAX_LANE_SUM_BYTES + SWIFTMAX_TILE_BYTES +
        8 * SWIFTMAX_BLOCK
};

/// What is known of a slice, or of one block of it, after one reading.
/// softmax: high + low = sum(exp(x)) * 2^(bias - k), k = round(max / ln2).
/// log_softmax, logsumexp: the same sum without `count` of the elements equal to max: one of them, or all.
/// backward: high + low = the sum of the gradient's terms times `max`, which is 1 unless that overflows;
/// `count` is what plain arithmetic gives then, as infinite terms need.
typedef struct swiftmax_stats {
    double max;
    double high;
    double low;
    double count;
} swiftmax_stats;

/// A sum of exponentials in fixed point: 192 bits after the point, from the least significant limb on.
typedef struct swiftmax_exact_sum {
    uint64_t limbs[4];
} swiftmax_exact_sum;

/// Whether a logsumexp, max + log of a sum, has lost so much to cancellation that it must be computed anew.
/// The error of log = |max| + |result| is that of the sum, and as much times log where that is small: 2.25
/// times as large in the result at 0.8 |max|.
static inline bool swiftmax_logsumexp_cancels(double result, double max) {
    double share = max > -0.5 ? 0.8 : 0.5;
    return max < 0 && __builtin_fabs(result) < -max * share && __builtin_isfinite(max);
}

/// For a logsumexp between max and -max, max < 0, where max and the logarithm cancel: adds the exponentials
/// of `n` elements (floats or doubles by their size, `stride` bytes apart), of the slice or of a part of it,
/// to `sum`, at first zeros. Elements may be -inf, but not NaN. Compiled once for all instruction sets.
void swiftmax_add_exact(const void *x, intptr_t element_bytes, intptr_t stride, intptr_t n, double max,
                        swiftmax_exact_sum *sum);
/// The sum less 1, as high + low.
void swiftmax_exact_excess(const swiftmax_exact_sum *sum, double max, double *high, double *low);
/// The logarithm of the sum.
double swiftmax_kernels_exact_log(const swiftmax_exact_sum *sum, double max);

/// A matrix of elements, as large as that of a call, which is read or copied after it: its first element, and
/// the bytes from row to row and from column to column. It is asked for while memory has nothing else to do.
/// `address` is null for none.
typedef struct swiftmax_next {
    const void *address;
    intptr_t row_stride;
    intptr_t column_stride;
} swiftmax_next;

/// Columns that lie side by side in `count` places: so many bytes from one to the next in each array.
typedef struct swiftmax_groups {
    intptr_t count;
    intptr_t input_stride;
    intptr_t other_input_stride;
    intptr_t out_stride;
} swiftmax_groups;

/// Columns in one place.
static inline swiftmax_groups swiftmax_single_group(void) {
    swiftmax_groups single = {.count = 1};
    return single;
}

/// Whether groups of so many columns go through vectors of `lanes` one after another, without gaps, rather
/// than each through vectors of its own. That saves vectors, but vectors of two groups are read and written
/// in parts.
static inline bool swiftmax_groups_share_vectors(intptr_t columns, intptr_t lanes) {
    return (-columns & (lanes - 1)) >= lanes / 4;
}

/// How many short columns of `n` elements the forward kernels take in one tile, at most: so many that the
/// first cache holds them and their exponentials, or 64. While a tile is summed, what follows the columns of
/// a call is asked for by its last tile alone.
static inline intptr_t swiftmax_tile_columns(intptr_t n, intptr_t element_bytes) {
    intptr_t columns = 12288 / (n * element_bytes) & ~(intptr_t)63;
    return columns < 64 ? 64 : columns > 256 ? 256 : columns;
}

/// How far away the columns of inputs are: in the second cache, beyond it, or hardly in the last one either;
/// or in any cache of a CPU whose last one answers so soon that short columns are not asked for.
/// SWIFTMAX_SOON_ASIDE: in such a last cache, while the output goes past it.
enum {
    SWIFTMAX_NEAR = 0,
    SWIFTMAX_FAR = 1,
    SWIFTMAX_IN_MEMORY = 2,
    SWIFTMAX_SOON = 3,
    SWIFTMAX_SOON_ASIDE = 4
};

/// One set of kernels. All strides are in bytes; elements of a row, and columns of one axis position,
/// are contiguous. An output may be the input it is computed from, in the same layout. With `streaming` it is
/// written past the caches where it can be; the caller orders these stores before what follows.
typedef struct swiftmax_kernels {
    /// What is found in the last cache of this CPU: SWIFTMAX_FAR or SWIFTMAX_SOON.
    int32_t last_cache;
    /// Whether this CPU widens eight floats at a time rather than twice four: for `eights` of the functions.
    int32_t eights;
    /// Whether this CPU takes longer to bring back what its second cache lost of the exponentials of a column
    /// than to compute them again: for `recomputes` of the functions.
    int32_t recomputes;
    /// How many lines the first cache of this CPU holds at multiples of a page: for `ways` of the functions.
    int32_t ways;

    /// `rows` slices of `n` elements each. `far`: they are part of an input beyond the inner caches, so rows
    /// are asked for ahead or, of gradients, taken through the phases fewer at a time.
    void (*forward_rows)(int32_t op, const void *x, intptr_t x_stride, void *out, intptr_t out_stride,
                         intptr_t rows, intptr_t n, void *scratch, int32_t streaming, int32_t far,
                         swiftmax_next next);
    /// `columns` slices of `n` elements each, in each of `groups`; the elements of a slice are `x_stride`
    /// apart. `elements`: how those of neighbors lie in `x`, which are not reversed; if in another way than
    /// in order, n <= SWIFTMAX_BLOCK. Those of 16 bits give such results. `mask`, if not null: a byte for
    /// each element of slices as short, in one group, in rows `mask_stride` apart; where it is 0, the element
    /// is taken for -inf.
    void (*forward_columns)(int32_t op, int32_t elements, const void *x, intptr_t x_stride,
                            const uint8_t *mask, intptr_t mask_stride, void *out, intptr_t out_stride,
                            intptr_t columns, swiftmax_groups groups, intptr_t n, void *scratch,
                            int32_t streaming, swiftmax_next next, int32_t recomputes);
    /// As forward_rows, of rows of at least 16 elements that lie otherwise: of 16 bits, with such results, or
    /// reversed or every other one, of at most SWIFTMAX_BLOCK. Or with a `mask`, as that of forward_columns;
    /// then also in order, but not of 16 bits. `room`: for a float of each element of a longer row, or null.
    /// Returns how many rows are done: fewer than all where the logsumexp of the next is to be taken by
    /// blocks. Null where there is none for this CPU.
    intptr_t (*forward_other_rows)(int32_t op, int32_t elements, const void *x, intptr_t x_stride,
                                   const uint8_t *mask, intptr_t mask_stride, void *out, intptr_t out_stride,
                                   intptr_t rows, intptr_t n, void *scratch, void *room, int32_t streaming,
                                   int32_t far);
    /// One block (n <= SWIFTMAX_BLOCK) of a row that is shared out; `known_max` null for the block's own.
    void (*row_stats)(int32_t op, const void *x, intptr_t n, const double *known_max, swiftmax_stats *stats,
                      void *scratch, swiftmax_next next);
    /// The stats of a row from those of its blocks, in order. Returns 1 if the blocks must be read again with
    /// the row's maximum as `known_max`, else 0.
    int32_t (*merge_stats)(int32_t op, const swiftmax_stats *blocks, intptr_t count, swiftmax_stats *stats);
    /// `n` elements of the result of a row, given the stats of the whole.
    void (*row_output)(int32_t op, const void *x, void *out, intptr_t n, const swiftmax_stats *stats,
                       void *scratch, int32_t streaming);

    /// As forward_rows and forward_columns; `op` is SWIFTMAX_OP_SOFTMAX or SWIFTMAX_OP_LOG_SOFTMAX. Columns
    /// that are taken next begin `next` bytes after the first group in each input, unless it is 0. `far`:
    /// rows are part of inputs beyond the inner caches, and asked for ahead. `distance`: SWIFTMAX_NEAR and so
    /// on.
    void (*backward_rows)(int32_t op, const void *grad_output, intptr_t grad_output_stride,
                          const void *output, intptr_t output_stride, void *grad_input,
                          intptr_t grad_input_stride, intptr_t rows, intptr_t n, void *scratch,
                          int32_t streaming, int32_t far, int32_t eights);
    void (*backward_columns)(int32_t op, const void *grad_output, intptr_t grad_output_stride,
                             const void *output, intptr_t output_stride, void *grad_input,
                             intptr_t grad_input_stride, intptr_t columns, swiftmax_groups groups, intptr_t n,
                             intptr_t next, void *scratch, int32_t streaming, int32_t distance, int32_t ways);
    /// As backward_rows, of rows of at least 32 elements, or 16 doubles, that lie otherwise: of 16 bits, or
    /// reversed, or every other one. Returns how many rows are done: fewer than all where the sum of one of
    /// the next is not an ordinary number, and is to be taken by blocks. Null where there is none for this
    /// CPU or type.
    intptr_t (*backward_other_rows)(int32_t op, int32_t elements, const void *grad_output,
                                    intptr_t grad_output_stride, const void *output, intptr_t output_stride,
                                    void *grad_input, intptr_t grad_input_stride, intptr_t rows, intptr_t n,
                                    void *scratch, int32_t eights);
    /// As backward_columns, of 16-bit elements. Returns how many columns are done, as backward_other_rows
    /// does.
    intptr_t (*backward_half_columns)(int32_t op, int32_t elements, const void *grad_output,
                                      intptr_t grad_output_stride, const void *output, intptr_t output_stride,
                                      void *grad_input, intptr_t grad_input_stride, intptr_t columns,
                                      intptr_t n, void *scratch, int32_t streaming);
    /// The sum of one block of a row that is shared out; `known_scale` null for 1.
    void (*row_sum)(int32_t op, const void *grad_output, const void *output, intptr_t n,
                    const double *known_scale, swiftmax_stats *stats, void *scratch, int32_t eights);
    /// The sum of a row from those of its blocks, in order. Returns 1 if the blocks must be read again with
    /// stats->max as `known_scale`, else 0.
    int32_t (*merge_sums)(const swiftmax_stats *blocks, intptr_t count, swiftmax_stats *stats);
    void (*row_grad_input)(int32_t op, const void *grad_output, const void *output, void *grad_input,
                           intptr_t n, const swiftmax_stats *stats, void *scratch, int32_t streaming);

    /// destination[r * n + i] = the element `row_stride` * r + `stride` * i bytes from `source`, for r <
    /// rows, i < n. The lines `ahead` bytes after those of `source` are asked for, 0 for none.
    void (*gather)(const void *source, intptr_t row_stride, intptr_t stride, void *destination, intptr_t rows,
                   intptr_t n, intptr_t ahead);
    /// destination[i] = source[i] for i < n, past the caches.
    void (*stream)(const void *source, void *destination, intptr_t n);
    /// Up to so many rows or columns that lie without a gap are transposed in less time than so many short
    /// runs are copied.
    int32_t most_turned;
    /// destination[j][i] = source[i][j] for i < rows, j < columns. So few that are `far`, beyond the caches,
    /// may be asked for ahead, or written past them.
    void (*transpose)(const void *source, intptr_t source_stride, void *destination,
                      intptr_t destination_stride, intptr_t rows, intptr_t columns, int32_t far);
    /// destination[r][i] = source[r][i], or `fill` where mask[r][i] is 0, for r < rows, i < n.
    void (*select)(const void *source, intptr_t source_stride, void *destination, intptr_t destination_stride,
                   const uint8_t *mask, intptr_t mask_stride, double fill, intptr_t rows, intptr_t n);

    /// The rest is null in float64 kernels. As gather, of one row of 16-bit elements.
    void (*gather_halves)(const void *source, intptr_t stride, void *destination, intptr_t n);
    /// `rows` rows of `n` elements of a 16-bit type, `row_stride` bytes apart, to float32 without gaps, and
    /// back, rounded to nearest even. `ahead` and `streaming` as above.
    void (*widen)(int32_t elements, const void *source, intptr_t row_stride, void *destination, intptr_t rows,
                  intptr_t n, intptr_t ahead);
    void (*narrow)(int32_t elements, const void *source, void *destination, intptr_t row_stride,
                   intptr_t rows, intptr_t n, int32_t streaming);
} swiftmax_kernels;

/// Each fills in the table of one compilation of the kernels: with swiftmax_kernels_exact_log the only
/// symbols they export.
void swiftmax_kernels_baseline_float32(swiftmax_kernels *kernels);
void swiftmax_kernels_baseline_float64(swiftmax_kernels *kernels);
#if defined(__x86_64__)
void swiftmax_kernels_avx2_float32(swiftmax_kernels *kernels);
void swiftmax_kernels_avx2_float64(swiftmax_kernels *kernels);
void swiftmax_kernels_avx512_float32(swiftmax_kernels *kernels);
void swiftmax_kernels_avx512_float64(swiftmax_kernels *kernels);
#endif

#endif
