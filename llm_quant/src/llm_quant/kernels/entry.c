/* What Python calls: the best level of the processor, and the work shared out between threads by blocks of weights. */
#include <string.h>

#include "product.h"

#define ROWS_AT_A_TIME 512 /* of x, so that what is prepared of them stays small */

EXPORT const int64_t llm_quant_least_work = 65536; /* weights or numbers for one more thread to be worth waking */

/* Changes with what Python passes: a library that was built from other sources is refused. */
EXPORT const int64_t llm_quant_interface = 4;

static const Level *const levels[] = {&level_avx512, &level_avx2, &level_neon_bf16, &level_neon_dot, &level_neon,
                                      &level_portable};

/* Choose the level of that name, or the best one for null; its name, or null for one that isn't here. */
EXPORT const char *llm_quant_level(const char *name) {
    for (unsigned i = 0; i < sizeof levels / sizeof *levels; i++)
        if (levels[i]->supported() && (!name || !strcmp(name, levels[i]->name))) {
            chosen = levels[i];
            return chosen->name;
        }
    return 0;
}

/* Some rows of the product; 0 without memory. */
static int product(const Weight *w, const void *x, void *y, int64_t m, int type, int32_t threads) {
    Rows rows;
    if (!make_room(w, m, &rows)) return 0;
    int64_t parts = parts_of(w, m), share = share_of(w, m), shares = (blocks_of(w) + share - 1) / share;
    if (threads > shares) threads = (int32_t)shares;
    int apart = parts > MOST_ROWS; /* few are prepared before another thread would have begun */
    for (int64_t part = 0; part < parts && !apart; part++) prepare(w, x, type, m, part, &rows);
#pragma omp parallel num_threads(threads)
    {
        if (apart) {
#pragma omp for schedule(static)
            for (int64_t part = 0; part < parts; part++) prepare(w, x, type, m, part, &rows);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < shares; i++) multiply(w, x, &rows, type, m, i * share, share, y);
    }
    return 1;
}

/* y [M][N] = x [M][K] w^T + bias. x and y are both fp32 or both bf16 (bf16 where the weights are, whose N must be a
   multiple of 16). 0 where it went well, 1 without memory. */
EXPORT int llm_quant_linear(int32_t kind, int64_t n, int64_t k, int64_t group, const void *weight, const void *scale,
                            int32_t scale_type, const uint8_t *zero, const float *bias, const void *x, void *y,
                            int64_t m, int32_t type, int32_t threads) {
    const Weight w = {n, k, group, weight, scale, zero, bias, scale_type, kind};
    int64_t useful = n * k / llm_quant_least_work + 1, wide = type == FLOAT32 ? 4 : 2;
    if (threads > useful) threads = (int32_t)useful;
    for (int64_t row = 0; row < m; row += ROWS_AT_A_TIME) {
        int64_t rows = m - row < ROWS_AT_A_TIME ? m - row : ROWS_AT_A_TIME;
        if (!product(&w, (const char *)x + row * k * wide, (char *)y + row * n * wide, rows, type, threads)) return 1;
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
