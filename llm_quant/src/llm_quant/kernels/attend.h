/* Attention of a few new positions over a cache, for each level's compiler flags. Scores, e^score and sums are fp32 whatever
   the types (but AVX-512 takes queries as whole numbers of 16 bits where the cache is of int8).

   Shapes: B rows of a batch, T new positions of each, H heads, K kv heads, G = H / K, D head size, V size of a value,
   S slots of the cache. ATTEND: size B T H K D V S window, and how far positions and heads of q are apart; in q,
   k [B][K][S][D], v [B][K][S][V], slopes [H] or null, and for a cache of int8 the scales of k and v [B][K][S] fp32; out
   y [B][T][H][V], and the memory that `attend_scratch` says, whose first B * K numbers begin as 0; number scale, cap or 0.
   `kind` is the type of the cache. Position p of a row is in slot p modulo S; row b has ends[b] positions, T of them new.
   A window of 0 is none; below 0, all queries see every slot, wherever they are.

   A task is a chunk of slots of a kv head. Its slots are taken in blocks, whose scores, their largest and their sum stay in
   the fastest memory (online softmax, arXiv 1805.02867); chunks are put together at the end. Blocks and chunks lie at the
   same slots for each query, so a query's numbers don't depend on the number of threads, nor on what goes with it. */
#ifndef LLM_QUANT_ATTEND_H
#define LLM_QUANT_ATTEND_H

#include <math.h>
#include <stdatomic.h>

#include "attend_plain.h"
#include "steps.h"

#ifndef SCORES /* a level may have ways of its own: what it makes of the queries, of a block of keys, and of values */
#define PREPARE plain_queries
#define SCORES plain_scores
#define VALUES plain_values
#endif

/* `count` fp32 numbers as numbers of `type`. */
static inline void narrow(const float *from, int64_t count, int type, void *to, int64_t at) {
    if (type == FLOAT32) memcpy((float *)to + at, from, count * sizeof *from);
    else for (int64_t i = 0; i < count; i++) ((uint16_t *)to)[at + i] = to_bf16(from[i]);
}

/* tanh to 5e-7 of itself, in steps that can be vectorised: by its series near 0, where the other way loses digits. */
static inline float hyperbolic_tangent(float x) {
    float square = x * x, far = 1.0f - 2.0f / (1.0f + exponential(2.0f * x));
    float sum = 0.0218694885f + square * (-0.00886323553f + square * 0.00359212804f);
    float near = x + x * square * (-0.333333333f + square * (0.133333333f + square * (-0.0539682540f + square * sum)));
    return square < 0.25f ? near : far;
}

static inline void soft_cap(float cap, int64_t count, float *scores) {
    for (int64_t i = 0; i < count; i++) scores[i] = hyperbolic_tangent(scores[i] / cap) * cap;
}

/* Lower the scores of slots that hold the positions from `at` on by distance, and leave out what p doesn't see. */
static inline void mask_run(float slope, int64_t window, int64_t p, int64_t at, int64_t count, float *scores) {
    int64_t least = window > 0 ? p - window : -1; /* positions begin at 0 */
    if (slope != 0)
        for (int64_t i = 0; i < count; i++) scores[i] -= slope * (float)(p - (at + i));
    for (int64_t i = 0; i < count && at + i <= least; i++) scores[i] = -INFINITY;
    for (int64_t i = p + 1 > at ? p + 1 - at : 0; i < count; i++) scores[i] = -INFINITY;
}

/* Cap the scores of the slots from `first` on, lower them by distance and leave out what position p doesn't see. */
static inline void mask(const Op *op, int64_t head, int64_t p, int64_t end, int64_t first, int64_t count,
                        float *scores) {
    const float *slopes = op->in[3], slope = slopes ? slopes[head] : 0.0f, cap = op->number[1];
    int64_t slots = op->size[6], window = op->size[7], newest = end < 1 ? 0 : end - 1, turn = newest / slots * slots;
    int64_t now = newest - turn + 1 - first; /* of them are of this turn of the slots, the others of the turn before */
    now = end <= slots || now > count ? count : now < 0 ? 0 : now;
    if (cap > 0) soft_cap(cap, count, scores);
    mask_run(slope, window, p, turn + first, now, scores);
    mask_run(slope, window, p, turn - slots + first + now, count - now, scores + now);
}

/* The largest of some numbers by their bits, made to order like whole numbers; NaN may be it. */
static inline float largest_of(const float *x, int64_t count, float least) {
    union { float f; int32_t i; } v = {.f = least};
    int32_t most = v.i ^ (v.i >> 31 & 0x7fffffff);
    for (int64_t k = 0; k < count; k++) {
        union { float f; int32_t i; } w = {.f = x[k]};
        int32_t order = w.i ^ (w.i >> 31 & 0x7fffffff);
        most = order > most ? order : most;
    }
    v.i = most ^ (most >> 31 & 0x7fffffff);
    return v.f;
}

