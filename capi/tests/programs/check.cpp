// operator new and operator delete in all forms, what they throw, and the library on top of them.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#define CHECK(holds)                                                                                                   \
    do {                                                                                                               \
        if (!(holds)) {                                                                                                \
            std::fprintf(stderr, "check.cpp:%d: %s does not hold\n", __LINE__, #holds);                                \
            std::_Exit(1);                                                                                             \
        }                                                                                                              \
    } while (0)

static bool aligned(const void *at, std::size_t align) { return at && reinterpret_cast<std::uintptr_t>(at) % align == 0; }

static bool ours(const char *symbol) {
    Dl_info info;
    void *at = dlsym(RTLD_DEFAULT, symbol);
    bool is = at && dladdr(at, &info) && std::strstr(info.dli_fname, "libdemocratising");
    if (!is) std::fprintf(stderr, "%s is somebody else's\n", symbol);
    return is;
}

static const char *const SYMBOLS[] = {
    "_Znwm", "_Znam", "_ZnwmRKSt9nothrow_t", "_ZnamRKSt9nothrow_t", "_ZnwmSt11align_val_t", "_ZnamSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t", "_ZnamSt11align_val_tRKSt9nothrow_t", "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm",
    "_ZdlPvRKSt9nothrow_t", "_ZdaPvRKSt9nothrow_t", "_ZdlPvSt11align_val_t", "_ZdaPvSt11align_val_t", "_ZdlPvmSt11align_val_t",
    "_ZdaPvmSt11align_val_t", "_ZdlPvSt11align_val_tRKSt9nothrow_t", "_ZdaPvSt11align_val_tRKSt9nothrow_t",
};

// Volatile, so that no pair of new and delete is left out.
static volatile std::size_t more = 0;
static void *volatile sink;

static void every_form() {
    for (std::size_t bytes : {0, 1, 24, 1000, 32768, 40000, 3000000}) {
        for (std::size_t align : {8, 16, 64, 4096, 1 << 21}) {
            const std::align_val_t to{align};
            std::size_t n = bytes + more;
            void *a[] = {
                ::operator new(n), ::operator new(n, std::nothrow), ::operator new(n, to), ::operator new(n, to, std::nothrow),
                ::operator new[](n), ::operator new[](n, std::nothrow), ::operator new[](n, to), ::operator new[](n, to, std::nothrow),
                ::operator new(n), ::operator new[](n), ::operator new(n, to), ::operator new[](n, to),
            };
            int i = 0;
            for (void *at : a) {
                bool over = i == 2 || i == 3 || i == 6 || i == 7 || i >= 10;
                CHECK(aligned(at, over ? align : 16));
                std::memset(at, i++, n);
            }
            ::operator delete(a[0]);
            ::operator delete(a[1], std::nothrow);
            ::operator delete(a[2], to);
            ::operator delete(a[3], to, std::nothrow);
            ::operator delete[](a[4]);
            ::operator delete[](a[5], std::nothrow);
            ::operator delete[](a[6], to);
            ::operator delete[](a[7], to, std::nothrow);
            ::operator delete(a[8], n);
            ::operator delete[](a[9], n);
            ::operator delete(a[10], n, to);
            ::operator delete[](a[11], n, to);
        }
    }
    ::operator delete(nullptr);
}

template <class F> static bool throws_bad_alloc(F &&make) {
    try {
        // An object whose destructor must run while the exception passes.
        auto guard = std::make_unique<std::string>(100, 'x');
        make();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

static int calls;
static void gives_up() {
    if (++calls == 3) std::set_new_handler(nullptr);
}
static void throws() {
    ++calls;
    throw std::bad_alloc();
}
static void throws_otherwise() { throw std::runtime_error("no more"); }

static void without_memory() {
    const std::size_t huge = (std::size_t(1) << 50) + more;
    const std::align_val_t to{64};
    CHECK(throws_bad_alloc([&] { sink = ::operator new(huge); }));
    CHECK(throws_bad_alloc([&] { sink = ::operator new[](huge); }));
    CHECK(throws_bad_alloc([&] { sink = ::operator new(huge, to); }));
    CHECK(throws_bad_alloc([&] { sink = ::operator new[](huge, to); }));
    CHECK(throws_bad_alloc([&] { sink = ::operator new(std::size_t(-1) - more); }));
    CHECK(throws_bad_alloc([&] { std::vector<char> large(huge); }));
    CHECK(::operator new(huge, std::nothrow) == nullptr && ::operator new[](huge, std::nothrow) == nullptr);
    CHECK(::operator new(huge, to, std::nothrow) == nullptr && ::operator new[](huge, to, std::nothrow) == nullptr);
    // The handler is called again and again until it gives up.
    std::set_new_handler(gives_up);
    CHECK(throws_bad_alloc([&] { sink = ::operator new(huge); }) && calls == 3);
    calls = 0;
    std::set_new_handler(gives_up);
    CHECK(::operator new(huge, std::nothrow) == nullptr && calls == 3);
    std::set_new_handler(throws);
    calls = 0;
    CHECK(throws_bad_alloc([&] { sink = ::operator new[](huge, to); }) && calls == 1);
    std::set_new_handler(throws_otherwise);
    try {
        sink = ::operator new(huge);
        CHECK(false);
    } catch (const std::runtime_error &error) {
        CHECK(std::string(error.what()) == "no more");
    }
    std::set_new_handler(nullptr);
}

struct alignas(256) Wide {
    char bytes[300];
};

static void the_library() {
    std::map<std::string, std::vector<int>> ordered;
    std::unordered_map<int, std::string> hashed;
    for (int i = 0; i < 20000; i++) {
        ordered["key " + std::to_string(i % 3000)].push_back(i);
        hashed[i] = std::string(i % 300, 'a');
    }
    std::size_t sum = 0;
    for (const auto &[key, values] : ordered) sum += key.size() + values.size();
    CHECK(ordered.size() == 3000 && sum == 20000 + 3000 * 4 + 10 + 90 * 2 + 900 * 3 + 2000 * 4 && hashed[299].size() == 299);
    std::vector<std::unique_ptr<Wide>> wide;
    for (int i = 0; i < 500; i++) {
        wide.push_back(std::make_unique<Wide>());
        CHECK(aligned(wide.back().get(), 256));
    }
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; t++) {
        threads.emplace_back([t] {
            static thread_local std::vector<std::string> late;
            for (int i = 0; i < 2000; i++) late.push_back(std::string(t * 100 + i % 100, 'b'));
        });
    }
    for (auto &thread : threads) thread.join();
    auto shared = std::make_shared<std::string>("shared");
    std::thread([copy = shared]() mutable { copy.reset(); }).join();
    CHECK(shared.use_count() == 1);
}

// Freed when the program ends, after main.
static std::map<int, std::string> *kept = new std::map<int, std::string>;
static std::map<int, std::string> statics;

int main() {
    for (const char *symbol : SYMBOLS) CHECK(ours(symbol));
    every_form();
    without_memory();
    the_library();
    for (int i = 0; i < 1000; i++) statics[i] = (*kept)[i] = std::string(i, 'c');
    delete kept;
    std::puts("all held");
}
