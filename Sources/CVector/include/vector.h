/// The vector operations that Swift's SIMD types lack, or compile badly, as inline C.
///
/// The kernels are compiled once per instruction set and element type; this header follows the target
/// of the module that includes it. `element` is the type in memory, `vector` one register of elements,
/// `wide` as many doubles. Swift sees them as SIMD types.

#ifndef SWIFTMAX_VECTOR_H
#define SWIFTMAX_VECTOR_H

#include <stdbool.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define SWIFTMAX_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define SWIFTMAX_VECTOR_BYTES 32
#else
#define SWIFTMAX_VECTOR_BYTES 16
#endif

#if defined(SWIFTMAX_FLOAT64)
typedef double swiftmax_element;
#define SWIFTMAX_LANES (SWIFTMAX_VECTOR_BYTES / 8)
#else
typedef float swiftmax_element;
#define SWIFTMAX_LANES (SWIFTMAX_VECTOR_BYTES / 4)
#endif

#define SWIFTMAX_ALIAS(type) type __attribute__((ext_vector_type(SWIFTMAX_LANES)))
typedef SWIFTMAX_ALIAS(swiftmax_element) swiftmax_vector;
typedef SWIFTMAX_ALIAS(double) swiftmax_wide;
typedef swiftmax_vector swiftmax_unaligned_vector __attribute__((aligned(1)));
typedef swiftmax_element swiftmax_unaligned_element __attribute__((aligned(1)));

#define SWIFTMAX_INLINE static inline __attribute__((always_inline))

// MARK: Arithmetic
// Swift's own operators are loops over the lanes that LLVM does not always put together again.

SWIFTMAX_INLINE swiftmax_vector vector_add(swiftmax_vector a, swiftmax_vector b) {
    return a + b;
}
SWIFTMAX_INLINE swiftmax_vector vector_subtract(swiftmax_vector a, swiftmax_vector b) {
    return a - b;
}
SWIFTMAX_INLINE swiftmax_vector vector_multiply(swiftmax_vector a, swiftmax_vector b) {
    return a * b;
}
SWIFTMAX_INLINE swiftmax_vector vector_divide(swiftmax_vector a, swiftmax_vector b) {
    return a / b;
}

SWIFTMAX_INLINE swiftmax_wide wide_add(swiftmax_wide a, swiftmax_wide b) {
    return a + b;
}
SWIFTMAX_INLINE swiftmax_wide wide_subtract(swiftmax_wide a, swiftmax_wide b) {
    return a - b;
}
SWIFTMAX_INLINE swiftmax_wide wide_multiply(swiftmax_wide a, swiftmax_wide b) {
    return a * b;
}
SWIFTMAX_INLINE swiftmax_wide wide_divide(swiftmax_wide a, swiftmax_wide b) {
    return a / b;
}

/// a * b + c, rounded once where the CPU can; else twice, which costs the reproducibility that only
/// FMA gives but not the accuracy (see `reduced` in the kernels).
SWIFTMAX_INLINE swiftmax_vector vector_fma(swiftmax_vector a, swiftmax_vector b, swiftmax_vector c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}

SWIFTMAX_INLINE swiftmax_wide wide_fma(swiftmax_wide a, swiftmax_wide b, swiftmax_wide c) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, c);
#else
    return a * b + c;
#endif
}

SWIFTMAX_INLINE swiftmax_wide vector_widen(swiftmax_vector v) {
    return __builtin_convertvector(v, swiftmax_wide);
}

#if defined(SWIFTMAX_FLOAT32)
/// a + b by FMA: AMD's Zen adds on the units that it converts on.
SWIFTMAX_INLINE swiftmax_wide wide_add_converted(swiftmax_wide a, swiftmax_wide b) {
#if defined(__FMA__)
    double one = 1;
    __asm__("" : "+x"(one));
    return wide_fma(a, (swiftmax_wide)one, b);
#else
    return a + b;
#endif
}
#endif

SWIFTMAX_INLINE swiftmax_vector wide_narrow(swiftmax_wide v) {
    return __builtin_convertvector(v, swiftmax_vector);
}

#if defined(__AVX2__) && !defined(SWIFTMAX_FLOAT64)
/// Four doubles: AMD's Zen 4 takes a third longer to convert floats to eight at once than twice to four.
typedef double swiftmax_quarter __attribute__((ext_vector_type(4)));

SWIFTMAX_INLINE swiftmax_quarter quarter_widen(const void *floats) {
    return (swiftmax_quarter)_mm256_cvtps_pd(_mm_loadu_ps(floats));
}

/// The first `count` of them or, if there are fewer, all; else zeros. Touches no memory past them.
SWIFTMAX_INLINE swiftmax_quarter quarter_widen_partial(const void *floats, intptr_t count) {
    __m128i mask = _mm_cmpgt_epi32(_mm_set1_epi32((int)count), _mm_set_epi32(3, 2, 1, 0));
    return (swiftmax_quarter)_mm256_cvtps_pd(_mm_maskload_ps(floats, mask));
}

SWIFTMAX_INLINE swiftmax_quarter quarter_add(swiftmax_quarter a, swiftmax_quarter b) {
    return a + b;
}

SWIFTMAX_INLINE swiftmax_quarter quarter_fma(swiftmax_quarter a, swiftmax_quarter b, swiftmax_quarter c) {
    return __builtin_elementwise_fma(a, b, c);
}
#endif

// MARK: Bits
// Swift's shifts of integer vectors go lane by lane.

#if defined(SWIFTMAX_FLOAT64)
typedef SWIFTMAX_ALIAS(uint64_t) swiftmax_bits;
#define SWIFTMAX_MANTISSA_BITS 52
#else
typedef SWIFTMAX_ALIAS(uint32_t) swiftmax_bits;
#define SWIFTMAX_MANTISSA_BITS 23
#endif
typedef SWIFTMAX_ALIAS(uint64_t) swiftmax_wide_bits;

/// The low bits of the mantissa as the exponent of a number: 2^(field - bias) from 1.5 * 2^mantissa_bits +
/// field.
SWIFTMAX_INLINE swiftmax_vector vector_exponent_from_mantissa(swiftmax_vector v) {
    return (swiftmax_vector)((swiftmax_bits)v << SWIFTMAX_MANTISSA_BITS);
}

#if defined(SWIFTMAX_POWER_TABLE)
/// Powers 2^n (1 + j/16), which are so close to 2^(n + j/16) that a small table makes up for the rest.
#define SWIFTMAX_POWERS_PER_OCTAVE 16
#define SWIFTMAX_POWER_SHIFT (SWIFTMAX_MANTISSA_BITS - 4)
#else
#define SWIFTMAX_POWERS_PER_OCTAVE 1
#define SWIFTMAX_POWER_SHIFT SWIFTMAX_MANTISSA_BITS
#endif

