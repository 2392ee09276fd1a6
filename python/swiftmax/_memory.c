#define _GNU_SOURCE
#include "_memory.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* The most that is kept. What comes after one block of 64 MiB, about what the C library keeps at the top of
 * its heap, the system may take back: whenever it is short of memory, and until then without a page fault
 * here. */
#define KEPT_BYTES ((size_t)1 << 30)
#define HELD_BYTES (((size_t)64 << 20) + HUGE_PAGE)
#define KEPT_BLOCKS 8

/* From where data lies to where it lies again, as the processor compares loads with earlier stores. */
#define PAGE ((size_t)4096)

/* What precedes the data of an array. */
typedef struct {
    _Alignas(64) char *start; /* of the block, which the array is a part of */
    size_t available;         /* bytes from the data to its end */
    size_t mapped;            /* of the block, or 0 for one of the C library */
} Header;

/* A mapping for itself, so that dropping it leaves no hole in a heap: whole huge pages, one page fault for 2
 * MiB instead of 512. */
typedef struct {
    char *start;
    size_t mapped;
} Block;

/* Where in a page the data of the next block of a thread begins. */
static _Thread_local size_t place;

void swiftmax_memory_place(const void *operand, const void *other) {
    size_t distance = ((uintptr_t)other - (uintptr_t)operand) % PAGE;
    /* In the middle of the longer way from one to the other. */
    size_t after = distance > PAGE / 2 ? distance / 2 : (PAGE + distance) / 2;
    place = (((uintptr_t)operand + after) % PAGE + 63) & ~(size_t)63;
}

/* The kept blocks, oldest first. */
static Block kept[KEPT_BLOCKS];
static int kept_count;
static size_t kept_bytes;

/* Only ever tried: a thread that does not get it goes past the kept blocks. So nothing waits for it, not
 * even in a child that was forked while another thread held it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static Block map_block(size_t mapped) {
    /* One huge page more, for what lies before and after the aligned part. */
    char *start = mmap(NULL, mapped + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return (Block){NULL, 0};
    size_t before = (HUGE_PAGE - (uintptr_t)start % HUGE_PAGE) % HUGE_PAGE;
    if (before > 0)
        munmap(start, before);
    munmap(start + before + mapped, HUGE_PAGE - before);
    /* Where the system has no huge pages this fails, and may. */
    (void)madvise(start + before, mapped, MADV_HUGEPAGE);
    return (Block){start + before, mapped};
}

static void unmap_block(Block block) {
    munmap(block.start, block.mapped);
}

static Block take_kept(int index) {
    Block block = kept[index];
    kept_bytes -= block.mapped;
    kept_count--;
    memmove(&kept[index], &kept[index + 1], (size_t)(kept_count - index) * sizeof *kept);
    return block;
}

static Block find_kept(size_t mapped) {
    Block found = {NULL, 0};
    if (pthread_mutex_trylock(&lock) != 0)
        return found;
    /* The smallest that fits, if not much too large; of equals the youngest, as it may be in a cache. */
    int best = -1;
    for (int i = kept_count - 1; i >= 0; i--) {
        size_t size = kept[i].mapped;
        if (size >= mapped && size - mapped <= mapped / 4 && (best < 0 || size < kept[best].mapped))
            best = i;
    }
    if (best >= 0)
        found = take_kept(best);
    pthread_mutex_unlock(&lock);
    return found;
}

/* Keeps a block, at the expense of the oldest ones. False if it is to be unmapped. */
static bool keep(Block block) {
    if (block.mapped > KEPT_BYTES || pthread_mutex_trylock(&lock) != 0)
        return false;
    while (kept_count == KEPT_BLOCKS || kept_bytes + block.mapped > KEPT_BYTES)
        unmap_block(take_kept(0));
    bool is_kept =
        kept_bytes + block.mapped <= HELD_BYTES || madvise(block.start, block.mapped, MADV_FREE) == 0;
    if (is_kept) {
        kept[kept_count++] = block;
        kept_bytes += block.mapped;
    }
    pthread_mutex_unlock(&lock);
    return is_kept;
}

void *swiftmax_memory_malloc(void *context, size_t size) {
    (void)context;
    if (size > SIZE_MAX / 2)
        return NULL;
    size_t needed = sizeof(Header) + PAGE + size;
    Block block = {NULL, 0};
    if (size < SWIFTMAX_LARGE_OUTPUT) {
        block.start = malloc(needed);
    } else {
        size_t mapped = (needed + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        block = find_kept(mapped);
        if (block.start == NULL)
            block = map_block(mapped);
    }
    if (block.start == NULL)
        return NULL;
    char *data = block.start + sizeof(Header);
    data += (place - (uintptr_t)data) % PAGE;
    size_t total = block.mapped > 0 ? block.mapped : needed;
    ((Header *)data)[-1] = (Header){block.start, (size_t)(block.start + total - data), block.mapped};
    return data;
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
    size_t available = ((Header *)data)[-1].available;
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
    Header header = ((Header *)data)[-1];
    Block block = {header.start, header.mapped};
    if (block.mapped == 0)
        free(block.start);
    else if (!keep(block))
        unmap_block(block);
}
