/// Transposition in registers: of squares of elements, and of a few columns without gaps.

#ifndef SWIFTMAX_TRANSPOSE_H
#define SWIFTMAX_TRANSPOSE_H

#include "vector.h"

// MARK: Squares
// destination[j][i] = source[i][j]

#if defined(__AVX2__) && !defined(__AVX512F__) && !defined(SWIFTMAX_FLOAT64)
/// Of eight rows of eight floats.
SWIFTMAX_INLINE void eight_transpose(const void *source, intptr_t source_stride, void *destination,
                                     intptr_t destination_stride) {
    for (int column = 0; column < 8; column += 4) {
        const char *from = (const char *)source + 4 * column;
        char *to = (char *)destination + column * destination_stride;
        __m256 row[4];
        for (int i = 0; i < 4; i++) {
            __m256 first = _mm256_castps128_ps256(_mm_loadu_ps((const float *)(from + i * source_stride)));
            row[i] =
                _mm256_insertf128_ps(first, _mm_loadu_ps((const float *)(from + (i + 4) * source_stride)), 1);
        }
        __m256 low = _mm256_unpacklo_ps(row[0], row[1]), high = _mm256_unpackhi_ps(row[0], row[1]);
        __m256 low_rest = _mm256_unpacklo_ps(row[2], row[3]), high_rest = _mm256_unpackhi_ps(row[2], row[3]);
        _mm256_storeu_ps((float *)to, _mm256_shuffle_ps(low, low_rest, 0x44));
        _mm256_storeu_ps((float *)(to + destination_stride), _mm256_shuffle_ps(low, low_rest, 0xee));
        _mm256_storeu_ps((float *)(to + 2 * destination_stride), _mm256_shuffle_ps(high, high_rest, 0x44));
        _mm256_storeu_ps((float *)(to + 3 * destination_stride), _mm256_shuffle_ps(high, high_rest, 0xee));
    }
}
#endif

#if defined(__AVX512F__) && !defined(SWIFTMAX_FLOAT64)
/// Of four by four in each quarter of these vectors.
SWIFTMAX_INLINE void transpose_quarters(__m512 rows[4]) {
    const __m512 low = _mm512_unpacklo_ps(rows[0], rows[1]), high = _mm512_unpackhi_ps(rows[0], rows[1]);
    const __m512 low_rest = _mm512_unpacklo_ps(rows[2], rows[3]);
    const __m512 high_rest = _mm512_unpackhi_ps(rows[2], rows[3]);
    rows[0] = _mm512_shuffle_ps(low, low_rest, 0x44);
    rows[1] = _mm512_shuffle_ps(low, low_rest, 0xee);
    rows[2] = _mm512_shuffle_ps(high, high_rest, 0x44);
    rows[3] = _mm512_shuffle_ps(high, high_rest, 0xee);
}

/// Of sixteen rows of four floats.
SWIFTMAX_INLINE void tall_transpose(const void *source, intptr_t source_stride, void *destination,
                                    intptr_t destination_stride) {
    __m512 rows[4];
    for (int i = 0; i < 4; i++) {
        const char *from = (const char *)source + i * source_stride;
        rows[i] = _mm512_castps128_ps512(_mm_loadu_ps((const float *)from));
        for (int quarter = 1; quarter < 4; quarter++) {
            const __m128 row = _mm_loadu_ps((const float *)(from + 4 * quarter * source_stride));
            rows[i] = _mm512_mask_broadcast_f32x4(rows[i], (__mmask16)(15 << 4 * quarter), row);
        }
    }
    transpose_quarters(rows);
    for (int i = 0; i < 4; i++) {
        _mm512_storeu_ps((char *)destination + i * destination_stride, rows[i]);
    }
}

/// Of eight rows of eight floats.
SWIFTMAX_INLINE void eight_transpose(const void *source, intptr_t source_stride, void *destination,
                                     intptr_t destination_stride) {
    __m512 rows[4];
    for (int i = 0; i < 4; i++) {
        const char *from = (const char *)source + i * source_stride;
        const __m256 row = _mm256_loadu_ps((const float *)from);
        const __m256 later = _mm256_loadu_ps((const float *)(from + 4 * source_stride));
        rows[i] = _mm512_insertf32x8(_mm512_castps256_ps512(row), later, 1);
    }
    transpose_quarters(rows);
    // The first and the third quarter are a column of the destination, and the others one four columns on.
    const __m512i quarters = _mm512_set_epi64(7, 6, 3, 2, 5, 4, 1, 0);
    for (int i = 0; i < 4; i++) {
        char *to = (char *)destination + i * destination_stride;
        const __m512 columns = _mm512_castpd_ps(_mm512_permutexvar_pd(quarters, _mm512_castps_pd(rows[i])));
        _mm256_storeu_ps((float *)to, _mm512_castps512_ps256(columns));
        _mm256_storeu_ps((float *)(to + 4 * destination_stride), _mm512_extractf32x8_ps(columns, 1));
    }
}
#endif