/// The low bits of the mantissa as exponent and, where there are several powers to an octave, leading bits of
/// the mantissa: 16 n + j as 2^(n - bias) (1 + j/16).
SWIFTMAX_INLINE swiftmax_vector vector_power_from_mantissa(swiftmax_vector v) {
    return (swiftmax_vector)((swiftmax_bits)v << SWIFTMAX_POWER_SHIFT);
}

#if defined(SWIFTMAX_POWER_TABLE)
/// 2^(j/16) / (1 + j/16) - 1, rounded (scripts/fit_polynomials.py).
static const float swiftmax_power_excess[16] __attribute__((aligned(64))) = {
    0,
    -0x1.190d74p-6f,
    -0x1.f6547ep-6f,
    -0x1.50096p-5f,
    -0x1.8e698ap-5f,
    -0x1.b8ea36p-5f,
    -0x1.d1aa6cp-5f,
    -0x1.da645cp-5f,
    -0x1.d48222p-5f,
    -0x1.c12d8p-5f,
    -0x1.a15bfep-5f,
    -0x1.75d848p-5f,
    -0x1.3f499ap-5f,
    -0x1.fc730ep-6f,
    -0x1.66315cp-6f,
    -0x1.7909c4p-7f,
};

/// That of the j in the low four bits of each lane.
SWIFTMAX_INLINE swiftmax_vector vector_power_excess(swiftmax_vector v) {
#if defined(__AVX512F__)
    return (swiftmax_vector)_mm512_permutexvar_ps((__m512i)v, _mm512_load_ps(swiftmax_power_excess));
#elif defined(__AVX2__)
    __m256 lower = _mm256_permutevar8x32_ps(_mm256_load_ps(swiftmax_power_excess), (__m256i)v);
    __m256 upper = _mm256_permutevar8x32_ps(_mm256_load_ps(swiftmax_power_excess + 8), (__m256i)v);
    // The fourth bit as the sign, which tells which of them.
    return (swiftmax_vector)_mm256_blendv_ps(lower, upper, (__m256)((swiftmax_bits)v << 28));
#else
    // Bytes 4 j to 4 j + 3 of each.
    uint32x4_t index = ((uint32x4_t)v & 15) * 0x04040404 + 0x03020100;
    const uint8_t *table = (const uint8_t *)swiftmax_power_excess;
    return (swiftmax_vector)vqtbl4q_u8(vld1q_u8_x4(table), (uint8x16_t)index);
#endif
}
#endif

SWIFTMAX_INLINE swiftmax_wide wide_exponent_from_mantissa(swiftmax_wide v) {
    return (swiftmax_wide)((swiftmax_wide_bits)v << 52);
}

/// j of v = 2^j m, sqrt(1/2) <= m < sqrt(2), as a double; v must be positive and normal.
SWIFTMAX_INLINE swiftmax_wide wide_exponent(swiftmax_wide v) {
    swiftmax_wide_bits field = ((swiftmax_wide_bits)v + (0x3ff0000000000000 - 0x3fe6a09e667f3bcd)) >> 52;
    // In the mantissa of 2^52 an integer is a double.
    return (swiftmax_wide)(field | 0x4330000000000000) - (0x1p52 + 1023);
}

#if !defined(SWIFTMAX_FLOAT64)
/// The same of floats.
SWIFTMAX_INLINE swiftmax_vector vector_exponent(swiftmax_vector v) {
    swiftmax_bits field = ((swiftmax_bits)v + (0x3f800000 - 0x3f3504f3)) >> 23;
    return (swiftmax_vector)(field | 0x4b000000) - (0x1p23f + 127);
}
#endif

// MARK: Choices between lanes

/// The larger of each pair; `a` where either is NaN.
SWIFTMAX_INLINE swiftmax_vector vector_max(swiftmax_vector a, swiftmax_vector b) {
    return b > a ? b : a;
}

/// The smaller of each pair; `a` where either is NaN.
SWIFTMAX_INLINE swiftmax_vector vector_min(swiftmax_vector a, swiftmax_vector b) {
    return b < a ? b : a;
}

SWIFTMAX_INLINE swiftmax_wide wide_max(swiftmax_wide a, swiftmax_wide b) {
    return b > a ? b : a;
}
SWIFTMAX_INLINE swiftmax_wide wide_min(swiftmax_wide a, swiftmax_wide b) {
    return b < a ? b : a;
}

/// `then` where a equals b, else `otherwise`.
SWIFTMAX_INLINE swiftmax_vector vector_if_equal(swiftmax_vector a, swiftmax_vector b, swiftmax_vector then,
                                                swiftmax_vector otherwise) {
    return a == b ? then : otherwise;
}

SWIFTMAX_INLINE swiftmax_wide wide_if_equal(swiftmax_wide a, swiftmax_wide b, swiftmax_wide then,
                                            swiftmax_wide otherwise) {
    return a == b ? then : otherwise;
}

/// The lanes of `v` moved down by half of the first `width`, for reductions by halves.
#if SWIFTMAX_LANES >= 16
#define SWIFTMAX_SHUFFLE(a, b, c, d)                                                                         \
    __builtin_shufflevector(v, v, a, b, c, d, a, b, c, d, a, b, c, d, a, b, c, d)
#elif SWIFTMAX_LANES >= 8
#define SWIFTMAX_SHUFFLE(a, b, c, d) __builtin_shufflevector(v, v, a, b, c, d, a, b, c, d)
#elif SWIFTMAX_LANES >= 4
#define SWIFTMAX_SHUFFLE(a, b, c, d) __builtin_shufflevector(v, v, a, b, c, d)
#else
#define SWIFTMAX_SHUFFLE(a, b, c, d) __builtin_shufflevector(v, v, a, b)
#endif
SWIFTMAX_INLINE swiftmax_vector vector_half(swiftmax_vector v, int width) {
#if SWIFTMAX_LANES >= 16
    if (width == 16)
        return __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
#if SWIFTMAX_LANES >= 8
    if (width == 8)
        return SWIFTMAX_SHUFFLE(4, 5, 6, 7);
#endif
#if SWIFTMAX_LANES >= 4
    if (width == 4)
        return SWIFTMAX_SHUFFLE(2, 3, 2, 3);
#endif
    return SWIFTMAX_SHUFFLE(1, 1, 1, 1);
}

