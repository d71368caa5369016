/* Attention of a few new positions over a cache, in fp32 whatever the types: for each level's compiler flags.

   Shapes: B rows of a batch, T new positions of each, H heads, K kv heads, G = H / K, D head size, V size of a value,
   S slots of the cache. ATTEND: size B T H K D V S window, and how far positions and heads of q are apart; in q, k [B][K][S][D], v [B][K][S][V], slopes [H]
   or null, and for a cache of int8 the scales of k and v [B][K][S] fp32; out y [B][T][H][V], and the memory that
   `attend_scratch` says, whose first B * K numbers begin as 0; number scale, cap or 0. `kind` is the type of the cache.
   Position p of a row is in slot p modulo S; row b has ends[b] positions, T of them new. A window of 0 is none. */
#ifndef LLM_QUANT_ATTEND_H
#define LLM_QUANT_ATTEND_H

#include <math.h>
#include <stdatomic.h>
#include <string.h>

#include "steps.h"
#include "tasks.h"

#define KEYS 16    /* that are widened to fp32 at a time */
#define QUERIES 8  /* that go over them at a time */
#define WIDEST 512 /* size of a head */

typedef float Vec __attribute__((vector_size(64)));

static inline Vec vec(const float *from) {
    Vec v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void keep(float *to, Vec v) { memcpy(to, &v, sizeof v); }

static inline float sum_of(Vec v) {
    float part[16];
    keep(part, v);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) part[i] += part[i + width];
    return part[0];
}

#ifndef SUMS /* a level may have a way to the sums of 16 registers at a time */
#define TOGETHER 4
#endif

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

/* `count` fp32 numbers as numbers of `type`. */
static inline void narrow(const float *from, int64_t count, int type, void *to, int64_t at) {
    if (type == FLOAT32) memcpy((float *)to + at, from, count * sizeof *from);
    else for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[at + i] = to_bf16(from[i]);
}

/* KEYS rows of a cache from slot `slot` on, of which `count` are there. */
static inline void widen_rows(const Op *op, int which, int64_t head, int64_t slot, int64_t count, float *to) {
    int64_t slots = op->size[6], size = op->size[4 + which], width = padded(size);
    const float *scales = op->in[4 + which];
    for (int64_t i = 0; i < KEYS; i++) {
        int64_t row = head * slots + slot + i;
        if (i < count) widen(op->in[1 + which], row * size, op->kind, scales ? scales[row] : 1.0f, size, to + i * width);
        else memset(to + i * width, 0, width * sizeof *to);
    }
}

/* The products of one query with KEYS keys. */
static inline void dots(const float *q, const float *keys, int64_t width, float *scores) {
    for (int first = 0; first < KEYS; first += TOGETHER) {
        Vec sum[KEYS];
        for (int i = 0; i < TOGETHER; i++) sum[i] = (Vec){0};
        for (int64_t j = 0; j < width; j += 16) {
            Vec a = vec(q + j);
            for (int i = 0; i < TOGETHER; i++) sum[i] += a * vec(keys + (first + i) * width + j);
        }
#ifdef SUMS
        SUMS(sum, scores);
#else
        for (int i = 0; i < TOGETHER; i++) scores[first + i] = sum_of(sum[i]);
#endif
    }
}

/* acc [width] += KEYS values [width], each times its weight. */
static inline void add_values(const float *weights, const float *values, int64_t width, float *acc) {
    int64_t j = 0;
    for (; j + 64 <= width; j += 64) {
        Vec a = vec(acc + j), b = vec(acc + j + 16), c = vec(acc + j + 32), d = vec(acc + j + 48);
        for (int i = 0; i < KEYS; i++) {
            const float *v = values + i * width + j;
            a += weights[i] * vec(v);
            b += weights[i] * vec(v + 16);
            c += weights[i] * vec(v + 32);
            d += weights[i] * vec(v + 48);
        }
        keep(acc + j, a);
        keep(acc + j + 16, b);
        keep(acc + j + 32, c);
        keep(acc + j + 48, d);
    }
    for (; j < width; j += 16) {
        Vec a = vec(acc + j);
        for (int i = 0; i < KEYS; i++) a += weights[i] * vec(values + i * width + j);
        keep(acc + j, a);
    }
}

