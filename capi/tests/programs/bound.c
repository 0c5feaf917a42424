/* Exchanges blocks with a library that prefers its own libraries' functions to the program's, as PHP has its extensions do. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *make_type(size_t);
typedef void unmake_type(void *);
typedef void *outer_type(void);

int main(int count, char **names) {
    if (count != 3) return 2;
    void *plug_in = dlopen(names[1], RTLD_NOW | RTLD_DEEPBIND);
    if (!plug_in) return fprintf(stderr, "%s\n", dlerror()), 3;
    make_type *make = (make_type *)dlsym(plug_in, "make");
    unmake_type *unmake = (unmake_type *)dlsym(plug_in, "unmake");
    for (size_t bytes = 1; bytes < 10 << 20; bytes = bytes * 3 + 1) {
        void *ours = malloc(bytes);
        memset(ours, 1, bytes);
        unmake(ours);
        free(make(bytes));
    }
    puts("exchanged");
    /* A library finds what lies in its own folders, which the program knows nothing of. */
    void *outer = dlopen(names[2], RTLD_NOW);
    if (!outer) return fprintf(stderr, "%s\n", dlerror()), 4;
    outer_type *find = (outer_type *)dlsym(outer, "find_inner");
    puts(find() ? "found" : dlerror());
    puts(dlopen("/no/such/library.so", RTLD_NOW | RTLD_DEEPBIND) ? "wrong" : dlerror());
    return 0;
}
