/* A block is freed twice, and who handles the abort takes blocks: each is handed out once. Prints "distinct" and exits with 0. */
#include <malloc.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *(*volatile v_malloc)(size_t) = malloc;
static void (*volatile v_free)(void *) = free;

enum { BLOCKS = 20000, BYTES = 100 };
static int *blocks[BLOCKS];

static void say(const char *what, int code) {
    if (write(1, what, strlen(what)) < 0) code = 1;
    _exit(code);
}

static void handle(int signal) {
    (void)signal;
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i] = v_malloc(BYTES);
        if (!blocks[i]) say("none\n", 1);
        *blocks[i] = i;
    }
    for (int i = 0; i < BLOCKS; i++)
        if (*blocks[i] != i) say("one block twice\n", 1);
    for (int i = 0; i < BLOCKS; i++) v_free(blocks[i]);
    say("distinct\n", 0);
}

int main(void) {
    signal(SIGABRT, handle);
    for (int i = 0; i < BLOCKS; i++) blocks[i] = v_malloc(BYTES);
    void *twice = blocks[0];
    v_free(twice);
    malloc_trim(0);
    /* In no order, so that all slabs stay. Of a class of which little is in use what comes back goes to the slabs a few at a time;
       one of those is there already. */
    for (int i = 1; i < BLOCKS; i++) {
        v_free(blocks[i * 7919 % BLOCKS]);
        if (i == BLOCKS - 1000) v_free(twice);
    }
    say("nobody noticed\n", 1);
}
