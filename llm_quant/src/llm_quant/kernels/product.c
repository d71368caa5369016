#include "product.h"

#include <stdlib.h>

#define SHARE 65536  /* bytes of weights */
#define MANY_SHARE 3 /* blocks, for many rows */

const Level *chosen;

static _Thread_local struct { void *memory; size_t size; } scratch;

/* Memory of this thread that stays until the next call; null where there is none. */
static void *borrow(size_t size) {
    if (size > scratch.size) {
        free(scratch.memory);
        scratch.memory = malloc(size);
        scratch.size = scratch.memory ? size : 0;
    }
    return scratch.memory;
}

static size_t aligned(size_t size) { return (size + 63) & ~(size_t)63; }

/* Whether x is multiplied by what is for many rows, which takes columns of bf16 in pairs. */
static int many(const Weight *w, int64_t m) {
    return m > MOST_ROWS && chosen->many && w->kind != BIT4 && (w->kind != BF16 || w->k % 2 == 0);
}

int64_t parts_of(const Weight *w, int64_t m) {
    if (w->kind == BIT4) return m;
    if (w->kind != BF16) return m;
    return many(w, m) ? (m + LANES - 1) / LANES : 0;
}

int make_room(const Weight *w, int64_t m, Rows *rows) {
    int64_t groups = w->k / w->group, all = m * w->k;
    int narrow = w->kind == BF16 || w->kind == BIT4, level = chosen->many != 0; /* which has the bytes in an order of its own */
    size_t panels = w->kind == BIT4 ? (size_t)all * 4 : narrow ? (size_t)(parts_of(w, m) * LANES * w->k) * 2 : 0;
    if (narrow) all = groups = m = 0;
    size_t sizes[] = {level ? 0 : all * 2, level ? 0 : all, level ? 0 : all, level ? all * 2 : 0,
                      m * groups * 4,      m * 4,           m * 4,           m * 4,
                      panels};
    enum { COUNT = sizeof sizes / sizeof *sizes };
    size_t total = 64;
    for (unsigned i = 0; i < COUNT; i++) total += aligned(sizes[i]);
    char *at = borrow(total);
    if (!at) return 0;
    at += -(uintptr_t)at & 63;
    void *parts[COUNT];
    for (unsigned i = 0; i < COUNT; i++) {
        parts[i] = at;
        at += aligned(sizes[i]);
    }
    *rows = (Rows){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7], parts[8]};
    return 1;
}

/* Of each 64 columns of a row those of even numbers, then those of odd ones: as the nibbles of a weight come. */
static void apart(const void *x, int type, int64_t k, int64_t row, void *to) {
    for (int64_t i = row * k; i < (row + 1) * k; i += GROUP4)
        for (int j = 0; j < GROUP4; j++) {
            int64_t from = i + 2 * (j % 32) + j / 32;
            if (type == FLOAT32) ((float *)to)[i + j] = ((const float *)x)[from];
            else ((uint16_t *)to)[i + j] = ((const uint16_t *)x)[from];
        }
}

void prepare(const Weight *w, const void *x, int type, int64_t m, int64_t part, const Rows *rows) {
    if (w->kind == BF16) chosen->pack(x, m, w->k, part, rows->panels);
    else if (w->kind == BIT4) apart(x, type, w->k, part, rows->panels);
    else chosen->round((const char *)x + part * w->k * (type == FLOAT32 ? 4 : 2), type, w->k, w->group, part, rows);
}

static Rows from_row(const Weight *w, const Rows *rows, int64_t row) {
    int64_t groups = w->k / w->group;
    return (Rows){rows->whole + row * w->k,     rows->high + row * w->k, rows->low + row * w->k,
                  rows->pairs + row * 2 * w->k, rows->sums + row * groups, rows->highs + row,
                  rows->lows + row,             rows->scale + row,       0};
}

static void write(const Weight *w, const float *out, int64_t rows, int64_t row, int64_t block, void *y, int type) {
    int64_t n = block * LANES, lanes = w->n - n < LANES ? w->n - n : LANES;
    for (int64_t m = 0; m < rows; m++)
        for (int64_t lane = 0; lane < lanes; lane++) {
            float value = out[m * LANES + lane] + (w->bias ? w->bias[n + lane] : 0);
            put(y, (row + m) * w->n + n + lane, value, type);
        }
}

static void by_block(const Weight *w, const void *x, const Rows *rows, int type, int64_t m, int64_t block, void *y) {
    for (int64_t row = 0; row < m; row += MOST_ROWS) {
        float out[MOST_ROWS * LANES];
        int count = (int)(m - row < MOST_ROWS ? m - row : MOST_ROWS);
        if (w->kind == BF16) {
            chosen->bf16(w, (const uint16_t *)x + row * w->k, count, block, out);
        } else if (w->kind == BIT4) {
            chosen->bit4(w, (const char *)rows->panels + row * w->k * (type == FLOAT32 ? 4 : 2), type, count, block, out);
        } else {
            Rows some = from_row(w, rows, row);
            (w->kind == INT8 ? chosen->int8 : chosen->int4)(w, &some, count, block, out);
        }
        write(w, out, count, row, block, y, type);
    }
}

void multiply(const Weight *w, const void *x, const Rows *rows, int type, int64_t m, int64_t block, int64_t count, void *y) {
    if (block + count > blocks_of(w)) count = blocks_of(w) - block;
    if (many(w, m)) chosen->many(w, rows, type, m, block, count, y);
    else
        for (int64_t last = block + count; block < last; block++) by_block(w, x, rows, type, m, block, y);
}

int64_t share_of(const Weight *w, int64_t m) {
    if (many(w, m)) return MANY_SHARE;
    int64_t bytes = LANES * w->k * (w->kind == BF16 ? 4 : w->kind == INT8 ? 2 : 1) / 2;
    return SHARE / bytes + 1;
}
