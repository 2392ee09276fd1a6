/* Memory for large outputs.
 *
 * The first write to each page of new memory is a page fault, and a large array costs more to fault in
 * than to compute. The C library hands large blocks back to the system whenever one is freed, so that a
 * loop which makes an output a turn would pay for that every time. A few of them are kept instead. */

#ifndef SWIFTMAX_MEMORY_H
#define SWIFTMAX_MEMORY_H

#include <stddef.h>

/* The size from which these functions pay. Below it, the C library keeps blocks itself. */
#define SWIFTMAX_LARGE_OUTPUT ((size_t)4 << 20)

/* As malloc, calloc, realloc and free; in the form of NumPy's PyDataMemAllocator, of which neither
 * `context` nor the size of a freed block is needed. */
void *swiftmax_memory_malloc(void *context, size_t size);
void *swiftmax_memory_calloc(void *context, size_t count, size_t size);
void *swiftmax_memory_realloc(void *context, void *data, size_t size);
void swiftmax_memory_free(void *context, void *data, size_t size);

#endif
