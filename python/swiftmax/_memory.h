/* Memory for outputs that are not small.
 *
 * Where an output lies matters to the processor. Stores that go across cache lines take longer, and so does a
 * load that seems to read what an earlier store has yet to write, since their addresses differ by a multiple
 * of 4 KiB. So outputs begin with a cache line, and far from their operands within a page.
 *
 * The first write to each page of new memory is a page fault, and a large array costs more to fault in than
 * to compute. The C library hands large blocks back to the system whenever one is freed, so that a loop which
 * makes an output a turn would pay for that every time. A few of them are kept instead, and of these all but
 * a small one are the system's as soon as it needs memory. */

#ifndef SWIFTMAX_MEMORY_H
#define SWIFTMAX_MEMORY_H

#include <stddef.h>

/* The size in bytes from which these functions pay. */
#define SWIFTMAX_PLACED_OUTPUT ((size_t)128 << 10)

/* The size from which blocks are kept; below it, the C library does that itself. */
#define SWIFTMAX_LARGE_OUTPUT ((size_t)4 << 20)

/* Says what the next block of this thread is computed from; twice the same for one operand. */
void swiftmax_memory_place(const void *operand, const void *other);

/* As malloc, calloc, realloc and free; in the form of NumPy's PyDataMemAllocator, of which neither
 * `context` nor the size of a freed block is needed. */
void *swiftmax_memory_malloc(void *context, size_t size);
void *swiftmax_memory_calloc(void *context, size_t count, size_t size);
void *swiftmax_memory_realloc(void *context, void *data, size_t size);
void swiftmax_memory_free(void *context, void *data, size_t size);

#endif
