#include "product.h"

#include <stdlib.h>

#define SHARE 65536 /* bytes of weights */

const Level *chosen;

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

int round_rows(const Weight *w, const void *x, int type, int64_t m, Rows *rows) {
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
            put(y, (row + m) * w->n + n + lane, value, type);
        }
}

void multiply(const Weight *w, const void *x, const Rows *rows, int type, int64_t m, int64_t block, void *y) {
    for (int64_t row = 0; row < m; row += MOST_ROWS) {
        float out[MOST_ROWS * LANES];
        int count = (int)(m - row < MOST_ROWS ? m - row : MOST_ROWS);
        if (w->kind == BF16) {
            chosen->bf16(w, (const uint16_t *)x + row * w->k, count, block, out);
        } else {
            Rows some = from_row(w, rows, row);
            (w->kind == INT8 ? chosen->int8 : chosen->int4)(w, &some, count, block, out);
        }
        write(w, out, count, row, block, y, type);
    }
}

int64_t share_of(const Weight *w) {
    int64_t bytes = LANES * w->k * (w->kind == BF16 ? 4 : w->kind == INT8 ? 2 : 1) / 2;
    return SHARE / bytes + 1;
}
