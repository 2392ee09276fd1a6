/// Transposition of a few columns without gaps, by AVX-512: their elements alternate in memory, where so many
/// vectors hold a vector of each.

#ifndef SWIFTMAX_INTERLEAVE_H
#define SWIFTMAX_INTERLEAVE_H

#include "vector.h"

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
                                intptr_t source_stride, char *target, intptr_t target_stride, bool streams) {
    __m512i vectors[SWIFTMAX_MOST_INTERLEAVED];
#pragma clang loop unroll(full)
    for (int i = 0; i < columns; i++)
        vectors[i] = _mm512_loadu_si512(source + i * source_stride);
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
/// `rows` rows or, if `joins`, that come to lie so. `stride` is that of the other, and `streams` whether rows
/// go past the caches. At least a vector of rows.
SWIFTMAX_INLINE void transpose_interleaved(const void *source, void *destination, intptr_t stride,
                                           intptr_t rows, int columns, bool joins, bool streams) {
    swiftmax_interleaving interleaving;
    set_interleaving(&interleaving, columns, joins);
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
                   streams && is_line);                                                                      \
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
