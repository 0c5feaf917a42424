/* Three hundred functions of loops, switches and structures, by the preprocessor. */
struct node { struct node *next; long key, value[4]; char name[16]; };
#define F(n)                                                                                                      \
    static long walk_##n(struct node *at, long limit) {                                                           \
        long sum = n;                                                                                             \
        for (; at && limit > 0; at = at->next, limit--) {                                                         \
            switch ((at->key ^ n) & 7) {                                                                          \
            case 0: sum += at->value[0] * (n + 3); break;                                                         \
            case 1: sum -= at->value[1] >> (n & 15); break;                                                       \
            case 2: for (int i = 0; i < 4; i++) sum ^= at->value[i] + i * n; break;                               \
            case 3: for (int i = 0; i < 16; i++) sum = sum * 31 + at->name[i]; break;                             \
            case 4: sum = at->value[2] ? sum / at->value[2] : sum + n; break;                                     \
            default: at->value[sum & 3] = sum; break;                                                             \
            }                                                                                                     \
        }                                                                                                         \
        return sum;                                                                                               \
    }                                                                                                             \
    long enter_##n(struct node *at) { return walk_##n(at, n * 100 + 7) + (at ? walk_##n(at->next, 5) : 0); }
#define F10(n) F(n##0) F(n##1) F(n##2) F(n##3) F(n##4) F(n##5) F(n##6) F(n##7) F(n##8) F(n##9)
F10(1) F10(2) F10(3) F10(4) F10(5) F10(6) F10(7) F10(8) F10(9)
