/* Every function of malloc's family as a program sees it: what it gives, what it refuses and how, in threads, forks, plug-ins,
   constructors and destructors. Prints "all held" and exits with 0, or says what did not hold. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(holds)                                                                                                   \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            char text[300];                                                                                            \
            int length = snprintf(text, sizeof text, "check.c:%d: %s does not hold (errno %d)\n", __LINE__, #holds, errno); \
            if (write(2, text, length) != length) abort();                                                             \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* The compiler knows these functions, and would leave calls out whose results it thinks it knows. */
static void *(*volatile v_malloc)(size_t) = malloc;
static void *(*volatile v_calloc)(size_t, size_t) = calloc;
static void *(*volatile v_realloc)(void *, size_t) = realloc;
static int (*volatile v_posix_memalign)(void **, size_t, size_t) = posix_memalign;
static void (*volatile v_free)(void *) = free;
static void *(*volatile v_reallocarray)(void *, size_t, size_t) = reallocarray;
static void *(*volatile v_aligned_alloc)(size_t, size_t) = aligned_alloc;

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static int aligned(const void *at, size_t align) { return at && (uintptr_t)at % align == 0; }

static int all(const void *at, unsigned char byte, size_t bytes) {
    const unsigned char *place = at;
    for (size_t i = 0; i < bytes; i++)
        if (place[i] != byte) return 0;
    return 1;
}

static void *early;
__attribute__((constructor)) static void before_main(void) {
    early = v_malloc(1000);
    memset(early, 3, 1000);
}

__attribute__((destructor)) static void after_main(void) {
    void *late = v_malloc(5000);
    CHECK(late);
    v_free(late);
    v_free(early);
}

static void basics(void) {
    static const size_t sizes[] = {0, 1, 8, 15, 16, 17, 100, 1024, 4095, 4096, 8193, 32768, 32769, 65536, 1000000, 40000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t bytes = sizes[i];
        errno = 77;
        unsigned char *a = v_malloc(bytes), *b = v_malloc(bytes);
        CHECK(aligned(a, 16) && aligned(b, 16) && a != b);
        size_t usable = malloc_usable_size(a);
        CHECK(usable >= bytes && usable <= bytes + bytes / 4 + 16400);
        memset(a, 0xaa, usable);
        memset(b, 0xbb, malloc_usable_size(b));
        CHECK(all(a, 0xaa, usable) && all(b, 0xbb, malloc_usable_size(b)));
        v_free(a);
        v_free(b);
        unsigned char *zeros = v_calloc(bytes ? bytes : 1, 1);
        CHECK(aligned(zeros, 16) && all(zeros, 0, bytes));
        memset(zeros, 0xff, bytes);
        v_free(zeros);
        zeros = v_calloc(1, bytes);
        CHECK(aligned(zeros, 16) && all(zeros, 0, bytes));
        v_free(zeros);
        CHECK(errno == 77);
    }
    v_free(NULL);
    CHECK(malloc_usable_size(NULL) == 0);
    CHECK(all(early, 3, 1000));
}

static void refusals(void) {
    static const size_t huge[] = {SIZE_MAX, SIZE_MAX - 15, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX, PTRDIFF_MAX - 15, (size_t)1 << 50};
    void *block = v_malloc(100);
    memset(block, 5, 100);
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        size_t bytes = huge[i];
#define REFUSES(call)                                                                                                  \
    errno = 0;                                                                                                         \
    CHECK((call) == NULL && errno == ENOMEM)
        REFUSES(v_malloc(bytes));
        REFUSES(v_calloc(1, bytes));
        REFUSES(v_realloc(NULL, bytes));
        REFUSES(v_realloc(block, bytes));
        REFUSES(v_aligned_alloc(64, bytes));
        REFUSES(memalign(64, bytes));
        REFUSES(valloc(bytes));
        REFUSES(pvalloc(bytes));
        REFUSES(v_reallocarray(block, 1, bytes));
        void *place = &place;
        errno = 77;
        CHECK(v_posix_memalign(&place, 64, bytes) == ENOMEM && place == &place && errno == 77);
    }
    REFUSES(v_calloc(SIZE_MAX / 2, 3));
    REFUSES(v_calloc((size_t)1 << 32, (size_t)1 << 32));
    REFUSES(v_reallocarray(block, (size_t)1 << 32, (size_t)1 << 32));
    CHECK(all(block, 5, 100));
    v_free(block);
}

