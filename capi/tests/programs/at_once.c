/* What the hardened heap tells at the call itself: after each wrong call the program would end well. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    const char *volatile what = argc > 1 ? argv[1] : "";
    char *volatile at = malloc(24);
    char *volatile other = malloc(24);
    if (!at || !other)
        return 2;
    if (!strcmp(what, "twice")) {
        free(at);
        free(at);
    } else if (!strcmp(what, "behind")) {
        memset(at, 0, 25);
        free(at);
    } else if (!strcmp(what, "behind-realloc")) {
        memset(at, 'x', 25);
        at = realloc(at, 1000);
    } else if (!strcmp(what, "inside")) {
        free(at + 8);
    } else if (!strcmp(what, "large")) {
        char *volatile large = malloc(1 << 20);
        if (!large)
            return 2;
        large[1 << 20] = 1;
        free(large);
    } else {
        memset(at, 1, 24);
        free(at);
    }
    /* Not at exit: nothing of the heap's is called any more. */
    _exit(0);
}
