/* What must not be done, one thing a run: the first argument says which. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*volatile v_malloc)(size_t) = malloc;
static void *(*volatile v_realloc)(void *, size_t) = realloc;
static void (*volatile v_free)(void *) = free;

/* Enough of one size that every magazine of it is flushed. */
static void flush(size_t bytes) {
    enum { BLOCKS = 5000 };
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) blocks[i] = v_malloc(bytes);
    for (int i = 0; i < BLOCKS; i++) v_free(blocks[i]);
    malloc_trim(0);
}

int main(int count, char **arguments) {
    const char *which = count > 1 ? arguments[1] : "";
    static char mine[64];
    char *small = v_malloc(100), *large = v_malloc(500000);
    if (strcmp(which, "twice-small") == 0) {
        v_free(small);
        flush(100);
        v_free(small);
        flush(100);
    } else if (strcmp(which, "twice-large") == 0) {
        v_free(large);
        v_free(large);
    } else if (strcmp(which, "foreign") == 0) {
        v_free(mine);
    } else if (strcmp(which, "foreign-realloc") == 0) {
        v_realloc(mine, 100);
    } else if (strcmp(which, "inside-small") == 0) {
        v_free(small + 16);
        flush(100);
    } else if (strcmp(which, "inside-large") == 0) {
        v_free(large + 100);
    } else {
        v_free(small);
        v_free(large);
        return 0;
    }
    puts("nobody noticed");
    return 0;
}
