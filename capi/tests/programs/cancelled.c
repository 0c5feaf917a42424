/* What a thread does that is to be cancelled at the next place where that can be: the first argument says which. Nothing here is one. */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*volatile v_malloc)(size_t) = malloc;
static void (*volatile v_free)(void *) = free;

static int cleaned;
static void clean(void *unused) {
    (void)unused;
    cleaned = 1;
}

static void *work(void *which) {
    pthread_cleanup_push(clean, NULL);
    pthread_cancel(pthread_self());
    if (strcmp(which, "misuse") == 0) {
        void *large = v_malloc(500000);
        v_free(large);
        v_free(large);
    } else if (strcmp(which, "info") == 0) {
        if (malloc_info(0, stderr) != 0) abort();
    } else {
        malloc_stats();
    }
    pthread_testcancel();
    pthread_cleanup_pop(0);
    return NULL;
}

int main(int count, char **arguments) {
    pthread_t thread;
    void *ended;
    if (count < 2 || pthread_create(&thread, NULL, work, arguments[1]) != 0) return 1;
    pthread_join(thread, &ended);
    printf("%scancelled, %scleaned\n", ended == PTHREAD_CANCELED ? "" : "not ", cleaned ? "" : "not ");
    return 0;
}