/// The largest lane; NaN only if all are.
SWIFTMAX_INLINE swiftmax_element vector_largest(swiftmax_vector v) {
    for (int width = SWIFTMAX_LANES; width > 1; width /= 2)
        v = vector_max(v, vector_half(v, width));
    return v[0];
}

/// The sum of the lanes, for numbers whose sum is exact.
SWIFTMAX_INLINE swiftmax_element vector_sum(swiftmax_vector v) {
    for (int width = SWIFTMAX_LANES; width > 1; width /= 2)
        v = v + vector_half(v, width);
    return v[0];
}

// MARK: Eight doubles, in as many registers as they take

typedef double swiftmax_octet __attribute__((ext_vector_type(8)));

SWIFTMAX_INLINE swiftmax_octet octet_add(swiftmax_octet a, swiftmax_octet b) {
    return a + b;
}
SWIFTMAX_INLINE swiftmax_octet octet_subtract(swiftmax_octet a, swiftmax_octet b) {
    return a - b;
}
SWIFTMAX_INLINE swiftmax_octet octet_fma(swiftmax_octet a, swiftmax_octet b, swiftmax_octet c) {
    return __builtin_elementwise_fma(a, b, c);
}

#if defined(__AVX512F__)
/// Eight floats in memory, and the first `count` of them, as those of quarters.
SWIFTMAX_INLINE swiftmax_octet octet_widen(const void *floats) {
    return (swiftmax_octet)_mm512_cvtps_pd(_mm256_loadu_ps(floats));
}
SWIFTMAX_INLINE swiftmax_octet octet_widen_partial(const void *floats, intptr_t count) {
    __mmask8 mask = count < 8 ? (__mmask8)((1 << count) - 1) : (__mmask8)-1;
    return (swiftmax_octet)_mm512_cvtps_pd(_mm256_maskz_loadu_ps(mask, floats));
}
#endif

/// The lower half of each `width` lanes of a, and of b, so that 8, 4 and 2 in turn bring together what
/// belongs to one of eight rows.
SWIFTMAX_INLINE swiftmax_octet octet_lower(swiftmax_octet a, swiftmax_octet b, int width) {
    if (width == 8)
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11);
    if (width == 4)
        return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13);
    return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14);
}

/// The upper half.
SWIFTMAX_INLINE swiftmax_octet octet_upper(swiftmax_octet a, swiftmax_octet b, int width) {
    if (width == 8)
        return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    if (width == 4)
        return __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}

#if defined(SWIFTMAX_FLOAT32)
// MARK: Eight floats

typedef float swiftmax_float_octet __attribute__((ext_vector_type(8)));

SWIFTMAX_INLINE swiftmax_float_octet float_octet_load(const void *address) {
    swiftmax_float_octet v;
    __builtin_memcpy(&v, address, sizeof v);
    return v;
}

SWIFTMAX_INLINE swiftmax_octet float_octet_widen(swiftmax_float_octet v) {
    return __builtin_convertvector(v, swiftmax_octet);
}

/// The sum of the two that `octet_lower` and `octet_upper` give.
SWIFTMAX_INLINE swiftmax_float_octet float_octet_fold(swiftmax_float_octet a, swiftmax_float_octet b,
                                                      int width) {
    if (width == 8)
        return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11) +
               __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15);
    if (width == 4)
        return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13) +
               __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15);
    return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14) +
           __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15);
}

/// Of sixteen floats and sixteen more, 64 bytes after them: the former less `start`, with the latter, in
/// double, the upper eight added to the lower.
SWIFTMAX_INLINE swiftmax_octet octet_of_floats(const void *address, float start) {
    const char *floats = address;
    swiftmax_octet halves[2];
    for (int i = 0; i < 2; i++)
        halves[i] = float_octet_widen(float_octet_load(floats + 32 * i) - start) +
                    float_octet_widen(float_octet_load(floats + 64 + 32 * i));
    return halves[0] + halves[1];
}

#if SWIFTMAX_LANES == 16
/// The upper eight lanes added to the lower.
SWIFTMAX_INLINE swiftmax_float_octet vector_folded(swiftmax_vector v) {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}

/// As `vector_folded`.
SWIFTMAX_INLINE swiftmax_octet wide_folded(swiftmax_wide v) {
    return __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
           __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
}
#endif
#endif

/// a * b - product, exactly, for product = a * b rounded.
SWIFTMAX_INLINE swiftmax_vector vector_product_error(swiftmax_vector a, swiftmax_vector b,
                                                     swiftmax_vector product) {
#if defined(__FMA__) || defined(__aarch64__)
    return __builtin_elementwise_fma(a, b, -product);
#elif defined(SWIFTMAX_FLOAT64)
    // Dekker's product: halves of 26 bits multiply exactly.
    swiftmax_vector a_scaled = a * 0x1.0000002p27, b_scaled = b * 0x1.0000002p27;
    swiftmax_vector a_high = a_scaled - (a_scaled - a), b_high = b_scaled - (b_scaled - b);
    swiftmax_vector a_low = a - a_high, b_low = b - b_high;
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low;
#else
    return __builtin_convertvector(__builtin_convertvector(a, swiftmax_wide) *
                                           __builtin_convertvector(b, swiftmax_wide) -
                                       __builtin_convertvector(product, swiftmax_wide),
                                   swiftmax_vector);
#endif
}

/// Stores those lanes of v whose bit in `lanes` is 1 one after another. What follows, up to a vector, is
/// overwritten.
SWIFTMAX_INLINE void vector_compress(void *address, swiftmax_vector v, uint32_t lanes) {
#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
    _mm512_storeu_pd(address, _mm512_maskz_compress_pd((__mmask8)lanes, (__m512d)v));
#elif defined(__AVX512F__)
    _mm512_storeu_ps(address, _mm512_maskz_compress_ps((__mmask16)lanes, (__m512)v));
#else
    char *next = address;
    for (; lanes; lanes &= lanes - 1, next += sizeof(swiftmax_element)) {
        swiftmax_element element = v[__builtin_ctz(lanes)];
        __builtin_memcpy(next, &element, sizeof element);
    }
#endif
}

/// The lanes in which a equals b, one bit each.
SWIFTMAX_INLINE uint32_t vector_equal_lanes(swiftmax_vector a, swiftmax_vector b) {
#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
    return _mm512_cmpeq_pd_mask((__m512d)a, (__m512d)b);
#elif defined(__AVX512F__)
    return _mm512_cmpeq_ps_mask((__m512)a, (__m512)b);
#elif defined(__AVX2__) && defined(SWIFTMAX_FLOAT64)
    return (uint32_t)_mm256_movemask_pd((__m256d)(a == b));
#elif defined(__AVX2__)
    return (uint32_t)_mm256_movemask_ps((__m256)(a == b));
#else
    uint32_t bits = 0;
    for (int i = 0; i < SWIFTMAX_LANES; i++)
        bits |= (uint32_t)(a[i] == b[i]) << i;
    return bits;
#endif
}

