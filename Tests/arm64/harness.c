/// A filter for tests of the library on an emulated CPU: reads calls from the standard input until it ends,
/// and writes their results to the standard output, all in C order.
///
/// A call: five int32 (function, dtype, rank, number of axes, whether there is a mask), int64 sizes, int32
/// axes, the elements of each input, and the mask. Whatever goes wrong ends the process with a message.

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "swiftmax.h"

enum { SOFTMAX, LOG_SOFTMAX, LOGSUMEXP, SOFTMAX_BACKWARD, LOG_SOFTMAX_BACKWARD };

// There is no libdispatch to link with.

/// One thread takes all pieces.
void dispatch_apply_f(size_t iterations, void *queue, void *context, void (*work)(void *, size_t)) {
    (void)queue;
    for (size_t i = 0; i < iterations; i++)
        work(context, i);
}

void *dispatch_get_global_queue(intptr_t identifier, uintptr_t flags) {
    (void)identifier, (void)flags;
    return NULL;
}

static void (*helper)(void *);

static void *help(void *context) {
    helper(context);
    return NULL;
}

void dispatch_async_f(void *queue, void *context, void (*work)(void *)) {
    (void)queue;
    helper = work;
    pthread_t thread;
    if (pthread_create(&thread, NULL, help, context) == 0)
        pthread_detach(thread);
}

static void fail(const char *message) {
    fprintf(stderr, "%s\n", message);
    exit(1);
}

static void read_all(void *destination, size_t bytes) {
    if (fread(destination, 1, bytes, stdin) != bytes)
        fail("the input ends within a call");
}

/// An array in C order with memory of its own; `sizes` and `steps` must outlive it.
static swiftmax_array array(int32_t dtype, int32_t rank, const int64_t *sizes, int64_t *steps,
                            size_t *bytes) {
    int64_t step = dtype == SWIFTMAX_FLOAT64   ? 8
                   : dtype == SWIFTMAX_FLOAT32 ? 4
                   : dtype == SWIFTMAX_BOOL    ? 1
                                               : 2;
    for (int32_t i = rank - 1; i >= 0; i--) {
        steps[i] = step;
        step *= sizes[i];
    }
    *bytes = (size_t)step;
    void *data = malloc(*bytes + 1);
    if (data == NULL)
        fail("no memory");
    return (swiftmax_array){data, sizes, steps, rank, dtype};
}

static int32_t call(int32_t function, const swiftmax_array *inputs, const swiftmax_array *out,
                    const int32_t *axes, int32_t axis_count, const swiftmax_array *where) {
    switch (function) {
    case SOFTMAX:
        return swiftmax_softmax(&inputs[0], out, axes, axis_count, where);
    case LOG_SOFTMAX:
        return swiftmax_log_softmax(&inputs[0], out, axes, axis_count, where);
    case LOGSUMEXP:
        return swiftmax_logsumexp(&inputs[0], out, axes, axis_count, where);
    case SOFTMAX_BACKWARD:
        return swiftmax_softmax_backward(&inputs[0], &inputs[1], out, axes, axis_count);
    case LOG_SOFTMAX_BACKWARD:
        return swiftmax_log_softmax_backward(&inputs[0], &inputs[1], out, axes, axis_count);
    default:
        fail("no such function");
        return 0;
    }
}

int main(void) {
    int32_t head[5];
    while (fread(head, 1, sizeof head, stdin) == sizeof head) {
        int32_t function = head[0], dtype = head[1], rank = head[2], axis_count = head[3], has_mask = head[4];
        int64_t sizes[SWIFTMAX_MAX_RANK], steps[SWIFTMAX_MAX_RANK];
        int64_t out_sizes[SWIFTMAX_MAX_RANK], out_steps[SWIFTMAX_MAX_RANK], mask_steps[SWIFTMAX_MAX_RANK];
        int32_t axes[SWIFTMAX_MAX_RANK];
        if (rank < 0 || rank > SWIFTMAX_MAX_RANK || axis_count < 0 || axis_count > rank)
            fail("not a call");
        read_all(sizes, (size_t)rank * sizeof *sizes);
        read_all(axes, (size_t)axis_count * sizeof *axes);

        swiftmax_array inputs[2] = {{0}}, mask = {0};
        size_t bytes;
        int32_t input_count = function < SOFTMAX_BACKWARD ? 1 : 2;
        for (int32_t i = 0; i < input_count; i++) {
            inputs[i] = array(dtype, rank, sizes, steps, &bytes);
            read_all(inputs[i].data, bytes);
        }
        if (has_mask) {
            mask = array(SWIFTMAX_BOOL, rank, sizes, mask_steps, &bytes);
            read_all(mask.data, bytes);
        }
        for (int32_t i = 0; i < rank; i++)
            out_sizes[i] = sizes[i];
        if (function == LOGSUMEXP)
            for (int32_t i = 0; i < axis_count; i++)
                out_sizes[axes[i] < 0 ? axes[i] + rank : axes[i]] = 1;
        swiftmax_array out = array(dtype, rank, out_sizes, out_steps, &bytes);

        int32_t status = call(function, inputs, &out, axes, axis_count, has_mask ? &mask : NULL);
        if (status != SWIFTMAX_OK)
            fail(swiftmax_status_message(status));
        fwrite(out.data, 1, bytes, stdout);
        free(inputs[0].data);
        free(inputs[1].data);
        free(mask.data);
        free(out.data);
    }
    return ferror(stdout) || fflush(stdout) != 0;
}
