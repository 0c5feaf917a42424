/* A program that asks the heap for nothing before the C library does, for its list of what runs around forks. */
#include <pthread.h>
#include <unistd.h>

static void nothing(void) {
}

int main(void) {
    for (int i = 0; i < 200; i++)
        if (pthread_atfork(nothing, nothing, nothing)) return 1;
    return write(1, "registered\n", 11) != 11;
}
