/* A library that a program loads when it runs. */
#include <stdlib.h>
#include <string.h>

static void *own;
__attribute__((constructor)) static void loaded(void) { own = malloc(5000); }
__attribute__((destructor)) static void unloaded(void) { free(own); }

void *make(size_t bytes) {
    static __thread char kept[100];
    memset(kept, 1, sizeof kept);
    void *at = malloc(bytes);
    if (at) memset(at, 6, bytes);
    return at;
}

void unmake(void *at) { free(at); }