/// Their number.
SWIFTMAX_INLINE int32_t vector_count_equal(swiftmax_vector a, swiftmax_vector b) {
    uint32_t lanes = vector_equal_lanes(a, b);
    // The compiler would count those of several vectors in vectors, which takes longer.
    __asm__("" : "+r"(lanes));
    return __builtin_popcount(lanes);
}

/// Counts of lanes: floats with AVX-512, which adds under a mask; elsewhere integers, whose additions take a
/// cycle each, where those of floats would wait for each other.
#if defined(__AVX512F__)
typedef swiftmax_vector swiftmax_counts;
#elif defined(SWIFTMAX_FLOAT64)
typedef SWIFTMAX_ALIAS(int64_t) swiftmax_counts;
#else
typedef SWIFTMAX_ALIAS(int32_t) swiftmax_counts;
#endif

/// The counts, with one more in the lanes that are equal.
SWIFTMAX_INLINE swiftmax_counts counts_with_equal(swiftmax_counts counts, swiftmax_vector a,
                                                  swiftmax_vector b) {
#if defined(__AVX512F__)
    return a == b ? counts + 1 : counts;
#else
    return counts - (a == b);
#endif
}

SWIFTMAX_INLINE swiftmax_wide counts_widen(swiftmax_counts counts) {
#if defined(SWIFTMAX_FLOAT64) && !defined(__AVX512F__)
    // From the last bits of 2^52, as AVX2 has no conversion.
    return (swiftmax_wide)(counts + 0x4330000000000000) - 0x1p52;
#else
    return __builtin_convertvector(counts, swiftmax_wide);
#endif
}

#if defined(SWIFTMAX_FLOAT32)
/// Whether in all lanes `least` is at least -limit and `largest` at most limit.
SWIFTMAX_INLINE bool vector_all_within(swiftmax_vector least, swiftmax_vector largest,
                                       swiftmax_vector limit) {
#if defined(__AVX512F__)
    __mmask16 above = _mm512_cmp_ps_mask((__m512)least, (__m512)-limit, _CMP_GE_OQ);
    return _mm512_mask_cmp_ps_mask(above, (__m512)largest, (__m512)limit, _CMP_LE_OQ) == 0xffff;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)((least >= -limit) & (largest <= limit))) == 0xff;
#else
    bool all = true;
    for (int i = 0; i < SWIFTMAX_LANES; i++)
        all &= least[i] >= -limit[i] && largest[i] <= limit[i];
    return all;
#endif
}
#endif

// MARK: Memory

SWIFTMAX_INLINE swiftmax_vector vector_load(const void *address) {
    return *(const swiftmax_unaligned_vector *)address;
}

/// `v`, in a register rather than as an operand in memory: AMD's Zen 5 takes about twice as long for an FMA
/// of 512 bits that loads.
SWIFTMAX_INLINE swiftmax_vector vector_in_register(swiftmax_vector v) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(v));
#endif
    return v;
}

/// `a`, not before the others are computed too: with few registers, compilers put chains of operations one
/// after another, where each waits for itself.
SWIFTMAX_INLINE swiftmax_vector vector_after(swiftmax_vector a, swiftmax_vector b, swiftmax_vector c,
                                             swiftmax_vector d) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    __asm__("" : "+x"(a) : "x"(b), "x"(c), "x"(d));
#else
    (void)b, (void)c, (void)d;
#endif
    return a;
}

/// `a`, not before `b` is computed too.
SWIFTMAX_INLINE swiftmax_vector vector_behind(swiftmax_vector a, swiftmax_vector b) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(a) : "v"(b));
#else
    (void)b;
#endif
    return a;
}

// Choices in C, where branches in Swift would make functions too large for others to be inlined there.

/// a + b if both flags are set, of which the second seldom is, else a.
SWIFTMAX_INLINE swiftmax_vector vector_add_if(bool flag, bool rare, swiftmax_vector a, swiftmax_vector b) {
    if (flag && __builtin_expect(rare, 0))
        a = vector_behind(a + b, b);
    return a;
}

SWIFTMAX_INLINE swiftmax_wide wide_add_if(bool flag, swiftmax_wide a, swiftmax_wide b) {
    return flag ? a + b : a;
}

SWIFTMAX_INLINE swiftmax_vector vector_zero_if(bool flag, swiftmax_vector v) {
    return flag ? (swiftmax_vector)0 : v;
}

SWIFTMAX_INLINE void vector_store(void *address, swiftmax_vector v) {
    *(swiftmax_unaligned_vector *)address = v;
}

/// Lanes 0, 1, 2... of the macro's argument, a function of the lane.
#if SWIFTMAX_LANES == 16
#define SWIFTMAX_EACH_LANE(f)                                                                                \
    f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#elif SWIFTMAX_LANES == 8
#define SWIFTMAX_EACH_LANE(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#elif SWIFTMAX_LANES == 4
#define SWIFTMAX_EACH_LANE(f) f(0), f(1), f(2), f(3)
#else
#define SWIFTMAX_EACH_LANE(f) f(0), f(1)
#endif

/// The lanes from the last to the first.
SWIFTMAX_INLINE swiftmax_vector vector_reversed(swiftmax_vector v) {
#define SWIFTMAX_REVERSED(lane) (SWIFTMAX_LANES - 1 - (lane))
    return __builtin_shufflevector(v, v, SWIFTMAX_EACH_LANE(SWIFTMAX_REVERSED));
}

#if defined(__AVX512F__) && !defined(SWIFTMAX_FLOAT64)
/// Where vector_reversed_pair finds its lanes, if it skips as many of the first as `skipped`.
SWIFTMAX_INLINE swiftmax_bits vector_reversed_places(intptr_t skipped) {
    return (swiftmax_bits){SWIFTMAX_EACH_LANE(SWIFTMAX_REVERSED)} - (uint32_t)skipped;
}

/// A vector of the lanes of a from the last to the first, and then of those of b.
SWIFTMAX_INLINE swiftmax_vector vector_reversed_pair(swiftmax_vector a, swiftmax_vector b,
                                                     swiftmax_bits places) {
    return (swiftmax_vector)_mm512_permutex2var_ps((__m512)a, (__m512i)places, (__m512)b);
}
#endif

