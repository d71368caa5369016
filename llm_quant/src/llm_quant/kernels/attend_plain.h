/* The scores of some queries with a block of keys, and the sums of a block of values, as fp32 in loops that each level's
   compiler flags vectorise. Shapes as in attend.h. A level may say how many numbers a register holds (VEC), how a * b + c
   is rounded once (FUSED), and a way to the sums of some registers (SUMS, of TOGETHER of them). */
#ifndef LLM_QUANT_ATTEND_PLAIN_H
#define LLM_QUANT_ATTEND_PLAIN_H

#include <string.h>

#include "tasks.h"

#define BLOCK 128  /* slots of a cache whose scores are computed before their values are added */
#define KEYS 16    /* of them that are widened to fp32 at a time */
#define QUERIES 32 /* that go over them at a time */
#define WIDEST 512 /* size of a head */

#ifndef VEC
#define VEC 16
#endif
#ifndef FUSED
#define FUSED(a, b, c) ((a) * (b) + (c))
#endif
#ifndef SUMS
#define TOGETHER 4
#endif
#ifndef TILE
#define TILE 2 /* queries whose sums of values stay in registers */
#endif

typedef float Vec __attribute__((vector_size(VEC * 4)));

/* Some queries of a kv head on their way over the slots of a cache. */
typedef struct {
    const Op *op;
    int64_t head, many;           /* head = b * K + kv */
    int64_t at[QUERIES];          /* where they lie in q */
    float factor[QUERIES];        /* of their scores, where the level takes queries as they are or as whole numbers */
    float top[QUERIES];           /* the largest score until now */
    float part[QUERIES][16];      /* sums of e^(score - largest), slot by slot modulo 16 */
    float scores[QUERIES][BLOCK]; /* of the slots of a block; then e^(score - largest) */
    _Alignas(64) float q[QUERIES * WIDEST];   /* as the level takes them */
    _Alignas(64) float acc[QUERIES * WIDEST]; /* sums of values [many][padded V] */
} Some;

static inline Vec vec(const float *from) {
    Vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void keep(float *to, Vec v) { memcpy(to, &v, sizeof v); }

static inline int64_t padded(int64_t size) { return (size + 15) & ~(int64_t)15; }

/* `count` numbers times `scale` as fp32, and zeros up to a whole register. */
static inline void widen(const void *from, int64_t at, int type, float scale, int64_t count, float *to) {
    if (type == FLOAT32)
        for (int64_t i = 0; i < count; i++) to[i] = ((const float *)from)[at + i] * scale;
    else if (type == BFLOAT16)
        for (int64_t i = 0; i < count; i++) to[i] = from_bf16(((const uint16_t *)from)[at + i]) * scale;
    else
        for (int64_t i = 0; i < count; i++) to[i] = ((const int8_t *)from)[at + i] * scale;
    for (int64_t i = count; i < padded(count); i++) to[i] = 0;
}

/* KEYS rows of a cache from slot `slot` on, of which `count` are there. */
static inline void widen_rows(const Op *op, int which, int64_t head, int64_t slot, int64_t count, float *to) {
    int64_t slots = op->size[6], size = op->size[4 + which], width = padded(size);
    const float *scales = op->in[4 + which];
    for (int64_t i = 0; i < KEYS; i++) {
        int64_t row = head * slots + slot + i;
        float scale = scales && i < count ? scales[row] : 1.0f;
        if (i < count) widen(op->in[1 + which], row * size, op->kind, scale, size, to + i * width);
        else memset(to + i * width, 0, width * sizeof *to);
    }
}

#ifndef SUMS
static inline float sum_of(Vec v) {
    float part[VEC];
    keep(part, v);
    for (int width = VEC / 2; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}
#endif

/* The products of one query with KEYS keys. */
static inline void dots(const float *q, const float *keys, int64_t width, float *scores) {
    for (int first = 0; first < KEYS; first += TOGETHER) {
        Vec sum[TOGETHER];
        for (int i = 0; i < TOGETHER; i++) sum[i] = (Vec){0};
        for (int64_t j = 0; j < width; j += VEC) {
            Vec a = vec(q + j);
            for (int i = 0; i < TOGETHER; i++) sum[i] = FUSED(a, vec(keys + (first + i) * width + j), sum[i]);
        }
#ifdef SUMS
        SUMS(sum, scores + first);
#else
        for (int i = 0; i < TOGETHER; i++) scores[first + i] = sum_of(sum[i]);
#endif
    }
}

/* acc [M][width] += KEYS values [width], each times its weight; M is a constant wherever this is inlined. */
static inline __attribute__((always_inline)) void add_tile(const int M, const float *weights, const float *values,
                                                           int64_t width, float *acc) {
    for (int64_t j = 0; j < width; j += VEC) {
        Vec sum[TILE];
        for (int m = 0; m < M; m++) sum[m] = vec(acc + m * width + j);
        for (int i = 0; i < KEYS; i++) {
            Vec v = vec(values + i * width + j);
            for (int m = 0; m < M; m++) {
                Vec weight = (Vec){0} + weights[m * BLOCK + i];
                sum[m] = FUSED(weight, v, sum[m]);
            }
        }
        for (int m = 0; m < M; m++) keep(acc + m * width + j, sum[m]);
    }
}

static inline void plain_queries(Some *s) {
    int64_t size = s->op->size[4];
    for (int64_t i = 0; i < s->many; i++)
        widen(s->op->in[0], s->at[i], s->op->type, s->op->number[0], size, s->q + i * padded(size));
}

static inline void plain_scores(Some *s, int64_t slot, int64_t count) {
    int64_t width = padded(s->op->size[4]);
    float keys[KEYS * WIDEST];
    for (int64_t k = 0; k < count; k += KEYS) {
        widen_rows(s->op, 0, s->head, slot + k, count - k, keys);
        for (int64_t i = 0; i < s->many; i++) dots(s->q + i * width, keys, width, s->scores[i] + k);
    }
}

/* `scores` beyond `count` are 0 up to a multiple of 16. */
static inline void plain_values(Some *s, int64_t slot, int64_t count) {
    int64_t width = padded(s->op->size[5]);
    float values[KEYS * WIDEST];
    for (int64_t k = 0; k < count; k += KEYS) {
        widen_rows(s->op, 1, s->head, slot + k, count - k, values);
        int64_t i = 0;
        for (; i + TILE <= s->many; i += TILE) add_tile(TILE, s->scores[i] + k, values, width, s->acc + i * width);
        for (; i < s->many; i++) add_tile(1, s->scores[i] + k, values, width, s->acc + i * width);
    }
}
#endif
