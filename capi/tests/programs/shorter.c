/* Blocks become shorter where there is no memory for others. Prints "all held" and exits with 0, or says what did not hold. */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void *(*volatile v_malloc)(size_t) = malloc;
static void *(*volatile v_realloc)(void *, size_t) = realloc;
static void (*volatile v_free)(void *) = free;

enum { BLOCKS = 8 };
static const size_t sizes[BLOCKS] = {100, 1000, 5000, 20000, 30000, 100000, 3000000, 50000000};

static int fail(const char *what, size_t from, size_t to) {
    fprintf(stderr, "%s: %zu to %zu (errno %d)\n", what, from, to, errno);
    return 1;
}

/* All that is backed, in blocks of every size. */
static void take_all(void) {
    for (size_t bytes = 1; bytes < 40000; bytes += bytes / 16 + 1)
        while (v_malloc(bytes));
}

int main(void) {
    unsigned char *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = v_malloc(sizes[i]);
        memset(blocks[i], i + 1, sizes[i]);
    }
    struct rlimit none = {1 << 20, RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &none) != 0) return 1;
    for (int i = 0; i < BLOCKS; i++) {
        for (size_t bytes = sizes[i]; bytes > 0; bytes /= 3) {
            take_all();
            if (v_malloc(bytes) != NULL) return fail("there is memory", sizes[i], bytes);
            errno = 77;
            unsigned char *at = v_realloc(blocks[i], bytes);
            if (!at || errno != 77) return fail("not shorter", sizes[i], bytes);
            if (malloc_usable_size(at) < bytes || (uintptr_t)at % 16 != 0) return fail("no room", sizes[i], bytes);
            for (size_t byte = 0; byte < bytes; byte++)
                if (at[byte] != i + 1) return fail("other bytes", sizes[i], bytes);
            blocks[i] = at;
        }
        memset(blocks[i], 0, malloc_usable_size(blocks[i]));
    }
    for (int i = 0; i < BLOCKS; i++) v_free(blocks[i]);
    malloc_trim(0);
    puts("all held");
    return 0;
}