/// Every second of two vectors of elements, the second of which begins with the last of the first: so that
/// none is read beyond those wanted.
SWIFTMAX_INLINE swiftmax_vector vector_alternate(swiftmax_vector a, swiftmax_vector b) {
#define SWIFTMAX_ALTERNATE(lane) (2 * (lane) + ((lane) >= SWIFTMAX_LANES / 2))
    return __builtin_shufflevector(a, b, SWIFTMAX_EACH_LANE(SWIFTMAX_ALTERNATE));
}

/// a[0], a[2] and so on, then the same of b.
SWIFTMAX_INLINE swiftmax_vector vector_even(swiftmax_vector a, swiftmax_vector b) {
#define SWIFTMAX_EVEN(lane) (2 * (lane))
    return __builtin_shufflevector(a, b, SWIFTMAX_EACH_LANE(SWIFTMAX_EVEN));
}

/// a[1], a[3] and so on, then the same of b.
SWIFTMAX_INLINE swiftmax_vector vector_odd(swiftmax_vector a, swiftmax_vector b) {
#define SWIFTMAX_ODD(lane) (2 * (lane) + 1)
    return __builtin_shufflevector(a, b, SWIFTMAX_EACH_LANE(SWIFTMAX_ODD));
}

/// The first half of a[0], b[0], a[1], b[1] and so on.
SWIFTMAX_INLINE swiftmax_vector vector_interleaved_low(swiftmax_vector a, swiftmax_vector b) {
#define SWIFTMAX_INTERLEAVED_LOW(lane) ((lane) / 2 + (lane) % 2 * SWIFTMAX_LANES)
    return __builtin_shufflevector(a, b, SWIFTMAX_EACH_LANE(SWIFTMAX_INTERLEAVED_LOW));
}

/// The second half.
SWIFTMAX_INLINE swiftmax_vector vector_interleaved_high(swiftmax_vector a, swiftmax_vector b) {
#define SWIFTMAX_INTERLEAVED_HIGH(lane) (SWIFTMAX_LANES / 2 + (lane) / 2 + (lane) % 2 * SWIFTMAX_LANES)
    return __builtin_shufflevector(a, b, SWIFTMAX_EACH_LANE(SWIFTMAX_INTERLEAVED_HIGH));
}

/// Elements `stride` bytes apart.
SWIFTMAX_INLINE swiftmax_vector vector_load_strided(const void *address, intptr_t stride) {
#define SWIFTMAX_STRIDED(lane) *(const swiftmax_unaligned_element *)((const char *)address + (lane) * stride)
    return (swiftmax_vector){SWIFTMAX_EACH_LANE(SWIFTMAX_STRIDED)};
}

/// Asks for a line that will soon be read; any address will do. Into the first cache, even where only the
/// second can hold all that is asked for: a Zen 5 then takes up to a fifth less, and no longer anywhere.
SWIFTMAX_INLINE void vector_prefetch(const void *address) {
    __builtin_prefetch(address, 0, 3);
}

/// A store past the caches; `address` must be aligned to the vector.
SWIFTMAX_INLINE void vector_stream(void *address, swiftmax_vector v) {
    __builtin_nontemporal_store(v, (swiftmax_vector *)address);
}

#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
#define SWIFTMAX_MASK(count) ((__mmask8)((1u << (count)) - 1))
#elif defined(__AVX512F__)
#define SWIFTMAX_MASK(count) ((__mmask16)((1u << (count)) - 1))
#elif defined(__AVX2__) && defined(SWIFTMAX_FLOAT64)
#define SWIFTMAX_MASK(count) _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_set_epi64x(3, 2, 1, 0))
#elif defined(__AVX2__)
#define SWIFTMAX_MASK(count)                                                                                 \
    _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(count)), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0))
#endif

/// The first `count` elements (0 <= count <= lanes); `fill` in the other lanes. Touches no memory past them.
SWIFTMAX_INLINE swiftmax_vector vector_load_partial(const void *address, intptr_t count,
                                                    swiftmax_vector fill) {
#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
    return (swiftmax_vector)_mm512_mask_loadu_pd((__m512d)fill, SWIFTMAX_MASK(count), address);
#elif defined(__AVX512F__)
    return (swiftmax_vector)_mm512_mask_loadu_ps((__m512)fill, SWIFTMAX_MASK(count), address);
#elif defined(__AVX2__) && defined(SWIFTMAX_FLOAT64)
    __m256i mask = SWIFTMAX_MASK(count);
    return (swiftmax_vector)_mm256_blendv_pd((__m256d)fill, _mm256_maskload_pd(address, mask), (__m256d)mask);
#elif defined(__AVX2__)
    __m256i mask = SWIFTMAX_MASK(count);
    return (swiftmax_vector)_mm256_blendv_ps((__m256)fill, _mm256_maskload_ps(address, mask), (__m256)mask);
#else
    swiftmax_vector v = fill;
    for (intptr_t i = 0; i < SWIFTMAX_LANES; i++)
        if (i < count)
            __builtin_memcpy((char *)&v + i * sizeof(swiftmax_element),
                             (const char *)address + i * sizeof(swiftmax_element), sizeof(swiftmax_element));
    return v;
#endif
}

#if defined(__AVX2__)
/// The elements but the first `absent`, which are zeros; 0 <= absent <= lanes, but with AVX2 any number
/// stands for the nearer of the two. Touches no memory before the others.
SWIFTMAX_INLINE swiftmax_vector vector_load_last(const void *address, intptr_t absent) {
#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
    return (swiftmax_vector)_mm512_maskz_loadu_pd((__mmask8)~SWIFTMAX_MASK(absent), address);
#elif defined(__AVX512F__)
    return (swiftmax_vector)_mm512_maskz_loadu_ps((__mmask16)~SWIFTMAX_MASK(absent), address);
#elif defined(SWIFTMAX_FLOAT64)
    return (swiftmax_vector)_mm256_maskload_pd(address, ~SWIFTMAX_MASK(absent));
#else
    return (swiftmax_vector)_mm256_maskload_ps(address, ~SWIFTMAX_MASK(absent));
#endif
}
#endif