static void alignments(void) {
    static const size_t sizes[] = {0, 1, 24, 100, 5000, 40000, 300000};
    for (size_t align = 1; align <= (size_t)1 << 24; align *= 2) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            void *at = v_aligned_alloc(align, sizes[i]), *other = memalign(align, sizes[i]), *third = NULL;
            CHECK(aligned(at, align) && aligned(other, align) && at != other);
            memset(at, 1, malloc_usable_size(at));
            memset(other, 2, malloc_usable_size(other));
            if (align >= sizeof(void *)) {
                CHECK(v_posix_memalign(&third, align, sizes[i]) == 0 && aligned(third, align));
                memset(third, 3, malloc_usable_size(third));
            }
            CHECK(all(at, 1, malloc_usable_size(at)) && all(other, 2, malloc_usable_size(other)));
            v_free(at);
            v_free(third);
            /* A block keeps its contents when it moves, whatever its alignment was. */
            other = v_realloc(other, sizes[i] + 100000);
            CHECK(aligned(other, 16) && all(other, 2, sizes[i]));
            v_free(other);
        }
    }
    static const size_t wrong[] = {0, 3, 24, 1000, SIZE_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        void *place = &place;
        errno = 77;
        CHECK(v_posix_memalign(&place, wrong[i], 10) == EINVAL && place == &place && errno == 77);
        errno = 0;
        CHECK(v_aligned_alloc(wrong[i], 10) == NULL && errno == EINVAL);
    }
    void *place = &place;
    CHECK(v_posix_memalign(&place, 4, 10) == EINVAL && place == &place);
    errno = 0;
    CHECK(memalign(SIZE_MAX, 10) == NULL && errno == EINVAL);
    place = memalign(48, 10);
    CHECK(aligned(place, 64));
    v_free(place);
    long page = sysconf(_SC_PAGESIZE);
    void *pages = valloc(100), *whole = pvalloc(page + 1), *none = pvalloc(0);
    CHECK(aligned(pages, page) && aligned(whole, page) && aligned(none, page));
    CHECK(malloc_usable_size(whole) >= (size_t)page * 2);
    v_free(pages);
    v_free(whole);
    v_free(none);
}

static void sizes_that_change(void) {
    unsigned char *at = v_realloc(NULL, 10);
    CHECK(aligned(at, 16));
    size_t had = 10;
    memset(at, 9, had);
    unsigned state = 1;
    for (int turn = 0; turn < 3000; turn++) {
        state = state * 1103515245 + 12345;
        size_t wants = (state >> 8) % (turn % 10 == 0 ? 2000000 : 3000) + 1;
        at = turn % 2 ? v_realloc(at, wants) : v_reallocarray(at, wants, 1);
        CHECK(aligned(at, 16) && malloc_usable_size(at) >= wants);
        CHECK(all(at, 9, had < wants ? had : wants));
        memset(at, 9, wants);
        had = wants;
    }
    /* As in the GNU C library. */
    errno = 77;
    CHECK(v_realloc(at, 0) == NULL && errno == 77);
    void *least = v_realloc(NULL, 0);
    CHECK(least);
    v_free(least);
}

static void the_librarys_own(void) {
    void *blocks[] = {__libc_malloc(100), __libc_calloc(10, 10), __libc_realloc(NULL, 100), __libc_memalign(64, 100)};
    for (int i = 0; i < 4; i++) {
        CHECK(blocks[i]);
        i % 2 ? v_free(blocks[i]) : __libc_free(blocks[i]);
    }
    char *copy = strdup("a copy"), *line = NULL, *text = NULL;
    CHECK(strcmp(copy, "a copy") == 0 && asprintf(&text, "%0500d", 7) == 500);
    v_free(copy);
    v_free(text);
    FILE *file = tmpfile();
    CHECK(file && fputs("one\ntwo and more\n", file) >= 0);
    rewind(file);
    size_t room = 0;
    CHECK(getline(&line, &room, file) == 4 && getline(&line, &room, file) == 13);
    v_free(line);
    fclose(file);
    CHECK(malloc_trim(0) >= 0);
    void *kept = v_malloc(3000000);
    CHECK(mallinfo2().uordblks >= 3000000 && mallinfo2().arena >= mallinfo2().uordblks);
    v_free(kept);
    char *xml = NULL;
    size_t xml_bytes = 0;
    file = open_memstream(&xml, &xml_bytes);
    CHECK(file && malloc_info(1, file) == EINVAL && malloc_info(0, file) == 0 && fclose(file) == 0);
    static const char head[] = "<malloc version=\"1\">\n<heap nr=\"0\">\n", tail[] = "</malloc>\n", current[] = "<system type=\"current\" size=\"";
    CHECK(strncmp(xml, head, sizeof head - 1) == 0 && strcmp(xml + xml_bytes - (sizeof tail - 1), tail) == 0);
    char *backed = strstr(xml, current);
    CHECK(backed && strtoull(backed + sizeof current - 1, NULL, 10) > 0);
    v_free(xml);
}

