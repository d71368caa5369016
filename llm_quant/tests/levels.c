/* The kernels on every level of a processor that has no Python: against sums in double precision, and the levels of Arm
   bit for bit against plain C. Usage: levels NAME..., the levels that have to be here, the best one first.

   Shapes and layouts are those of kernels.h. Each array is no larger than it has to be, for AddressSanitizer. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

const char *llm_quant_level(const char *name);
int llm_quant_linear(int32_t kind, int64_t n, int64_t k, int64_t group, const void *weight, const void *scale,
                     int32_t scale_type, const uint8_t *zero, const float *bias, const void *x, void *y, int64_t m,
                     int32_t type, int32_t threads);
void llm_quant_expand(int32_t kind, int64_t k, int64_t group, const void *weight, const void *scale, int32_t scale_type,
                      const uint8_t *zero, int64_t first, int64_t last, void *out, int32_t type, int32_t threads);
void llm_quant_norm(const void *x, const void *weight, void *y, int64_t m, int64_t c, float eps, int32_t offset,
                    int32_t type);
void llm_quant_gated(const void *gate, const void *up, void *y, int64_t count, int32_t type);
int llm_quant_run(const Op *ops, int64_t count, const int64_t *starts, const int64_t *ends, int32_t threads);
int64_t llm_quant_attend_scratch(const Op *op);

static const double ROUNDED = 0x1p-16, SUMMED = 0x1p-20, NARROW = 0x1p-8;
static const char *now = "portable";
static int failures;

#define CHECK(good, ...) \
    if (!(good) && failures++ < 20) printf("%s: ", now), printf(__VA_ARGS__), printf("\n")

static uint64_t state = 1;

static uint32_t bits(void) { /* xorshift64* */
    state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
    return (uint32_t)(state * 2685821657736338717ull >> 32);
}

static int64_t between(int64_t low, int64_t high) { return low + bits() % (high - low + 1); } /* both inclusive */
static double uniform(void) { return bits() / 4294967296.0; }
static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }

static void *memory(size_t size) {
    void *found = malloc(size ? size : 1);
    if (!found) exit(2);
    return found;
}

static size_t width(int type) { return type == FLOAT32 ? 4 : 2; }

static double get(const void *x, int64_t i, int type) {
    if (type == FLOAT32) return ((const float *)x)[i];
    uint16_t half = ((const uint16_t *)x)[i];
    return type == FLOAT16 ? from_fp16(half) : from_bf16(half);
}

static void *numbers(int64_t count, int type) { /* some a hundred times as large as others, as those of models are */
    void *x = memory(count * width(type));
    for (int64_t i = 0; i < count; i++) put(x, i, (float)(normal() * pow(10, 2 * uniform())), type);
    return x;
}

static int same(const void *a, const void *b, int64_t count, int type) { /* NaN is like any other */
    for (int64_t i = 0; i < count; i++) {
        double first = get(a, i, type), second = get(b, i, type);
        if (first != first && second != second) continue;
        if (memcmp((const char *)a + i * width(type), (const char *)b + i * width(type), width(type))) return 0;
    }
    return 1;
}

/* A weight, and what it stands for: plain [N][K]. */
typedef struct {
    Weight w;
    double *plain;
    int64_t blocks;
} Case;

static double number(const Weight *w, int64_t n, int64_t k) {
    int64_t block = n / LANES, lane = n % LANES, groups = w->k / w->group;
    const uint8_t *bytes = w->weight;
    if (w->kind == BF16) return get(w->weight, n * w->k + k, BFLOAT16);
    if (w->kind == INT8) return (bytes[block * w->k * LANES + k / 4 * 64 + lane * 4 + k % 4] - 128) *
                                (double)((const float *)w->scale)[n];
    uint8_t pair = bytes[block * w->k * LANES / 2 + k / 8 * 64 + lane * 4 + k % 4];
    int64_t at = (block * groups + k / w->group) * LANES + lane;
    return ((k % 8 < 4 ? pair & 15 : pair >> 4) - w->zero[at]) * get(w->scale, at, w->scale_type);
}

