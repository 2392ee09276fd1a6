/// What the library needs of the system and Swift cannot say without its runtime: atomics, the floating-point
/// environment, the CPU's features, scratch memory and threads.

#ifndef SWIFTMAX_SUPPORT_H
#define SWIFTMAX_SUPPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels.h"

#define SWIFTMAX_INLINE static inline __attribute__((always_inline))

/// Asks for a line that will soon be read; any address will do.
SWIFTMAX_INLINE void support_prefetch(const void *address) {
    __builtin_prefetch(address, 0, 3);
}

// MARK: Floating-point environment

/// Sets round to nearest, gradual underflow and no traps, and returns what was set before, flags included.
SWIFTMAX_INLINE uint64_t support_enter_float_environment(void) {
#if defined(__x86_64__)
    uint32_t saved = _mm_getcsr();
    _mm_setcsr(0x1f80);
    return saved;
#elif defined(__aarch64__)
    uint64_t saved;
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)0));
    return saved;
#else
    return 0;
#endif
}

SWIFTMAX_INLINE void support_leave_float_environment(uint64_t saved) {
#if defined(__x86_64__)
    _mm_setcsr((uint32_t)saved);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(saved));
#else
    (void)saved;
#endif
}

// MARK: Atomics

SWIFTMAX_INLINE int64_t support_fetch_add(int64_t *value, int64_t amount) {
    return __atomic_fetch_add(value, amount, __ATOMIC_RELAXED);
}

SWIFTMAX_INLINE int32_t support_load(const int32_t *value) {
    return __atomic_load_n(value, __ATOMIC_ACQUIRE);
}

SWIFTMAX_INLINE void support_store(int32_t *value, int32_t other) {
    __atomic_store_n(value, other, __ATOMIC_RELEASE);
}

/// What it was.
SWIFTMAX_INLINE int32_t support_exchange(int32_t *value, int32_t other) {
    return __atomic_exchange_n(value, other, __ATOMIC_ACQ_REL);
}

/// What it is then.
SWIFTMAX_INLINE int32_t support_add(int32_t *value, int32_t amount) {
    return __atomic_add_fetch(value, amount, __ATOMIC_ACQ_REL);
}

/// Takes one off a number above 0; whether it was.
SWIFTMAX_INLINE bool support_take(int32_t *value) {
    int32_t left = __atomic_load_n(value, __ATOMIC_RELAXED);
    while (left > 0)
        if (__atomic_compare_exchange_n(value, &left, left - 1, true, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return true;
    return false;
}

/// Between two looks at what another thread is to change.
SWIFTMAX_INLINE void support_pause(void) {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/// Orders stores past the caches before what follows, which on x86-64 nothing else does.
SWIFTMAX_INLINE void support_stream_fence(void) {
#if defined(__x86_64__)
    _mm_sfence();
#endif
}

// MARK: State of the process

/// The tables of the kernels in use, float32 and float64, valid once `support_isa` is not 0; and of float32
/// kernels with vectors half as wide.
swiftmax_kernels *support_kernels(void);
/// 1 + the index of the kernel set in use; 0 before the first call.
int32_t *support_isa(void);
/// The most threads of a call; 0 before it is first asked for.
int32_t *support_threads(void);

/// Whether this CPU runs AVX2 and FMA (Haswell), and AVX-512 as of Skylake.
int32_t support_has_avx2(void);
int32_t support_has_avx512(void);
/// The family of one of AMD, whose last caches answer in two thirds of the time of Intel's, else 0.
int32_t support_amd_family(void);

/// Processors this process may use: its affinity, cut to the quota of its control group; at least 1.
int32_t support_processors(void);

/// The calling thread's scratch memory of `bytes`, which must be the same in every call, aligned to a page.
/// It lasts as long as the thread. Null when there is none to be had.
void *support_scratch(size_t bytes);

/// The threads that help one call at a time, and wait for the next for a moment: to wake a thread takes as
/// long as the work of a small call does.
typedef struct support_crew {
    /// 1 while a call has it; 1 after another would have had it.
    int32_t is_taken, is_crowded;
    /// How many may yet join the call, and how many have done their part.
    int32_t seats, done;
    /// Threads that wait for seats, those that are to, and the most that there is a processor for.
    int32_t waiting, coming, most;
    /// What the call's threads share.
    void *shared;
} support_crew;

/// The crew of this process; that of a forked child has nobody.
support_crew *support_crew_of_process(void);

/// Nanoseconds since some moment.
int64_t support_now(void);

/// Lets another thread run.
void support_yield(void);

/// libdispatch. (Its header is not on the path of C targets.)
void dispatch_apply_f(size_t iterations, void *queue, void *context, void (*work)(void *, size_t));
void dispatch_async_f(void *queue, void *context, void (*work)(void *));
void *dispatch_get_global_queue(intptr_t identifier, uintptr_t flags);

/// Calls `work(context, i)` for i in 0..<count, on several threads.
SWIFTMAX_INLINE void support_apply(size_t count, void *context, void (*work)(void *, size_t)) {
    // The queue that a null stands for is that of the calling thread's priority.
    dispatch_apply_f(count, 0, context, work);
}

/// Calls `work` on a thread of its own, soon.
SWIFTMAX_INLINE void support_async(void (*work)(void *)) {
    dispatch_async_f(dispatch_get_global_queue(0, 0), NULL, work);
}

#endif