/* Cap the scores of the slots from `first` on, lower them by distance and leave out what position p doesn't see. */
static inline void mask(const Op *op, int64_t head, int64_t p, int64_t end, int64_t first, int64_t count, float *scores) {
    const float *slopes = op->in[3], cap = op->number[1];
    int64_t slots = op->size[6], window = op->size[7], newest = end < 1 ? 0 : end - 1;
    if (cap > 0)
        for (int64_t i = 0; i < count; i++) scores[i] = tanhf(scores[i] / cap) * cap;
    if (end <= slots && !window && !slopes) { /* slots are positions */
        for (int64_t i = p + 1 > first ? p + 1 - first : 0; i < count; i++) scores[i] = -INFINITY;
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        int64_t slot = first + i, at = end <= slots ? slot : newest - ((newest - slot) % slots + slots) % slots;
        if (slopes) scores[i] -= slopes[head] * (float)(p - at);
        if (at > p || (window && at <= p - window)) scores[i] = -INFINITY;
    }
}

/* Scores become e^(score - largest); the largest, and the sum. `count` is a multiple of 16. */
static inline void soften(float *scores, int64_t count, float *largest_of, float *sum_of_all) {
    float most[16], part[16] = {0}, top = -INFINITY, sum = 0;
    for (int j = 0; j < 16; j++) most[j] = -INFINITY;
    for (int64_t i = 0; i < count; i += 16)
        for (int j = 0; j < 16; j++) most[j] = scores[i + j] > most[j] ? scores[i + j] : most[j];
    for (int j = 0; j < 16; j++) top = most[j] > top ? most[j] : top;
    float below = top == -INFINITY ? 0.0f : top; /* where nothing is seen, all become 0 */
    for (int64_t i = 0; i < count; i += 16)
        for (int j = 0; j < 16; j++) {
            scores[i + j] = exponential(scores[i + j] - below);
            part[j] += scores[i + j];
        }
    for (int j = 0; j < 16; j++) sum += part[j];
    *largest_of = top;
    *sum_of_all = sum;
}

/* Where the partial result of a chunk lies: its largest score, its sum, and values [padded V] not yet divided. */
static inline float *partial(const Op *op, int64_t head, int64_t chunk, int64_t query) {
    int64_t heads = op->size[0] * op->size[3], queries = op->size[1] * op->size[2] / op->size[3];
    int64_t most = (op->size[6] + CHUNK - 1) / CHUNK, one = padded(op->size[5]) + 2;
    return (float *)op->out[1] + padded(heads) + ((head * most + chunk) * queries + query) * one;
}

static inline void put_out(const Op *op, int64_t b, int64_t kv, int64_t query, const float *values, float sum) {
    int64_t time = op->size[1], heads = op->size[2], group = heads / op->size[3], size = op->size[5];
    int64_t at = ((b * time + query / group) * heads + kv * group + query % group) * size;
    float y[WIDEST];
    for (int64_t i = 0; i < size; i++) y[i] = values[i] / sum;
    narrow(y, size, op->type, op->out[0], at);
}

/* The scores [many][CHUNK] of up to QUERIES queries of a kv head for the slots from `first` to `last`. */
static inline void score(const Op *op, int64_t b, int64_t kv, int64_t first, int64_t last, int64_t from, int64_t many,
                         float *rows, float *scores) {
    int64_t time = op->size[1], kvs = op->size[3], size = op->size[4], group = op->size[2] / kvs, width = padded(size);
    int64_t head = b * kvs + kv, at[QUERIES];
    float q[QUERIES * WIDEST];
    for (int64_t i = 0; i < many; i++) {
        int64_t query = from + i, h = kv * group + query % group;
        at[i] = (b * time + query / group) * op->size[8] + h * op->size[9];
    }
#ifdef SCORES_BF16
    if (op->type == BFLOAT16 && op->kind == BFLOAT16) {
        uint16_t *bits = (uint16_t *)q;
        for (int64_t i = 0; i < many; i++) memcpy(bits + i * size, (const uint16_t *)op->in[0] + at[i], 2 * size);
        for (int64_t slot = first; slot < last; slot += KEYS) {
            const uint16_t *keys = (const uint16_t *)op->in[1] + (head * op->size[6] + slot) * size;
            SCORES_BF16(bits, (int)many, keys, last - slot, size, op->number[0], scores + (slot - first), CHUNK);
        }
        return;
    }
#endif
    for (int64_t i = 0; i < many; i++) widen(op->in[0], at[i], op->type, op->number[0], size, q + i * width);
    for (int64_t slot = first; slot < last; slot += KEYS) {
        widen_rows(op, 0, head, slot, last - slot, rows);
        for (int64_t i = 0; i < many; i++) dots(q + i * width, rows, width, scores + i * CHUNK + (slot - first));
    }
}