static Case make(int kind, int64_t n, int64_t k, int64_t group, int scale_type) {
    Case c = {{n, k, group, 0, 0, 0, 0, scale_type, kind}, 0, (n + LANES - 1) / LANES};
    int64_t all = c.blocks * LANES, scales = kind == INT8 ? all : all * (k / group);
    int64_t bytes = kind == BF16 ? n * k * 2 : kind == INT8 ? all * k : all * k / 2;
    uint8_t *weight = memory(bytes);
    for (int64_t i = 0; i < bytes; i++) weight[i] = (uint8_t)bits();
    if (kind == BF16)
        for (int64_t i = 0; i < n * k; i++) put(weight, i, (float)normal(), BFLOAT16);
    c.w.weight = weight;
    if (kind != BF16) {
        void *scale = memory(scales * (kind == INT8 ? 4 : 2));
        uint8_t *zero = memory(scales);
        for (int64_t i = 0; i < scales; i++) {
            if (kind == INT8) ((float *)scale)[i] = (float)(0.01 + uniform());
            else ((uint16_t *)scale)[i] = scale_type == FLOAT16 ? (uint16_t)between(1, 0x3c00)
                                                                : to_bf16((float)(0.01 + uniform()));
            zero[i] = (uint8_t)between(0, 16);
        }
        c.w.scale = scale;
        c.w.zero = zero;
    }
    float *bias = bits() % 2 ? memory(n * 4) : 0;
    for (int64_t i = 0; bias && i < n; i++) bias[i] = (float)normal();
    c.w.bias = bias;
    c.plain = memory(n * k * sizeof(double));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < k; j++) c.plain[i * k + j] = number(&c.w, i, j);
    return c;
}

static void discard(Case c) {
    free((void *)c.w.weight), free((void *)c.w.scale), free((void *)c.w.zero), free((void *)c.w.bias), free(c.plain);
}

static void *product(const Weight *w, const void *x, int64_t m, int type) {
    void *y = memory(m * w->n * width(type));
    if (llm_quant_linear(w->kind, w->n, w->k, w->group, w->weight, w->scale, w->scale_type, w->zero, w->bias, x, y, m,
                         type, (int32_t)between(1, 3)))
        exit(2);
    return y;
}

static void near_double(const Case *c, const void *x, const void *y, int64_t m, int type) {
    const Weight *w = &c->w;
    for (int64_t row = 0; row < m; row++) {
        double largest = 0;
        for (int64_t k = 0; k < w->k; k++) largest = fmax(largest, fabs(get(x, row * w->k + k, type)));
        for (int64_t n = 0; n < w->n; n++) {
            double sum = w->bias ? w->bias[n] : 0, size = 0, found = get(y, row * w->n + n, type);
            for (int64_t k = 0; k < w->k; k++) {
                sum += c->plain[n * w->k + k] * get(x, row * w->k + k, type);
                size += fabs(c->plain[n * w->k + k]);
            }
            double allowed = (SUMMED + (w->kind == BF16 ? 0 : ROUNDED)) * largest * size + 1e-30;
            allowed += (type == BFLOAT16 ? NARROW : 0x1p-22) * fabs(sum); /* a bias may be all there is of it */
            CHECK(fabs(found - sum) <= allowed, "kind %d, N %ld, K %ld, group %ld, row %ld of %ld: %g for %g, %.2f of "
                  "the allowed error", w->kind, (long)w->n, (long)w->k, (long)w->group, (long)row, (long)m, found, sum,
                  fabs(found - sum) / allowed);
        }
    }
}

/* A product on level `name`: near double precision, each row as alone, and on Arm the bits of plain C. */
static void check_product(const Case *c, const void *x, int64_t m, int type, const char *name) {
    const Weight *w = &c->w;
    int exact = w->kind != BF16 && !strncmp(name, "neon", 4);
    void *plain = product(w, x, m, type);
    now = llm_quant_level(name);
    void *y = product(w, x, m, type);
    near_double(c, x, y, m, type);
    CHECK(!exact || same(plain, y, m * w->n, type), "kind %d, N %ld, K %ld, group %ld, M %ld: not the bits of plain C",
          w->kind, (long)w->n, (long)w->k, (long)w->group, (long)m);
    for (int64_t row = 0; row < m; row++) {
        void *alone = product(w, (const char *)x + row * w->k * width(type), 1, type);
        CHECK(same(alone, (char *)y + row * w->n * width(type), w->n, type), "kind %d: row %ld of %ld is not as alone",
              w->kind, (long)row, (long)m);
        free(alone);
    }
    now = llm_quant_level("portable");
    free(plain), free(y);
}

static void *expanded(const Weight *w, int64_t first, int64_t last, int type) {
    void *out = memory((last - first) * LANES * w->k * width(type));
    llm_quant_expand(w->kind, w->k, w->group, w->weight, w->scale, w->scale_type, w->zero, first, last, out, type, 2);
    return out;
}

