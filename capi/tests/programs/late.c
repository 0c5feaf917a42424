/* Threads that come to the heap first when they are nearly gone: in the destructor of a key. */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { STACK = 256 << 10, THREADS = 1000 };

static pthread_key_t key;

static void *work(void *block) {
    pthread_setspecific(key, block);
    return NULL;
}

static void run_one(pthread_attr_t *how) {
    pthread_t thread;
    if (pthread_create(&thread, how, work, malloc(100)) || pthread_join(thread, NULL)) abort();
}

static long resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*d %ld", &pages) != 1) abort();
    fclose(file);
    return pages * 4;
}

int main(void) {
    if (pthread_key_create(&key, free)) abort();
    pthread_attr_t how;
    pthread_attr_init(&how);
    unsigned char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED || pthread_attr_setstack(&how, stack, STACK)) abort();
    run_one(&how);
    memset(stack, 0xAA, STACK);
    malloc_trim(0);
    size_t overwritten = 0;
    for (size_t i = 0; i < STACK; i++) overwritten += stack[i] != 0xAA;
    long before = resident_kib();
    for (int i = 0; i < THREADS; i++) run_one(&how);
    long more = resident_kib() - before;
    if (overwritten || more > 4 << 10) {
        printf("%zu bytes of a stack that is free were overwritten, %ld KiB more are resident\n", overwritten, more);
        return 1;
    }
    puts("gone");
    return 0;
}