enum { THREADS = 4, SLOTS = 2000, TURNS = 60000 };

/* Blocks that threads hand each other: whoever takes one out frees it. */
static void *volatile exchange[SLOTS];
static pthread_key_t key;

static void at_the_end(void *block) {
    void *more = v_malloc(300);
    CHECK(more);
    v_free(more);
    v_free(block);
}

static void *work(void *number) {
    unsigned state = (unsigned)(uintptr_t)number * 2654435761u + 1;
    pthread_setspecific(key, v_malloc(64));
    for (int turn = 0; turn < TURNS; turn++) {
        state = state * 1103515245 + 12345;
        size_t bytes = 8 + (state >> 8) % (turn % 500 == 0 ? 200000 : 2000);
        unsigned char *mine = v_malloc(bytes);
        CHECK(mine);
        *(size_t *)mine = bytes;
        memset(mine + 8, (int)(bytes & 0xff), bytes - 8);
        unsigned char *other = __atomic_exchange_n(&exchange[(state >> 4) % SLOTS], mine, __ATOMIC_ACQ_REL);
        if (other) {
            bytes = *(size_t *)other;
            CHECK(malloc_usable_size(other) >= bytes && all(other + 8, (unsigned char)bytes, bytes - 8));
            v_free(other);
        }
    }
    return NULL;
}

static void threads_that_hand_blocks_over(void) {
    CHECK(pthread_key_create(&key, at_the_end) == 0);
    for (int round = 0; round < 3; round++) {
        pthread_t threads[THREADS];
        for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    }
    for (int i = 0; i < SLOTS; i++) v_free(exchange[i]);
}

static volatile int going = 1;

static void *churn(void *unused) {
    while (going) {
        void *blocks[100];
        for (int i = 0; i < 100; i++) blocks[i] = v_malloc((size_t)(i + 1) * (i + 1) * 4);
        for (int i = 0; i < 100; i++) v_free(blocks[i]);
        /* More of one size than a thread keeps for itself. */
        void *many[600];
        for (int turn = 0; turn < 20; turn++) {
            for (int i = 0; i < 600; i++) many[i] = v_malloc(64);
            for (int i = 0; i < 600; i++) v_free(many[i]);
        }
    }
    return unused;
}

static void children_of_busy_threads(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, churn, NULL) == 0);
    for (int round = 0; round < 60; round++) {
        char *inherited = strdup("of the parent");
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            alarm(20);
            going = 0;
            churn(NULL);
            for (int i = 1; i < 300; i++) {
                void *block = v_calloc(i, i);
                CHECK(block);
                v_free(block);
            }
            CHECK(strcmp(inherited, "of the parent") == 0);
            v_free(inherited);
            /* A child may have threads and children too. */
            if (round % 10 == 0) {
                pthread_t thread;
                CHECK(pthread_create(&thread, NULL, churn, NULL) == 0 && pthread_join(thread, NULL) == 0);
                pid_t grandchild = fork();
                if (grandchild == 0) _exit(v_malloc(100) ? 0 : 1);
                int status;
                CHECK(waitpid(grandchild, &status, 0) == grandchild && status == 0);
            }
            _exit(0);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && status == 0);
        v_free(inherited);
    }
    going = 0;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
}

static void a_plug_in(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    void *(*make)(size_t) = (void *(*)(size_t))dlsym(library, "make");
    void (*unmake)(void *) = (void (*)(void *))dlsym(library, "unmake");
    CHECK(make && unmake);
    void *theirs = make(200);
    CHECK(all(theirs, 6, 200) && malloc_usable_size(theirs) >= 200);
    v_free(theirs);
    unmake(v_malloc(70000));
    CHECK(dlclose(library) == 0);
}

int main(int count, char **arguments) {
    /* Whose functions these are: a test of the C library's own would prove nothing. */
    Dl_info info;
    CHECK(dladdr((void *)(uintptr_t)v_malloc, &info) && strstr(info.dli_fname, "libdemocratising"));
    CHECK(dladdr(dlsym(RTLD_DEFAULT, "pvalloc"), &info) && strstr(info.dli_fname, "libdemocratising"));
    basics();
    refusals();
    alignments();
    sizes_that_change();
    the_librarys_own();
    threads_that_hand_blocks_over();
    children_of_busy_threads();
    if (count > 1) a_plug_in(arguments[1]);
    puts("all held");
    return 0;
}