#ifndef EXPONENTIALS
/* x becomes e^(x - below), and is added to part [16]; `count` is a multiple of 16. */
static inline void exponentials(float *restrict x, int64_t count, float below, float *restrict part) {
    float sum[16];
    memcpy(sum, part, sizeof sum);
    for (int64_t k = 0; k < count; k += 16)
        for (int j = 0; j < 16; j++) {
            x[k + j] = exponential(x[k + j] - below);
            sum[j] += x[k + j];
        }
    memcpy(part, sum, sizeof sum);
}
#define EXPONENTIALS exponentials
#endif

/* The scores of query i become e^(score - largest), and what was summed before follows when there is a larger one.
   `count` is a multiple of 16. */
static inline void soften(Some *s, int64_t i, int64_t count, int64_t deep) {
    float *scores = s->scores[i], *part = s->part[i], *acc = s->acc + i * deep;
    float before = s->top[i], top = largest_of(scores, count, before);
    if (top > before) { /* not where it is NaN, which shows in the sum */
        float factor = exponential(before - top);
        for (int j = 0; j < 16; j++) part[j] *= factor;
        for (int64_t j = 0; j < deep; j++) acc[j] *= factor;
        s->top[i] = top;
    }
    float below = s->top[i] == -INFINITY ? 0.0f : s->top[i]; /* where nothing is seen, all become 0 */
    EXPONENTIALS(scores, count, below, part);
}

static inline float total(const float *part) {
    float sum = 0;
    for (int j = 0; j < 16; j++) sum += part[j];
    return sum;
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

/* Queries of a kv head, none of whose keys were looked at yet. */
static inline void begin(Some *s, const Op *op, int64_t b, int64_t kv, int64_t from, int64_t many) {
    int64_t time = op->size[1], group = op->size[2] / op->size[3], deep = padded(op->size[5]);
    s->op = op;
    s->head = b * op->size[3] + kv;
    s->many = many;
    for (int64_t i = 0; i < many; i++) {
        int64_t query = from + i, h = kv * group + query % group;
        s->at[i] = (b * time + query / group) * op->size[8] + h * op->size[9];
        s->top[i] = -INFINITY;
    }
    memset(s->part, 0, many * sizeof *s->part);
    memset(s->acc, 0, many * deep * sizeof *s->acc);
    PREPARE(s);
}

/* Up to QUERIES queries of a kv head over a chunk of slots. */
static inline void attend_some(const Op *op, int64_t start, int64_t end, int64_t b, int64_t kv, int64_t chunk,
                               int64_t from, int64_t many) {
    int64_t group = op->size[2] / op->size[3], deep = padded(op->size[5]), newest = end < 1 ? 0 : end - 1;
    int64_t first = chunk * CHUNK, last = filled(op, end) < first + CHUNK ? filled(op, end) : first + CHUNK;
    int64_t farthest = start + (from + many - 1) / group + 1; /* later keys are seen by none of these */
    if (end <= op->size[6] && farthest < last) last = farthest > first ? farthest : first;
    Some s;
    begin(&s, op, b, kv, from, many);
    for (int64_t slot = first; slot < last; slot += BLOCK) {
        int64_t count = last - slot < BLOCK ? last - slot : BLOCK;
        SCORES(&s, slot, count);
        for (int64_t i = 0; i < many; i++) {
            int64_t query = from + i, t = query / group, p = start + t < newest ? start + t : newest;
            mask(op, kv * group + query % group, p, end, slot, count, s.scores[i]);
            for (int64_t j = count; j < padded(count); j++) s.scores[i][j] = -INFINITY;
            soften(&s, i, padded(count), deep);
        }
        VALUES(&s, slot, count);
    }
    for (int64_t i = 0; i < many; i++) {
        if (chunks_of(op, end) == 1) {
            put_out(op, b, kv, from + i, s.acc + i * deep, total(s.part[i]));
            continue;
        }
        float *kept = partial(op, s.head, chunk, from + i);
        kept[0] = s.top[i];
        kept[1] = total(s.part[i]);
        memcpy(kept + 2, s.acc + i * deep, deep * sizeof *s.acc);
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
    int64_t kvs = op->size[3], queries = op->size[1] * op->size[2] / kvs, most = most_chunks(op, ends);
    int64_t chunk = task % most, kv = task / most % kvs, b = task / most / kvs, end = end_of(op, ends, b);
    int64_t start = sees_all(op) ? end : starts[b], chunks = chunks_of(op, end);
    if (chunk >= chunks) return;
    for (int64_t from = 0; from < queries; from += QUERIES) {
        int64_t many = queries - from < QUERIES ? queries - from : QUERIES;
        attend_some(op, start, end, b, kv, chunk, from, many);
    }
    if (chunks == 1) return;
    /* whoever comes last puts them together; the counter begins at 0 again for the next time */
    _Atomic int32_t *done = (_Atomic int32_t *)op->out[1] + b * kvs + kv;
    if (atomic_fetch_add_explicit(done, 1, memory_order_acq_rel) + 1 < chunks) return;
    atomic_store_explicit(done, 0, memory_order_relaxed);
    merge(op, b, kv, chunks);
}
#endif
