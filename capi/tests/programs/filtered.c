/* May call what systemd lets services have (its set `@system-service`) and programs like this one need, and is ended by the kernel for
   any other call. Prints "all held". */
#define _GNU_SOURCE
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const unsigned allowed[] = {
    SYS_brk, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_mremap, SYS_madvise, SYS_mlock2, SYS_munlock, SYS_openat,
    SYS_read, SYS_lseek, SYS_write, SYS_close, SYS_prlimit64, SYS_sysinfo, SYS_membarrier, SYS_getpid,
    SYS_gettid, SYS_tgkill, SYS_futex, SYS_sched_yield, SYS_clock_gettime, SYS_clock_nanosleep, SYS_nanosleep,
    SYS_getrandom, SYS_clone, SYS_clone3, SYS_rseq, SYS_set_robust_list, SYS_rt_sigaction, SYS_rt_sigprocmask,
    SYS_rt_sigreturn, SYS_exit, SYS_exit_group, SYS_newfstatat, SYS_fstat, SYS_ioctl,
};
enum { ALLOWED = sizeof allowed / sizeof *allowed, BLOCKS = 200000 };

static int filter(void) {
    struct sock_filter lines[ALLOWED + 3];
    unsigned short at = 0;
    lines[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < ALLOWED; i++)
        lines[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, allowed[i], (unsigned char)(ALLOWED - i), 0);
    lines[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    lines[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {at, lines};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* 40 MB of small blocks and a large one, given back. */
static void *work(void *blocks) {
    char **at = blocks;
    for (int i = 0; i < BLOCKS; i++) {
        at[i] = malloc(200);
        if (!at[i]) abort();
        memset(at[i], i, 200);
    }
    char *large = malloc(30 << 20);
    if (!large) abort();
    memset(large, 1, 30 << 20);
    large = realloc(large, 50 << 20);
    if (!large) abort();
    free(large);
    for (int i = 0; i < BLOCKS; i++) free(at[i]);
    return NULL;
}

int main(void) {
    static char *blocks[2][BLOCKS];
    if (!filter()) {
        puts("no filters");
        return 0;
    }
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, blocks[0]) != 0) return 1;
    work(blocks[1]);
    if (pthread_join(thread, NULL) != 0) return 1;
    /* So that what lay idle is given up by time. */
    struct timespec more_than_a_second = {1, 200000000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &more_than_a_second, NULL);
    work(blocks[1]);
    malloc_trim(0);
    puts("all held");
    return 0;
}
