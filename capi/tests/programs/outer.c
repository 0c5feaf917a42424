/* A library that loads another one, which lies in a folder that only this one's RUNPATH names. */
#define _GNU_SOURCE
#include <dlfcn.h>

void *find_inner(void) {
    void *inner = dlopen("plug_in_c", RTLD_NOW | RTLD_DEEPBIND);
    return inner ? dlsym(inner, "make") : 0;
}
