/* A thread comes to the heap first when all memory of the heap is taken, and is told so. Prints "told" and exits with 0. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static void *(*volatile v_malloc)(size_t) = malloc;
static void (*volatile v_free)(void *) = free;
static pthread_barrier_t barrier;

static void *first_comes_late(void *unused) {
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    for (int i = 0; i < 3; i++) {
        errno = 0;
        if (v_malloc(100) != NULL || errno != ENOMEM) return "had one";
    }
    errno = 77;
    v_free(unused);
    if (errno != 77) return "errno";
    /* What was given back can be had. */
    void *at = v_malloc(100);
    return at ? "told" : "lost";
}

int main(void) {
    pthread_t thread;
    void *given = v_malloc(100), *said;
    if (pthread_barrier_init(&barrier, NULL, 2) != 0 || pthread_create(&thread, NULL, first_comes_late, given) != 0) return 1;
    pthread_barrier_wait(&barrier);
    for (size_t bytes = 1; bytes < 40000; bytes += bytes / 16 + 1)
        while (v_malloc(bytes));
    pthread_barrier_wait(&barrier);
    pthread_join(thread, &said);
    /* Room for what is printed. */
    static char room[BUFSIZ];
    setvbuf(stdout, room, _IOFBF, sizeof room);
    puts(said);
    return 0;
}