static void check_expand(const Case *c, int type, const char *name) {
    const Weight *w = &c->w;
    int64_t first = between(0, c->blocks - 1), rows = (c->blocks - first) * LANES;
    void *plain = expanded(w, first, c->blocks, type);
    now = llm_quant_level(name);
    void *out = expanded(w, first, c->blocks, type);
    CHECK(same(plain, out, rows * w->k, type), "kind %d, K %ld, group %ld, type %d: not expanded as by plain C",
          w->kind, (long)w->k, (long)w->group, type);
    for (int64_t n = first * LANES; n < w->n; n++)
        for (int64_t k = 0; k < w->k; k++) {
            double wanted = c->plain[n * w->k + k], found = get(out, (n - first * LANES) * w->k + k, type);
            CHECK(fabs(found - wanted) <= (type == FLOAT32 ? 0x1p-23 : NARROW) * fabs(wanted),
                  "kind %d: expanded to %g for %g", w->kind, found, wanted);
        }
    now = llm_quant_level("portable");
    free(plain), free(out);
}

static void check_norm(int64_t m, int64_t c, int type, int offset, const char *name) {
    void *x = numbers(m * c, type), *weight = numbers(c, type);
    void *plain = memory(m * c * width(type)), *y = memory(m * c * width(type));
    llm_quant_norm(x, weight, plain, m, c, 1e-5f, offset, type);
    now = llm_quant_level(name);
    llm_quant_norm(x, weight, y, m, c, 1e-5f, offset, type);
    CHECK(strncmp(name, "neon", 4) || same(plain, y, m * c, type), "norm of C %ld: not the bits of plain C", (long)c);
    for (int64_t i = 0; i < m * c; i++) {
        double sum = 0, found = get(y, i, type);
        for (int64_t j = i / c * c; j < (i / c + 1) * c; j++) sum += get(x, j, type) * get(x, j, type);
        double wanted = get(x, i, type) / sqrt(sum / c + 1e-5) * (get(weight, i % c, type) + (offset ? 1 : 0));
        double allowed = 2 * (type == FLOAT32 ? SUMMED : NARROW) * fabs(wanted) + 1e-6;
        CHECK(fabs(found - wanted) <= allowed, "norm of C %ld: %g for %g", (long)c, found, wanted);
    }
    now = llm_quant_level("portable");
    free(x), free(weight), free(plain), free(y);
}

static void check_gated(int64_t count, int type, const char *name) {
    void *gate = numbers(count, type), *up = numbers(count, type);
    void *plain = memory(count * width(type)), *y = memory(count * width(type));
    llm_quant_gated(gate, up, plain, count, type);
    now = llm_quant_level(name);
    llm_quant_gated(gate, up, y, count, type);
    CHECK(strncmp(name, "neon", 4) || same(plain, y, count, type), "gated %ld: not the bits of plain C", (long)count);
    for (int64_t i = 0; i < count; i++) {
        double g = get(gate, i, type), wanted = g / (1 + exp(-g)) * get(up, i, type), found = get(y, i, type);
        double allowed = 2 * (type == FLOAT32 ? SUMMED : NARROW) * fabs(wanted) + 1e-30;
        CHECK(fabs(found - wanted) <= allowed, "gated: %g for %g of %g", found, wanted, g);
    }
    now = llm_quant_level("portable");
    free(gate), free(up), free(plain), free(y);
}

/* Two new positions after others: H = 4 heads on K = 2 kv heads, D = 20, V = 12. */
static void check_attend(int64_t slots, int64_t length, int type, const char *name) {
    enum { TIME = 2, HEADS = 4, KVS = 2, SIZE = 20, DEEP = 12 };
    void *q = numbers(TIME * HEADS * SIZE, type), *k = numbers(KVS * slots * SIZE, type);
    void *v = numbers(KVS * slots * DEEP, type), *y = memory(TIME * HEADS * DEEP * width(type));
    Op op = {.code = ATTEND, .type = type, .kind = type, .number = {0.0005f}, .in = {q, k, v}, .out = {y}};
    const int64_t size[] = {1, TIME, HEADS, KVS, SIZE, DEEP, slots, 0, HEADS * SIZE, SIZE}, start = length - TIME;
    memcpy(op.size, size, sizeof size);
    float *scratch = memory(llm_quant_attend_scratch(&op) * sizeof *scratch);
    memset(scratch, 0, llm_quant_attend_scratch(&op) * sizeof *scratch);
    op.out[1] = scratch;
    now = llm_quant_level(name);
    CHECK(!llm_quant_run(&op, 1, &start, &length, 2), "attention: no memory");
    for (int t = 0; t < TIME; t++)
        for (int h = 0; h < HEADS; h++) {
            int64_t seen = start + t + 1, head = h * KVS / HEADS * slots;
            double *weight = memory(seen * sizeof *weight), top = -INFINITY, sum = 0;
            for (int64_t s = 0; s < seen; s++) {
                weight[s] = 0;
                for (int i = 0; i < SIZE; i++)
                    weight[s] += get(q, (t * HEADS + h) * SIZE + i, type) * get(k, (head + s) * SIZE + i, type);
                weight[s] *= 0.0005f;
                top = fmax(top, weight[s]);
            }
            for (int64_t s = 0; s < seen; s++) sum += weight[s] = exp(weight[s] - top);
            for (int d = 0; d < DEEP; d++) {
                double wanted = 0, most = 0;
                for (int64_t s = 0; s < seen; s++) {
                    double value = get(v, (head + s) * DEEP + d, type);
                    wanted += weight[s] / sum * value;
                    most = fmax(most, fabs(value));
                }
                double found = get(y, (t * HEADS + h) * DEEP + d, type);
                double bound = 1e-4 * most + (type == FLOAT32 ? 0 : NARROW * fabs(wanted));
                CHECK(fabs(found - wanted) <= bound, "attention over %d: %g, not %g", (int)seen, found, wanted);
            }
            free(weight);
        }
    now = llm_quant_level("portable");
    free(q), free(k), free(v), free(y), free(scratch);
}