#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
/// Of eight rows of four doubles.
SWIFTMAX_INLINE void tall_transpose(const void *source, intptr_t source_stride, void *destination,
                                    intptr_t destination_stride) {
    const __m512i even = {0, 1, 8, 9, 4, 5, 12, 13}, odd = {2, 3, 10, 11, 6, 7, 14, 15};
    char *to = (char *)destination;
    __m512d row[4];
    for (int i = 0; i < 4; i++) {
        const char *from = (const char *)source + i * source_stride;
        const __m256d first = _mm256_loadu_pd((const double *)from);
        const __m256d later = _mm256_loadu_pd((const double *)(from + 4 * source_stride));
        row[i] = _mm512_insertf64x4(_mm512_castpd256_pd512(first), later, 1);
    }
    const __m512d low = _mm512_unpacklo_pd(row[0], row[1]), high = _mm512_unpackhi_pd(row[0], row[1]);
    const __m512d low_rest = _mm512_unpacklo_pd(row[2], row[3]);
    const __m512d high_rest = _mm512_unpackhi_pd(row[2], row[3]);
    _mm512_storeu_pd(to, _mm512_permutex2var_pd(low, even, low_rest));
    _mm512_storeu_pd(to + destination_stride, _mm512_permutex2var_pd(high, even, high_rest));
    _mm512_storeu_pd(to + 2 * destination_stride, _mm512_permutex2var_pd(low, odd, low_rest));
    _mm512_storeu_pd(to + 3 * destination_stride, _mm512_permutex2var_pd(high, odd, high_rest));
}

/// Of eight rows of eight doubles.
SWIFTMAX_INLINE void eight_transpose(const void *source, intptr_t source_stride, void *destination,
                                     intptr_t destination_stride) {
    for (int column = 0; column < 8; column += 4) {
        tall_transpose((const char *)source + 8 * column, source_stride,
                       (char *)destination + column * destination_stride, destination_stride);
    }
}
#endif

// MARK: A few columns
// Their elements alternate in memory, where so many vectors hold a vector of each.

#if defined(__AVX512F__)

/// More columns take less time in squares of eight by eight.
#define SWIFTMAX_MOST_INTERLEAVED 7

#if defined(SWIFTMAX_FLOAT64)
typedef __mmask8 swiftmax_lane_mask;
#define SWIFTMAX_LANES_OP(op) _mm512_##op##_epi64
#define SWIFTMAX_LANES_EQUAL _mm512_cmpeq_epi64_mask
#define SWIFTMAX_LANE_NUMBERS _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0)
#else
typedef __mmask16 swiftmax_lane_mask;
#define SWIFTMAX_LANES_OP(op) _mm512_##op##_epi32
#define SWIFTMAX_LANES_EQUAL _mm512_cmpeq_epi32_mask
#define SWIFTMAX_LANE_NUMBERS _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
#endif

/// Where the lanes of some vectors come from: each from one of as many others.
typedef struct {
    /// Which lane it is there, counted on through all of them.
    __m512i lane[SWIFTMAX_MOST_INTERLEAVED];
    /// The lanes of a vector, the first index, that come from a pair of others.
    swiftmax_lane_mask from[SWIFTMAX_MOST_INTERLEAVED][(SWIFTMAX_MOST_INTERLEAVED + 1) / 2];
} swiftmax_interleaving;

/// A vector of each of `columns` columns from elements that alternate or, if `joins`, the other way.
SWIFTMAX_INLINE void set_interleaving(swiftmax_interleaving *interleaving, int columns, bool joins) {
    for (int target = 0; target < columns; target++) {
        // Element `place` of those that alternate is that of a row, and of a column.
        const __m512i number = SWIFTMAX_LANE_NUMBERS, count = SWIFTMAX_LANES_OP(set1)(columns);
        const __m512i first = SWIFTMAX_LANES_OP(set1)(joins ? target * SWIFTMAX_LANES : target);
        const __m512i place = _mm512_add_epi32(joins ? number : _mm512_mullo_epi32(number, count), first);
        // A division, by a factor that is large enough for numbers as small as these.
        const __m512i inverse = SWIFTMAX_LANES_OP(set1)(65536 / columns + 1);
        const __m512i row = _mm512_srli_epi32(_mm512_mullo_epi32(place, inverse), 16);
        const __m512i lanes = SWIFTMAX_LANES_OP(set1)(SWIFTMAX_LANES);
        const __m512i source = joins ? _mm512_sub_epi32(place, _mm512_mullo_epi32(row, count))
                                     : _mm512_srli_epi32(place, SWIFTMAX_LANES == 8 ? 3 : 4);
        const __m512i lane = joins ? row : _mm512_sub_epi32(place, _mm512_mullo_epi32(source, lanes));
        interleaving->lane[target] = _mm512_add_epi32(lane, _mm512_mullo_epi32(source, lanes));
        for (int i = 2; i < columns; i += 2) {
            interleaving->from[target][i / 2] =
                SWIFTMAX_LANES_EQUAL(_mm512_srli_epi32(source, 1), SWIFTMAX_LANES_OP(set1)(i / 2));
        }
    }
}

