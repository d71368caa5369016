/* What Python calls: the best level of the processor, and the work shared out between threads by blocks of weights. */
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define LEAST_WORK 65536 /* weights for one more thread to be worth waking */
#define SHARE 65536      /* bytes of weights that a thread takes at a time: others may use the processor too */

static const Level *const levels[] = {&level_avx512, &level_avx2, &level_portable};
static const Level *chosen;

/* Choose the level of that name, or the best one for null; its name, or null for one that isn't here. */
EXPORT const char *llm_quant_level(const char *name) {
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++)
        if (levels[i]->supported() && (!name || !strcmp(name, levels[i]->name))) {
            chosen = levels[i];
            return chosen->name;
        }
    return 0;
}

static _Thread_local struct { void *memory; size_t size; } scratch;

/* Memory of this thread that stays until the next call; null where there is none. */
static void *borrow(size_t size) {
    if (size > scratch.size) {
        void *grown = realloc(scratch.memory, size);
        if (!grown) return 0;
        scratch.memory = grown;
        scratch.size = size;
    }
    return scratch.memory;
}

static size_t aligned(size_t size) { return (size + 63) & ~(size_t)63; }

/* Round the rows of x; 0 where there is no memory for it. */
static int round_rows(const Weight *w, const void *x, int type, int64_t m, Rows *rows) {
    int64_t groups = w->k / w->group, all = m * w->k;
    size_t sizes[] = {aligned(all * 2), aligned(all), aligned(all), aligned(m * groups * 4),
                      aligned(m * 4), aligned(m * 4), aligned(m * 4), aligned(w->k * 4)};
    size_t total = 0;
    for (unsigned i = 0; i < 8; i++) total += sizes[i];
    char *at = borrow(total + 64);
    if (!at) return 0;
    void *parts[8];
    for (unsigned i = 0; i < 8; i++) {
        parts[i] = at;
        at += sizes[i];
    }
    *rows = (Rows){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6]};
    float *wide = parts[7];
    for (int64_t row = 0; row < m; row++) {
        const float *values = (const float *)x + row * w->k;
        if (type == BFLOAT16) {
            const uint16_t *narrow = (const uint16_t *)x + row * w->k;
            for (int64_t k = 0; k < w->k; k++) wide[k] = from_bf16(narrow[k]);
            values = wide;
        }
        chosen->round(values, w->k, w->group, (int)row, rows);
    }
    return 1;
}

static Rows from_row(const Weight *w, const Rows *rows, int64_t row) {
    int64_t groups = w->k / w->group;
    return (Rows){rows->whole + row * w->k, rows->high + row * w->k, rows->low + row * w->k,
                  rows->sums + row * groups, rows->highs + row, rows->lows + row, rows->scale + row};
}

static void write(const Weight *w, const float *out, int64_t rows, int64_t row, int64_t block, void *y, int type) {
    int64_t n = block * LANES, lanes = w->n - n < LANES ? w->n - n : LANES;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            float value = out[m * LANES + lane] + (w->bias ? w->bias[n + lane] : 0);
            if (type == FLOAT32) ((float *)y)[(row + m) * w->n + n + lane] = value;
            else ((uint16_t *)y)[(row + m) * w->n + n + lane] = to_bf16(value);
        }
}

/* y [M][N] = x [M][K] w^T + bias. x and y are both fp32 or both bf16 (bf16 where the weights are, whose N must be a
   multiple of 16). 0 where it went well, 1 without memory. */
EXPORT int llm_quant_linear(int32_t kind, int64_t n, int64_t k, int64_t group, const void *weight, const void *scale,
                            int32_t scale_type, const uint8_t *zero, const float *bias, const void *x, void *y,
                            int64_t m, int32_t type, int32_t threads) {
    const Weight w = {n, k, group, weight, scale, zero, bias, scale_type, kind};
    Rows rows;
    if (kind != BF16 && !round_rows(&w, x, type, m, &rows)) return 1;
    int64_t blocks = (n + LANES - 1) / LANES, useful = n * k / LEAST_WORK + 1;
    if (threads > useful) threads = (int32_t)useful;
    if (threads > blocks) threads = (int32_t)blocks;
    int64_t bytes = LANES * k * (kind == BF16 ? 4 : kind == INT8 ? 2 : 1) / 2, share = SHARE / bytes + 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic, share)
    for (int64_t block = 0; block < blocks; block++)
        for (int64_t row = 0; row < m; row += MOST_ROWS) {
            float out[MOST_ROWS * LANES];
            int count = (int)(m - row < MOST_ROWS ? m - row : MOST_ROWS);
            if (kind == BF16) {
                chosen->bf16(&w, (const uint16_t *)x + row * k, count, block, out);
            } else {
                Rows some = from_row(&w, &rows, row);
                (kind == INT8 ? chosen->int8 : chosen->int4)(&w, &some, count, block, out);
            }
            write(&w, out, count, row, block, y, type);
        }
    return 0;
}

/* The weights of the blocks first to last, exclusive, as rows [16 * (last - first)][K] of `type`. */
EXPORT void llm_quant_expand(int32_t kind, int64_t k, int64_t group, const void *weight, const void *scale,
                             int32_t scale_type, const uint8_t *zero, int64_t first, int64_t last, void *out,
                             int32_t type, int32_t threads) {
    const Weight w = {last * LANES, k, group, weight, scale, zero, 0, scale_type, kind};
    int64_t row_bytes = k * (type == FLOAT32 ? 4 : 2);
    if (threads > last - first) threads = (int32_t)(last - first);
#pragma omp parallel for num_threads(threads) schedule(dynamic, 2)
    for (int64_t block = first; block < last; block++)
        chosen->expand(&w, block, (char *)out + (block - first) * LANES * row_bytes, type);
}

/* y [M][C] = x / rms(x) * weight by rows, all of `type`; with `offset` the weight is 1 + weight. */
EXPORT void llm_quant_norm(const void *x, const void *weight, void *y, int64_t m, int64_t c, float eps, int32_t offset,
                           int32_t type) {
    for (int64_t row = 0; row < m; row++) chosen->norm(x, weight, y, row, c, eps, offset, type);
}

/* y = silu(gate) * up, `count` numbers of `type` each. */
EXPORT void llm_quant_gated(const void *gate, const void *up, void *y, int64_t count, int32_t type) {
    chosen->gated(gate, up, y, count, type);
}