static void random_products(int kind, const char *name) {
    static const int64_t groups[] = {8, 16, 24, 32, 40, 64, 128};
    int64_t group = groups[bits() % 7], n = between(1, 70), k = between(1, 160) * 4, m = between(1, 18);
    if (kind == INT4) k = group * between(1, 5);
    if (kind == BF16) n = between(1, 3) * LANES, k = between(1, 150);
    int type = kind == BF16 || bits() % 2 ? BFLOAT16 : FLOAT32, scales = bits() % 2 ? BFLOAT16 : FLOAT16;
    Case c = make(kind, n, k, kind == INT4 ? group : k, kind == INT8 ? FLOAT32 : scales);
    void *x = numbers(m * k, type);
    check_product(&c, x, m, type, name);
    if (kind != BF16) check_expand(&c, bits() % 2 ? FLOAT32 : BFLOAT16, name);
    free(x);
    discard(c);
}

/* The largest sums that the kernels can meet, of either sign; and rows of zeros, of what is no number, and of next to
   nothing. */
static void extremes(int kind, const char *name) {
    Case c = make(kind, 16, 1024, 1024, kind == INT8 ? FLOAT32 : BFLOAT16);
    float *x = memory(8 * 1024 * 4);
    for (int round = 0; round < 4; round++) {
        int byte = kind == INT8 ? (round & 1 ? 255 : 0) : (round & 1 ? 0xff : 0);
        memset((void *)c.w.weight, byte, kind == INT8 ? 16 * 1024 : 8 * 1024);
        memset((void *)c.w.zero, round & 1 ? 0 : 16, 16);
        for (int i = 0; i < 16 * 1024; i++) c.plain[i] = number(&c.w, i / 1024, i % 1024);
        for (int i = 0; i < 8 * 1024; i++) x[i] = round & 2 ? -1.0f : 1.0f;
        check_product(&c, x, 8, FLOAT32, name);
    }
    for (int i = 0; i < 1024; i++) x[i] = 0, x[3 * 1024 + i] = 1e-37f;
    x[1024 + 3] = NAN, x[2 * 1024 + 5] = -INFINITY;
    now = llm_quant_level(name);
    float *y = product(&c.w, x, 4, FLOAT32);
    for (int n = 0; n < 16; n++) {
        float bias = c.w.bias ? c.w.bias[n] : 0;
        CHECK(y[n] == bias && isnan(y[16 + n]) && isnan(y[32 + n]) && fabsf(y[48 + n] - bias) < 1e-6f,
              "rows of zeros, NaN, infinity and little give %g %g %g %g", y[n], y[16 + n], y[32 + n], y[48 + n]);
    }
    now = llm_quant_level("portable");
    free(x), free(y);
    discard(c);
}

static void check_level(const char *name) {
    for (int round = 0; round < 60; round++) {
        for (int kind = INT8; kind <= BF16; kind++) random_products(kind, name);
        check_norm(between(1, 4), between(1, 300), bits() % 2, bits() % 2, name);
        check_gated(between(1, 300), bits() % 2, name);
    }
    extremes(INT8, name);
    extremes(INT4, name);
    uint64_t before = state;
    for (int round = 0; round < 60; round++) {
        int64_t slots = between(3, 1300);
        check_attend(slots, between(2, slots), bits() % 2, name);
    }
    state = before;
}

int main(int count, char **names) {
    const char *best = llm_quant_level(0);
    CHECK(count > 1 && !strcmp(best, names[1]), "the best level is %s", best);
    for (int i = 1; i < count; i++) {
        const char *found = llm_quant_level(names[i]);
        CHECK(found, "there is no level %s", names[i]);
        llm_quant_level("portable");
        if (found) check_level(names[i]);
        printf("%s, ", names[i]);
    }
    printf("%d failures\n", failures);
    return failures != 0;
}