/// Brings the lanes of `columns` vectors, a constant, from `source` to `target`.
SWIFTMAX_INLINE void interleave(const swiftmax_interleaving *interleaving, int columns, const char *source,
                                intptr_t source_stride, char *target, intptr_t target_stride, bool asks,
                                bool streams) {
    __m512i vectors[SWIFTMAX_MOST_INTERLEAVED];
#pragma clang loop unroll(full)
    for (int i = 0; i < columns; i++) {
        vectors[i] = _mm512_loadu_si512(source + i * source_stride);
        if (asks)
            vector_prefetch(source + i * source_stride + 4096);
    }
#pragma clang loop unroll(full)
    for (int i = 0; i < columns; i++) {
        const __m512i lane = interleaving->lane[i];
        __m512i result = SWIFTMAX_LANES_OP(permutex2var)(vectors[0], lane, vectors[1]);
#pragma clang loop unroll(full)
        for (int j = 2; j < columns; j += 2) {
            const swiftmax_lane_mask from = interleaving->from[i][j / 2];
            if (j + 1 < columns) {
                const __m512i pair = SWIFTMAX_LANES_OP(permutex2var)(vectors[j], lane, vectors[j + 1]);
                result = SWIFTMAX_LANES_OP(mask_mov)(result, from, pair);
            } else {
                result = SWIFTMAX_LANES_OP(mask_permutexvar)(result, from, lane, vectors[j]);
            }
        }
        __m512i *place = (__m512i *)(target + i * target_stride);
        if (streams) {
            _mm512_stream_si512(place, result);
        } else {
            _mm512_storeu_si512(place, result);
        }
    }
}

/// destination[j][i] = source[i][j] for up to `SWIFTMAX_MOST_INTERLEAVED` columns that lie without gaps in
/// `rows` rows or, if `joins`, that come to lie so. `stride` is that of the other. These rows are asked for
/// ahead if they are `far`, and results go past the caches. At least a vector of rows.
SWIFTMAX_INLINE void transpose_interleaved(const void *source, void *destination, intptr_t stride,
                                           intptr_t rows, int columns, bool joins, bool far) {
    swiftmax_interleaving interleaving;
    set_interleaving(&interleaving, columns, joins);
    bool streams = far && joins;
    const intptr_t element = sizeof(swiftmax_element), vector = SWIFTMAX_VECTOR_BYTES;
    // The first rows that begin with a line, if any do.
    intptr_t first = 0;
    while (streams && ((intptr_t)destination + first * columns * element) % 64 != 0) {
        first++;
        if (first == SWIFTMAX_LANES)
            streams = false;
    }
    intptr_t row = 0;
    bool ends = false;
    while (!ends) {
        // The last may overlap those before, and so may those that are next to the first.
        ends = row >= rows - SWIFTMAX_LANES;
        const bool is_line = row >= first && row <= rows - SWIFTMAX_LANES;
        if (ends)
            row = rows - SWIFTMAX_LANES;
        const char *from = (const char *)source + row * (joins ? element : columns * element);
        char *to = (char *)destination + row * (joins ? columns * element : element);
#define SWIFTMAX_INTERLEAVED_CASE(count)                                                                     \
    case count:                                                                                              \
        interleave(&interleaving, count, from, joins ? stride : vector, to, joins ? vector : stride,         \
                   far && !joins, streams && is_line);                                                       \
        break;
        switch (columns) {
            SWIFTMAX_INTERLEAVED_CASE(2)
            SWIFTMAX_INTERLEAVED_CASE(3)
            SWIFTMAX_INTERLEAVED_CASE(4)
            SWIFTMAX_INTERLEAVED_CASE(5)
            SWIFTMAX_INTERLEAVED_CASE(6)
            SWIFTMAX_INTERLEAVED_CASE(7)
        }
        row += streams && row < first ? first : SWIFTMAX_LANES;
    }
}

#endif
#endif
