/* Takes enough that the system is asked for memory and advised, and frees enough that it goes back; all advice is refused (see who runs this):
   nobody may hear of that. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*volatile v_malloc)(size_t) = malloc;
static void (*volatile v_free)(void *) = free;

int main(void) {
    static const size_t sizes[] = {100, 3000, 30000, 200000, 5000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t blocks = 150000000 / sizes[i];
        errno = 77;
        void **all = v_malloc(blocks * sizeof *all);
        for (size_t j = 0; j < blocks; j++) {
            all[j] = v_malloc(sizes[i]);
            if (errno != 77) {
                printf("malloc set errno to %d: %s\n", errno, strerror(errno));
                return 1;
            }
        }
        for (size_t j = 0; j < blocks; j++) {
            v_free(all[j]);
            if (errno != 77) {
                printf("free set errno to %d: %s\n", errno, strerror(errno));
                return 1;
            }
        }
        v_free(all);
    }
    puts("errno stayed");
    return 0;
}
