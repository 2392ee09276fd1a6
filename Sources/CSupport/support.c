#define _GNU_SOURCE
#include "support.h"

#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <time.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

static swiftmax_kernels kernels[3];
static int32_t isa;
static int32_t threads;

swiftmax_kernels *support_kernels(void) {
    return kernels;
}
int32_t *support_isa(void) {
    return &isa;
}
int32_t *support_threads(void) {
    return &threads;
}

#if defined(__x86_64__)
/// Whether the CPU has all these features of leaves 1 and 7, and the system saves these registers (bits of
/// XCR0). Asked of the CPU itself: the compiler's own __builtin_cpu_supports knows every model of it, and
/// would take 4 KB.
static bool has_features(unsigned leaf1, unsigned leaf7, unsigned registers) {
    unsigned a, b, c, d, state, high;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & bit_OSXSAVE) == 0 || (c & leaf1) != leaf1)
        return false;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b & leaf7) != leaf7)
        return false;
    __asm__("xgetbv" : "=a"(state), "=d"(high) : "c"(0));
    return (state & registers) == registers;
}
#endif

int32_t support_has_avx2(void) {
#if defined(__x86_64__)
    return has_features(bit_AVX | bit_FMA | bit_F16C, bit_AVX2 | bit_BMI | bit_BMI2, 0x06);
#else
    return 0;
#endif
}

int32_t support_has_avx512(void) {
#if defined(__x86_64__)
    unsigned features = bit_AVX512F | bit_AVX512BW | bit_AVX512CD | bit_AVX512DQ | bit_AVX512VL;
    return support_has_avx2() && has_features(0, features, 0xe6);
#else
    return 0;
#endif
}

int32_t support_amd_family(void) {
#if defined(__x86_64__)
    unsigned a, b, c, d;
    if (__get_cpuid(0, &a, &b, &c, &d) && b == signature_AMD_ebx && __get_cpuid(1, &a, &b, &c, &d))
        return (int32_t)((a >> 8 & 0xf) + (a >> 20 & 0xff));
#endif
    return 0;
}

/// The quota of the control group in whole processors, rounded up; 0 if there is none.
static int32_t quota(void) {
    long long limit = 0, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (file) {
        if (fscanf(file, "%lld %lld", &limit, &period) != 2)
            limit = 0;
        fclose(file);
    } else if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r"))) {
        if (fscanf(file, "%lld", &limit) != 1)
            limit = 0;
        fclose(file);
        if ((file = fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r"))) {
            if (fscanf(file, "%lld", &period) != 1)
                period = 0;
            fclose(file);
        }
    }
    return limit > 0 && period > 0 ? (int32_t)((limit + period - 1) / period) : 0;
}

int32_t support_processors(void) {
    int32_t count = 1;
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = CPU_COUNT(&set);
#endif
    int32_t limit = quota();
    if (limit > 0 && limit < count)
        count = limit;
    return count > 0 ? count : 1;
}

// MARK: Threads

static support_crew crew;
static pthread_once_t crew_once = PTHREAD_ONCE_INIT;

static void leave_crew(void) {
    crew = (support_crew){.most = crew.most};
}

static void make_crew(void) {
    crew.most = support_processors() - 1;
    pthread_atfork(NULL, NULL, leave_crew);
}

support_crew *support_crew_of_process(void) {
    pthread_once(&crew_once, make_crew);
    return &crew;
}

int64_t support_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

void support_yield(void) {
    sched_yield();
}

// MARK: Scratch

/// Each thread keeps its block; the key's destructor frees it when the thread ends.
static _Thread_local void *kept;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/// The caches go by physical addresses: small pages may happen to share few of their sets, and columns then
/// take up to half as long again.
static const size_t huge_page = 2 << 20;

static void make_key(void) {
    pthread_key_create(&key, free);
}

void *support_scratch(size_t bytes) {
    if (kept)
        return kept;
    pthread_once(&once, make_key);
    bytes = (bytes + huge_page - 1) / huge_page * huge_page;
    void *block = aligned_alloc(huge_page, bytes);
#if defined(MADV_HUGEPAGE)
    if (block)
        madvise(block, bytes, MADV_HUGEPAGE);
#endif
    if (block && pthread_setspecific(key, block) != 0) {
        free(block);
        block = NULL;
    }
    kept = block;
    return block;
}

/// libdispatch names what disposes of its files and data in tables, and so would bring all of them along, a
/// twenty-fifth of the extension. Nothing makes one here. Being weak, these give way to the real ones in a
/// program that does.
#define NEVER_MADE(name)                                                                                     \
    __attribute__((weak)) void name(void) {                                                                  \
        abort();                                                                                             \
    }
NEVER_MADE(_dispatch_data_debug)
NEVER_MADE(_dispatch_data_dispose)
NEVER_MADE(_dispatch_disk_dispose)
NEVER_MADE(_dispatch_io_debug)
NEVER_MADE(_dispatch_io_dispose)
NEVER_MADE(_dispatch_io_set_target_queue)
NEVER_MADE(_dispatch_operation_debug)
NEVER_MADE(_dispatch_operation_dispose)