/// Stores the first `count` lanes (0 < count <= lanes) and touches no memory past them.
SWIFTMAX_INLINE void vector_store_partial(void *address, swiftmax_vector v, intptr_t count) {
#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
    _mm512_mask_storeu_pd(address, SWIFTMAX_MASK(count), (__m512d)v);
#elif defined(__AVX512F__)
    _mm512_mask_storeu_ps(address, SWIFTMAX_MASK(count), (__m512)v);
#elif defined(__AVX2__)
    // Halves, quarters and so on: AMD's CPUs take some twenty operations for a masked store.
    char *at = address;
    if (count == SWIFTMAX_LANES) {
        vector_store(at, v);
        return;
    }
    __m128 rest = _mm256_castps256_ps128((__m256)v);
    if (count & (SWIFTMAX_LANES / 2)) {
        _mm_storeu_ps((float *)at, rest);
        rest = _mm256_extractf128_ps((__m256)v, 1);
        at += 16;
    }
    if (count & (SWIFTMAX_LANES / 4)) {
        _mm_storel_pi((__m64 *)at, rest);
        rest = _mm_movehl_ps(rest, rest);
        at += 8;
    }
    if (sizeof(swiftmax_element) == 4 && count & 1)
        _mm_store_ss((float *)at, rest);
#else
    for (intptr_t i = 0; i < SWIFTMAX_LANES; i++)
        if (i < count)
            __builtin_memcpy((char *)address + i * sizeof(swiftmax_element),
                             (const char *)&v + i * sizeof(swiftmax_element), sizeof(swiftmax_element));
#endif
}

#if defined(__AVX512F__) && defined(SWIFTMAX_FLOAT64)
/// Lane i + `distance`, beyond the last from the first on, in lane i.
SWIFTMAX_INLINE swiftmax_vector vector_rotated(swiftmax_vector v, intptr_t distance) {
    __m512i places = _mm512_add_epi64(_mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0), _mm512_set1_epi64(distance));
    return (swiftmax_vector)_mm512_permutexvar_pd(places, (__m512d)v);
}
#endif

#if defined(__AVX512F__)
/// The first `count` lanes of `v`, and then the first ones of `next`.
SWIFTMAX_INLINE swiftmax_vector vector_continued(swiftmax_vector v, intptr_t count, swiftmax_vector next) {
#if defined(SWIFTMAX_FLOAT64)
    return (swiftmax_vector)_mm512_mask_expand_pd((__m512d)v, (__mmask8)~SWIFTMAX_MASK(count), (__m512d)next);
#else
    return (swiftmax_vector)_mm512_mask_expand_ps((__m512)v, (__mmask16)~SWIFTMAX_MASK(count), (__m512)next);
#endif
}
#endif

// MARK: Masks and 16-bit types

typedef uint8_t swiftmax_bytes __attribute__((ext_vector_type(SWIFTMAX_LANES)));

/// `v` where the byte is not 0, else `other`; of only `count` bytes: `v` in the lanes beyond.
SWIFTMAX_INLINE swiftmax_vector vector_select_bytes(const uint8_t *bytes, intptr_t count, swiftmax_vector v,
                                                    swiftmax_vector other) {
#if defined(__AVX512F__)
    __mmask16 present = (__mmask16)SWIFTMAX_MASK(count);
    __m128i mask = _mm_maskz_loadu_epi8(present, bytes);
    __mmask16 unset = _mm_mask_testn_epi8_mask(present, mask, mask);
#if defined(SWIFTMAX_FLOAT64)
    return (swiftmax_vector)_mm512_mask_mov_pd((__m512d)v, (__mmask8)unset, (__m512d)other);
#else
    return (swiftmax_vector)_mm512_mask_mov_ps((__m512)v, unset, (__m512)other);
#endif
#else
    swiftmax_bytes mask;
    if (count == SWIFTMAX_LANES) {
        __builtin_memcpy(&mask, bytes, SWIFTMAX_LANES);
    } else {
        // Not by way of memory, where a load would wait for all stores of parts of it.
        uint64_t all = ~(uint64_t)0 << count * 8;
        uint32_t four;
        uint16_t two;
        if (count & 1)
            all |= bytes[count - 1] * (uint64_t)1 << (count - 1) * 8;
        if (count & 2) {
            __builtin_memcpy(&two, bytes + (count & 4), 2);
            all |= (uint64_t)two << (count & 4) * 8;
        }
        if (count & 4) {
            __builtin_memcpy(&four, bytes, 4);
            all |= four;
        }
        __builtin_memcpy(&mask, &all, SWIFTMAX_LANES);
    }
    swiftmax_bits set = (swiftmax_bits)(__builtin_convertvector(mask, swiftmax_bits) != 0);
    return (swiftmax_vector)(((swiftmax_bits)v & set) | ((swiftmax_bits)other & ~set));
#endif
}

#if !defined(SWIFTMAX_FLOAT64)

/// binary16 to float32, by integer arithmetic that is exact for every input, subnormals included.
SWIFTMAX_INLINE void half_widen(const void *source, void *destination) {
    uint16_t half;
    __builtin_memcpy(&half, source, 2);
    uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    float value;
    // The exponent is rebased by a multiplication, which also normalizes.
    __builtin_memcpy(&value, &magnitude, 4);
    value *= 0x1p112f;
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((half & 0x7c00) == 0x7c00)
        bits = 0x7f800000 | magnitude;
    bits |= (uint32_t)(half & 0x8000) << 16;
    __builtin_memcpy(destination, &bits, 4);
}

/// float32 to binary16, rounded to nearest even.
SWIFTMAX_INLINE void half_narrow(const void *source, void *destination) {
    uint32_t bits;
    __builtin_memcpy(&bits, source, 4);
    uint32_t magnitude = bits & 0x7fffffff;
    uint32_t half;
    if (magnitude > 0x7f800000) {
        half = 0x7e00 | ((magnitude >> 13) & 0x3ff);
    } else if (magnitude >= 0x47800000) {
        half = 0x7c00;
    } else if (magnitude >= 0x38800000) {
        uint32_t rebased = magnitude - 0x38000000;
        half = (rebased + 0xfff + ((rebased >> 13) & 1)) >> 13;
    } else {
        // A subnormal half: adding 0.5 leaves its 10 bits, rounded, at the end of the mantissa.
        float value, shifted;
        __builtin_memcpy(&value, &magnitude, 4);
        shifted = value + 0.5f;
        __builtin_memcpy(&half, &shifted, 4);
        half -= 0x3f000000;
    }
    uint16_t result = (uint16_t)(half | ((bits >> 16) & 0x8000));
    __builtin_memcpy(destination, &result, 2);
}

typedef uint16_t swiftmax_half_words __attribute__((ext_vector_type(SWIFTMAX_LANES)));

