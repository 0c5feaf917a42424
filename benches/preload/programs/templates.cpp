// The standard library's templates, as C++ programs use them.
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

template <int N> struct Key {
    int parts[N];
    bool operator<(const Key &other) const { return std::lexicographical_compare(parts, parts + N, other.parts, other.parts + N); }
};
template <int N> long work(const std::vector<std::string> &words) {
    std::map<Key<N>, std::shared_ptr<std::vector<std::string>>> groups;
    std::unordered_map<std::string, std::function<long(long)>> calls;
    for (const auto &word : words) {
        Key<N> key{};
        for (int i = 0; i < N; i++) key.parts[i] = word.empty() ? i : word[i % word.size()];
        auto &group = groups[key];
        if (!group) group = std::make_shared<std::vector<std::string>>();
        group->push_back(word + std::to_string(N));
        calls[word] = [n = group->size()](long x) { return x * N + long(n); };
    }
    long sum = 0;
    for (auto &[key, group] : groups) {
        std::sort(group->begin(), group->end());
        sum += long(group->size()) * key.parts[0];
    }
    for (auto &[word, call] : calls) sum = call(sum);
    return sum;
}
long all(const std::vector<std::string> &words) { return work<1>(words) + work<2>(words) + work<3>(words); }
