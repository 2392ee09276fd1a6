#define _GNU_SOURCE
#include "_memory.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* The most that is kept: one block of 64 MiB, which is also about what the C library keeps at the top of
 * its heap. */
#define KEPT_BYTES (((size_t)64 << 20) + HUGE_PAGE)
#define KEPT_BLOCKS 8

/* A block is a mapping of its own, so that dropping it leaves no hole in a heap. It consists of whole
 * huge pages: one page fault for 2 MiB instead of 512. The data follows this header, half a page behind the
 * start of one: the CPU takes a load for one of what is yet to be stored a multiple of 4 KiB from it, and
 * large arrays of NumPy start with a page, so that the results would follow their elements too closely. */
typedef struct {
    _Alignas(64) size_t capacity; /* bytes of the whole mapping */
    char distance[2048];
} Block;

/* The kept blocks, oldest first. */
static Block *kept[KEPT_BLOCKS];
static int kept_count;
static size_t kept_bytes;

/* Only ever tried: a thread that does not get it goes past the kept blocks. So nothing waits for it, not
 * even in a child that was forked while another thread held it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static Block *map_block(size_t capacity) {
    /* One huge page more, for what lies before and after the aligned part. */
    size_t mapped = capacity + HUGE_PAGE;
    char *start = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        munmap(start, before);
    munmap(start + before + capacity, HUGE_PAGE - before);
    /* Where the system has no huge pages this fails, and may. */
    (void)madvise(start + before, capacity, MADV_HUGEPAGE);
    Block *block = (Block *)(start + before);
    block->capacity = capacity;
    return block;
}

static void unmap_block(Block *block) {
    munmap(block, block->capacity);
}

static Block *take_kept(int index) {
    Block *block = kept[index];
    kept_bytes -= block->capacity;
    kept_count--;
    memmove(&kept[index], &kept[index + 1], (size_t)(kept_count - index) * sizeof *kept);
    return block;
}

static Block *find_kept(size_t capacity) {
    Block *found = NULL;
    if (pthread_mutex_trylock(&lock) != 0)
        return NULL;
    /* The youngest is the likeliest to be in the processor's caches. */
    for (int i = kept_count - 1; i >= 0 && found == NULL; i--) {
        if (kept[i]->capacity == capacity)
            found = take_kept(i);
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* Keeps a block, at the expense of the oldest ones. */
static bool keep(Block *block) {
    if (block->capacity > KEPT_BYTES || pthread_mutex_trylock(&lock) != 0)
        return false;
    while (kept_count == KEPT_BLOCKS || kept_bytes + block->capacity > KEPT_BYTES)
        unmap_block(take_kept(0));
    kept[kept_count++] = block;
    kept_bytes += block->capacity;
    pthread_mutex_unlock(&lock);
    return true;
}

void *swiftmax_memory_malloc(void *context, size_t size) {
    (void)context;
    if (size > SIZE_MAX / 2)
        return NULL;
    size_t capacity = (sizeof(Block) + size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    Block *block = find_kept(capacity);
    if (block == NULL)
        block = map_block(capacity);
    return block == NULL ? NULL : block + 1;
}

void *swiftmax_memory_calloc(void *context, size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    void *data = swiftmax_memory_malloc(context, count * size);
    return data == NULL ? NULL : memset(data, 0, count * size);
}

void *swiftmax_memory_realloc(void *context, void *data, size_t size) {
    if (data == NULL)
        return swiftmax_memory_malloc(context, size);
    size_t available = ((Block *)data)[-1].capacity - sizeof(Block);
    if (size <= available)
        return data;
    void *moved = swiftmax_memory_malloc(context, size);
    if (moved != NULL) {
        memcpy(moved, data, available);
        swiftmax_memory_free(context, data, available);
    }
    return moved;
}

void swiftmax_memory_free(void *context, void *data, size_t size) {
    (void)context;
    (void)size;
    if (data == NULL)
        return;
    Block *block = (Block *)data - 1;
    if (!keep(block))
        unmap_block(block);
}
