/* `operator new` in a program that has no C++ library. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <dlfcn.h>

int main(int count, char **arguments) {
    volatile size_t huge = (size_t)1 << 50;
    if (count > 1 && strcmp(arguments[1], "throws") == 0) {
        void *(*make)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
        make(huge);
        puts("it returned");
        return 1;
    }
    void *(*make)(size_t, const void *) = (void *(*)(size_t, const void *))dlsym(RTLD_DEFAULT, "_ZnwmRKSt9nothrow_t");
    puts(make(huge, "") ? "a block" : "null");
    return 0;
}