SWIFTMAX_INLINE swiftmax_bits bfloat_bits(swiftmax_half_words halves) {
#if defined(__AVX512BW__)
    // One permutation rather than a conversion and a shift.
#define SWIFTMAX_UPPER_HALF(lane) ((lane) << 16)
    swiftmax_bits places = {SWIFTMAX_EACH_LANE(SWIFTMAX_UPPER_HALF)};
    __m512i words = _mm512_castsi256_si512((__m256i)halves);
    return (swiftmax_bits)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, (__m512i)places, words);
#else
    return __builtin_convertvector(halves, swiftmax_bits) << 16;
#endif
}

/// Floats rounded to nearest even, in their upper halves. NaN stays NaN if its lower half is 0.
SWIFTMAX_INLINE swiftmax_bits bfloat_nearest(swiftmax_bits bits) {
    return bits + 0x7fff + ((bits >> 16) & 1);
}

/// The upper halves, rounded to nearest even; a NaN stays one.
SWIFTMAX_INLINE swiftmax_half_words bfloat_round(swiftmax_bits bits) {
    swiftmax_bits rounded = bfloat_nearest(bits) >> 16;
    swiftmax_bits quiet = (bits >> 16) | 0x40;
    swiftmax_bits is_nan = (swiftmax_bits)((swiftmax_vector)bits != (swiftmax_vector)bits);
    return __builtin_convertvector((rounded & ~is_nan) | (quiet & is_nan), swiftmax_half_words);
}

#if defined(__F16C__) && !defined(__AVX512BW__)
/// Up to three 16-bit elements, the first in the lowest bits, and zeros.
SWIFTMAX_INLINE uint64_t halves_piece(const uint16_t *address, intptr_t count) {
    uint16_t last = 0;
    if (count & 1)
        __builtin_memcpy(&last, address + (count - 1), 2);
    uint64_t piece = last;
    if (count & 2) {
        uint32_t pair;
        __builtin_memcpy(&pair, address, 4);
        piece = piece << 32 | pair;
    }
    return piece;
}
#endif

/// A vector of 16-bit elements: `count` of them, and zeros in the other lanes.
SWIFTMAX_INLINE swiftmax_half_words halves_load_partial(const void *address, intptr_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    return (swiftmax_half_words)_mm256_maskz_loadu_epi16(SWIFTMAX_MASK(count), address);
#elif defined(__F16C__)
    const uint16_t *first = address;
    uint64_t low = 0, high = 0;
    if (count < 4) {
        low = halves_piece(first, count);
    } else {
        __builtin_memcpy(&low, first, 8);
        high = halves_piece(first + 4, count - 4);
    }
    return (swiftmax_half_words)_mm_set_epi64x((int64_t)high, (int64_t)low);
#else
    swiftmax_half_words halves = 0;
    for (intptr_t i = 0; i < SWIFTMAX_LANES; i++)
        if (i < count)
            __builtin_memcpy((char *)&halves + 2 * i, (const char *)address + 2 * i, 2);
    return halves;
#endif
}

/// The same where others lie before them, so that all are at least a vector.
SWIFTMAX_INLINE swiftmax_half_words halves_load_last(const void *address, intptr_t count) {
#if defined(__F16C__) && !defined(__AVX512BW__)
    // The vector that ends with them, moved down: a place of 128 or more holds a zero.
    __m128i vector = _mm_loadu_si128((const __m128i *)((const char *)address + 2 * count - 16));
    __m128i first = _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    return (swiftmax_half_words)_mm_shuffle_epi8(vector, _mm_set1_epi8((char)(128 - 2 * count)) + first);
#else
    return halves_load_partial(address, count);
#endif
}

SWIFTMAX_INLINE swiftmax_half_words halves_load(const void *address) {
    swiftmax_half_words halves;
    __builtin_memcpy(&halves, address, sizeof halves);
    return halves;
}

SWIFTMAX_INLINE void halves_store(void *address, swiftmax_half_words halves) {
    __builtin_memcpy(address, &halves, sizeof halves);
}

/// The lanes in reverse order.
SWIFTMAX_INLINE swiftmax_half_words halves_reversed(swiftmax_half_words v) {
    return __builtin_shufflevector(v, v, SWIFTMAX_EACH_LANE(SWIFTMAX_REVERSED));
}