/* Up to QUERIES queries of a kv head over a chunk of slots. */
static inline void attend_some(const Op *op, int64_t start, int64_t end, int64_t b, int64_t kv, int64_t chunk,
                               int64_t from, int64_t many) {
    int64_t kvs = op->size[3], group = op->size[2] / kvs, deep = padded(op->size[5]), head = b * kvs + kv;
    int64_t first = chunk * CHUNK, last = filled(op, end) < first + CHUNK ? filled(op, end) : first + CHUNK;
    int64_t farthest = start + (from + many - 1) / group + 1; /* later keys are seen by none of these */
    if (end <= op->size[6] && farthest < last) last = farthest > first ? farthest : first;
    int64_t count = padded(last - first), newest = end < 1 ? 0 : end - 1;
    float scores[QUERIES][CHUNK], rows[KEYS * WIDEST], acc[QUERIES * WIDEST], top[QUERIES], sum[QUERIES];
    score(op, b, kv, first, last, from, many, rows, scores[0]);
    for (int64_t i = 0; i < many; i++) {
        int64_t query = from + i, t = query / group, p = start + t < newest ? start + t : newest;
        mask(op, kv * group + query % group, p, end, first, last - first, scores[i]);
        for (int64_t j = last - first; j < count; j++) scores[i][j] = -INFINITY;
        soften(scores[i], count, top + i, sum + i);
    }
    memset(acc, 0, many * deep * sizeof *acc);
    for (int64_t slot = first; slot < last; slot += KEYS) {
        widen_rows(op, 1, head, slot, last - slot, rows);
        for (int64_t i = 0; i < many; i++) add_values(scores[i] + (slot - first), rows, deep, acc + i * deep);
    }
    for (int64_t i = 0; i < many; i++) {
        if (chunks_of(op, end) == 1) {
            put_out(op, b, kv, from + i, acc + i * deep, sum[i]);
            continue;
        }
        float *kept = partial(op, head, chunk, from + i);
        kept[0] = top[i];
        kept[1] = sum[i];
        memcpy(kept + 2, acc + i * deep, deep * sizeof *acc);
    }
}

/* Put the chunks of a kv head together. */
static inline void merge(const Op *op, int64_t b, int64_t kv, int64_t chunks) {
    int64_t head = b * op->size[3] + kv, queries = op->size[1] * op->size[2] / op->size[3], deep = padded(op->size[5]);
    for (int64_t query = 0; query < queries; query++) {
        float top = -INFINITY, sum = 0, acc[WIDEST] = {0};
        for (int64_t c = 0; c < chunks; c++) {
            float other = partial(op, head, c, query)[0];
            top = other > top ? other : top;
        }
        for (int64_t c = 0; c < chunks; c++) {
            const float *part = partial(op, head, c, query);
            float factor = part[0] == -INFINITY ? 0.0f : exponential(part[0] - top);
            sum += part[1] * factor;
            for (int64_t i = 0; i < deep; i++) acc[i] += part[2 + i] * factor;
        }
        put_out(op, b, kv, query, acc, sum);
    }
}

static void attend(const Op *op, const int64_t *starts, const int64_t *ends, int64_t task) {
    int64_t rows = op->size[0], kvs = op->size[3], queries = op->size[1] * op->size[2] / kvs;
    int64_t kv = task % kvs, b = task / kvs % rows, chunk = task / kvs / rows, chunks = chunks_of(op, ends[b]);
    if (chunk >= chunks) return;
    for (int64_t from = 0; from < queries; from += QUERIES) {
        int64_t many = queries - from < QUERIES ? queries - from : QUERIES;
        attend_some(op, starts[b], ends[b], b, kv, chunk, from, many);
    }
    if (chunks == 1) return;
    /* whoever comes last puts them together; the counter begins at 0 again for the next time */
    _Atomic int32_t *done = (_Atomic int32_t *)op->out[1] + b * kvs + kv;
    if (atomic_fetch_add_explicit(done, 1, memory_order_acq_rel) + 1 < chunks) return;
    atomic_store_explicit(done, 0, memory_order_relaxed);
    merge(op, b, kv, chunks);
}
#endif