/// `count` elements that end with that at `address`, in the last lanes, after zeros. Others lie after them,
/// so that all are at least a vector.
SWIFTMAX_INLINE swiftmax_half_words halves_load_ending(const void *address, intptr_t count) {
    const char *first = (const char *)address - 2 * (SWIFTMAX_LANES - 1);
#if defined(__AVX512BW__)
    __mmask16 present = (__mmask16)(0xffff << (SWIFTMAX_LANES - count));
    return (swiftmax_half_words)_mm256_maskz_loadu_epi16(present, first);
#elif defined(__F16C__)
    // The vector that begins with them, moved up: a place below 0 holds a zero.
    __m128i vector = _mm_loadu_si128((const __m128i *)((const char *)address - 2 * (count - 1)));
    __m128i places = _mm_set_epi8(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    __m128i from = _mm_sub_epi8(places, _mm_set1_epi8((char)(16 - 2 * count)));
    return (swiftmax_half_words)_mm_shuffle_epi8(vector, from);
#else
    swiftmax_half_words halves = 0;
    for (int i = 0; i < SWIFTMAX_LANES; i++)
        if (i >= SWIFTMAX_LANES - count)
            __builtin_memcpy((char *)&halves + 2 * i, first + 2 * i, 2);
    return halves;
#endif
}

/// Every other one of the 16-bit elements from `address` on.
SWIFTMAX_INLINE swiftmax_half_words halves_load_alternate(const void *address) {
    return __builtin_convertvector((swiftmax_bits)vector_load(address), swiftmax_half_words);
}

/// As vector_stream.
SWIFTMAX_INLINE void halves_stream(void *address, swiftmax_half_words halves) {
#if defined(__AVX512F__)
    // A store that narrows on its way would go through the caches.
    __asm__("" : "+v"(halves));
#endif
    __builtin_nontemporal_store(halves, (swiftmax_half_words *)address);
}

SWIFTMAX_INLINE void halves_store_partial(void *address, swiftmax_half_words halves, intptr_t count) {
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    _mm256_mask_storeu_epi16(address, SWIFTMAX_MASK(count), (__m256i)halves);
#elif defined(__F16C__)
    uint16_t *first = address;
    uint64_t piece = (uint64_t)_mm_cvtsi128_si64((__m128i)halves);
    if (count & 4) {
        __builtin_memcpy(first, &piece, 8);
        piece = (uint64_t)_mm_extract_epi64((__m128i)halves, 1);
        first += 4;
    }
    if (count & 2) {
        __builtin_memcpy(first, &piece, 4);
        piece >>= 32;
        first += 2;
    }
    if (count & 1)
        __builtin_memcpy(first, &piece, 2);
#else
    for (intptr_t i = 0; i < SWIFTMAX_LANES; i++)
        if (i < count)
            __builtin_memcpy((char *)address + 2 * i, (const char *)&halves + 2 * i, 2);
#endif
}

/// The upper half of each float. Kept in a register: else it would become a mask, of which each use takes two
/// steps.
SWIFTMAX_INLINE swiftmax_bits upper_halves(void) {
    swiftmax_bits upper = (swiftmax_bits){} + 0xffff0000;
#if defined(__AVX512BW__)
    __asm__("" : "+v"(upper));
#endif
    return upper;
}

/// Twice as many bfloat16 as a vector has lanes, each two in the lane of one: there the second is a float but
/// for its lower half.
SWIFTMAX_INLINE swiftmax_bits bfloat_pairs_load(const void *address) {
    return (swiftmax_bits)vector_load(address);
}

SWIFTMAX_INLINE swiftmax_vector bfloat_pairs_first(swiftmax_bits pairs) {
    return (swiftmax_vector)(pairs << 16);
}

SWIFTMAX_INLINE swiftmax_vector bfloat_pairs_second(swiftmax_bits pairs) {
    return (swiftmax_vector)(pairs & upper_halves());
}

#if defined(__AVX2__)
typedef uint16_t swiftmax_words __attribute__((ext_vector_type(2 * SWIFTMAX_LANES)));

/// The upper halves of floats, rounded to nearest even by the lower ones. No NaN is among them.
///
/// That of a float goes up if its lower half + 0x7fff + the last bit of the upper carries, which the average
/// with 0x7ffe + that bit has as its first: this takes one addition of two floats at once.
SWIFTMAX_INLINE swiftmax_words bfloat_rounded(swiftmax_words upper, swiftmax_words lower) {
    swiftmax_words added = (upper & 1) | 0x7ffe;
#if defined(__AVX512BW__)
    swiftmax_words average = (swiftmax_words)_mm512_avg_epu16((__m512i)lower, (__m512i)added);
#else
    swiftmax_words average = (swiftmax_words)_mm256_avg_epu16((__m256i)lower, (__m256i)added);
#endif
    return upper + (average >> 15);
}

/// The way back, rounded to nearest even; NaN is not among them.
SWIFTMAX_INLINE swiftmax_bits bfloat_pairs(swiftmax_vector first, swiftmax_vector second) {
    swiftmax_bits a = (swiftmax_bits)first, b = (swiftmax_bits)second;
    swiftmax_bits halves = upper_halves();
    swiftmax_bits upper = a >> 16 | (b & halves), lower = (a & ~halves) | b << 16;
    return (swiftmax_bits)bfloat_rounded((swiftmax_words)upper, (swiftmax_words)lower);
}
#endif

#if defined(__AVX2__)
/// Twice as many bfloat16 as a vector has lanes, in the place of a vector: those of `first`, then those of
/// `second`, rounded to nearest even. The lower half of a NaN is 0.
SWIFTMAX_INLINE swiftmax_vector bfloats_from(swiftmax_vector first, swiftmax_vector second) {
#if defined(__AVX512BW__)
#define SWIFTMAX_LOWER_HALVES(lane) (0x20000 + 0x40004 * (lane))
    swiftmax_bits places = {SWIFTMAX_EACH_LANE(SWIFTMAX_LOWER_HALVES)};
    __m512i a = (__m512i)first, b = (__m512i)second;
    __m512i lower = _mm512_permutex2var_epi16(a, (__m512i)places, b);
    __m512i upper = _mm512_permutex2var_epi16(a, (__m512i)(places + 0x10001), b);
    return (swiftmax_vector)bfloat_rounded((swiftmax_words)upper, (swiftmax_words)lower);
#else
    swiftmax_bits a = bfloat_nearest((swiftmax_bits)first), b = bfloat_nearest((swiftmax_bits)second);
    __m256i both = _mm256_packus_epi32((__m256i)(a >> 16), (__m256i)(b >> 16));
    return (swiftmax_vector)_mm256_permute4x64_epi64(both, 0xd8);
#endif
}
#endif

/// All in reverse order.
SWIFTMAX_INLINE swiftmax_bits bfloat_pairs_reversed(swiftmax_bits pairs) {
    swiftmax_vector reversed = vector_reversed((swiftmax_vector)pairs);
    return (swiftmax_bits)reversed << 16 | (swiftmax_bits)reversed >> 16;
}

SWIFTMAX_INLINE void bfloat_pairs_store(void *address, swiftmax_bits pairs) {
    vector_store(address, (swiftmax_vector)pairs);
}

SWIFTMAX_INLINE void bfloat_pairs_stream(void *address, swiftmax_bits pairs) {
    vector_stream(address, (swiftmax_vector)pairs);
}

/// float16 and back, rounded to nearest even, by the CPU's own instruction where it has one.
SWIFTMAX_INLINE swiftmax_vector vector_from_halves(swiftmax_half_words halves) {
#if defined(__AVX512F__)
    return (swiftmax_vector)_mm512_cvtph_ps((__m256i)halves);
#elif defined(__F16C__)
    return (swiftmax_vector)_mm256_cvtph_ps((__m128i)halves);
#else
    swiftmax_vector v;
    for (int i = 0; i < SWIFTMAX_LANES; i++)
        half_widen((const char *)&halves + 2 * i, (char *)&v + 4 * i);
    return v;
#endif
}

SWIFTMAX_INLINE swiftmax_half_words vector_to_halves(swiftmax_vector v) {
#if defined(__AVX512F__)
    return (swiftmax_half_words)_mm512_cvtps_ph((__m512)v, 0);
#elif defined(__F16C__)
    return (swiftmax_half_words)_mm256_cvtps_ph((__m256)v, 0);
#else
    swiftmax_half_words halves;
    for (int i = 0; i < SWIFTMAX_LANES; i++)
        half_narrow((const char *)&v + 4 * i, (char *)&halves + 2 * i);
    return halves;
#endif
}

/// The same of bfloat16.
SWIFTMAX_INLINE swiftmax_vector vector_from_bfloats(swiftmax_half_words halves) {
    return (swiftmax_vector)bfloat_bits(halves);
}

SWIFTMAX_INLINE swiftmax_half_words vector_to_bfloats(swiftmax_vector v) {
    return bfloat_round((swiftmax_bits)v);
}

#endif

#endif
