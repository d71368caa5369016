/* The operations of a list but for the products: for each level's compiler flags.

   Shapes: M rows, C width, B rows of a batch, T new positions of each, H heads, K kv heads, D head size, V size of a
   value, R dimensions of a head that turn, S slots of the cache. */
#ifndef LLM_QUANT_OPS_H
#define LLM_QUANT_OPS_H

#include "attend.h"
#include "gradients.h"

static inline float at(const void *x, int64_t index, int type) {
    return type == FLOAT32 ? ((const float *)x)[index] : from_bf16(((const uint16_t *)x)[index]);
}

/* a * b + c; rounded once in fp32 where the processor can, as torch's kernels do. */
static inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
    return fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

/* LAYER_NORM: size M C; in x, weight or null, bias or null; number eps. Everything is fp32 until the end. */
static inline void layer_norm(const Op *op, int64_t row) {
    int64_t c = op->size[1], from = row * c;
    int type = op->type;
    float sum[16] = {0}, squares[16] = {0}, mean = 0, variance = 0;
    for (int64_t i = 0; i < c; i++) sum[i % 16] += at(op->in[0], from + i, type);
    for (int j = 0; j < 16; j++) mean += sum[j];
    mean /= (float)c;
    for (int64_t i = 0; i < c; i++) {
        float centred = at(op->in[0], from + i, type) - mean;
        squares[i % 16] += centred * centred;
    }
    for (int j = 0; j < 16; j++) variance += squares[j];
    float scale = 1.0f / sqrtf(variance / (float)c + op->number[0]);
    for (int64_t i = 0; i < c; i++) {
        float value = (at(op->in[0], from + i, type) - mean) * scale;
        if (op->in[1]) value *= at(op->in[1], i, type);
        if (op->in[2]) value += at(op->in[2], i, type);
        put(op->out[0], from + i, value, type);
    }
}

/* erf to 1.5e-7 (Abramowitz and Stegun, 7.1.26). */
static inline float error_function(float x) {
    float size = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * size);
    float sum = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    float value = 1.0f - sum * exponential(-size * size);
    return x < 0 ? -value : value;
}

/* GELU: size count; in x; kind 1 for the approximation by tanh (arXiv 1606.08415). */
static inline void gelu(const Op *op, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i++) {
        float x = at(op->in[0], i, op->type), value;
        if (op->kind) value = x - x / (1.0f + exponential(1.5957691216f * (x + 0.044715f * x * x * x)));
        else value = 0.5f * x * (1.0f + error_function(x * 0.70710678f));
        put(op->out[0], i, value, op->type);
    }
}

static inline float rounded(float value, int type) { return type == FLOAT32 ? value : from_bf16(to_bf16(value)); }

/* CAP: number * tanh(x / number), rounded after each step as torch's operators do. size count; in x. */
static inline void cap(const Op *op, int64_t from, int64_t to) {
    float most = op->number[0];
    for (int64_t i = from; i < to; i++) {
        float x = rounded(at(op->in[0], i, op->type) / most, op->type);
        put(op->out[0], i, rounded(1.0f - 2.0f / (1.0f + exponential(2.0f * x)), op->type) * most, op->type);
    }
}

/* COPY: size a b c d, how far the numbers of x are apart in each of these dimensions, and those of y; in x, out y;
   `kind` is the type of y. */
static inline void copy(const Op *op, int64_t a) {
    const int64_t *size = op->size, *x = size + 4, *y = size + 8;
    for (int64_t b = 0; b < size[1]; b++)
        for (int64_t c = 0; c < size[2]; c++)
            for (int64_t d = 0; d < size[3]; d++) {
                float value = at(op->in[0], a * x[0] + b * x[1] + c * x[2] + d * x[3], op->type);
                put(op->out[0], a * y[0] + b * y[1] + c * y[2] + d * y[3], value, op->kind);
            }
}

/* ADD: a + number * b; MULTIPLY: a * b; SCALE: a * number; DIVIDE: a / number. size count; in a, b. */
static inline void elementwise(const Op *op, int64_t from, int64_t to) {
    const void *a = op->in[0], *b = op->in[1];
    int type = op->type;
    float by = op->number[0];
    if (op->code == ADD)
        for (int64_t i = from; i < to; i++) put(op->out[0], i, multiply_add(at(b, i, type), by, at(a, i, type)), type);
    else if (op->code == MULTIPLY)
        for (int64_t i = from; i < to; i++) put(op->out[0], i, at(a, i, type) * at(b, i, type), type);
    else if (op->code == SCALE)
        for (int64_t i = from; i < to; i++) put(op->out[0], i, at(a, i, type) * by, type);
    else
        for (int64_t i = from; i < to; i++) put(op->out[0], i, at(a, i, type) / by, type);
}

/* ROTATE: size B*T H D R T, how many rows of angles there are, T or B*T, and how far positions and heads of x are apart;
   in x, cosines and signed sines [T or B*T][R]; out y [B*T][H][D]. Each head turns its first R/2 dimensions against the
   next R/2; those after R stay as they are. */
static inline void rotate(const Op *op, int64_t row) {
    int64_t heads = op->size[1], size = op->size[2], turning = op->size[3], half = turning / 2;
    int64_t angles = (op->size[5] == op->size[4] ? row % op->size[4] : row) * turning;
    float x[WIDEST], y[WIDEST], cosines[WIDEST], sines[WIDEST];
    widen(op->in[1], angles, op->type, 1.0f, turning, cosines);
    widen(op->in[2], angles, op->type, 1.0f, turning, sines);
    for (int64_t h = 0; h < heads; h++) {
        widen(op->in[0], row * op->size[6] + h * op->size[7], op->type, 1.0f, size, x);
        for (int64_t i = 0; i < turning; i++) y[i] = x[i] * cosines[i];
        if (op->type == BFLOAT16)
            for (int64_t i = 0; i < turning; i++) y[i] = from_bf16(to_bf16(y[i]));
        for (int64_t i = 0; i < half; i++) y[i] = multiply_add(x[half + i], sines[i], y[i]);
        for (int64_t i = 0; i < half; i++) y[half + i] = multiply_add(x[i], sines[half + i], y[half + i]);
        for (int64_t i = turning; i < size; i++) y[i] = x[i];
        narrow(y, size, op->type, op->out[0], (row * heads + h) * size);
    }
}

/* One vector into a row of the cache; into int8 by its largest number, which becomes 127. */
static inline void store_one(const Op *op, int which, int64_t from, int64_t size, int64_t row) {
    void *to = op->out[which];
    if (op->kind != WHOLE8) {
        for (int64_t i = 0; i < size; i++) put(to, row * size + i, at(op->in[which], from + i, op->type), op->kind);
        return;
    }
    float largest = 0;
    for (int64_t i = 0; i < size; i++) {
        float value = fabsf(at(op->in[which], from + i, op->type));
        largest = value > largest || value != value ? value : largest;
    }
    float scale = largest / 127.0f, inverse = scale > 0 && scale < INFINITY ? 1.0f / scale : 0.0f;
    for (int64_t i = 0; i < size; i++) {
        float whole = at(op->in[which], from + i, op->type) * inverse;
        ((int8_t *)to)[row * size + i] = (int8_t)rintf(whole == whole ? whole : 0.0f);
    }
    ((float *)op->in[2 + which])[row] = scale;
}

/* STORE: size B*T T K D V S, and how far positions and heads of k are apart, and those of v; in k, v, and for a cache of
   int8 its scales [B][K][S], which are written; out the cache's k [B][K][S][D] and v [B][K][S][V]. `kind` is the type of
   the cache. */
static inline void store_row(const Op *op, const int64_t *starts, const int64_t *ends, int64_t row) {
    int64_t time = op->size[1], kvs = op->size[2], slots = op->size[5], b = row / time, p = starts[b] + row % time;
    if (p >= ends[b]) return; /* padding */
    for (int64_t kv = 0; kv < kvs; kv++)
        for (int which = 0; which < 2; which++) {
            int64_t size = op->size[3 + which];
            int64_t from = row * op->size[6 + 2 * which] + kv * op->size[7 + 2 * which];
            store_one(op, which, from, size, (b * kvs + kv) * slots + p % slots);
        }
}

/* A task of an operation. */
static void step(const Op *op, const int64_t *starts, const int64_t *ends, int64_t task) {
    int64_t from = task * PIECE, to = from + PIECE < op->size[0] ? from + PIECE : op->size[0];
    int64_t bytes = op->type == FLOAT32 ? 4 : 2;
    switch (op->code) {
    case NORM: norm(op->in[0], op->in[1], op->out[0], task, op->size[1], op->number[0], op->kind, op->type); break;
    case LAYER_NORM: layer_norm(op, task); break;
    case GATED: /* size M, width, and how far rows of the gate and of what it multiplies are apart */
        gated((const char *)op->in[0] + task * op->size[2] * bytes, (const char *)op->in[1] + task * op->size[3] * bytes,
              (char *)op->out[0] + task * op->size[1] * bytes, op->size[1], op->type);
        break;
    case GELU: gelu(op, from, to); break;
    case CAP: cap(op, from, to); break;
    case COPY: copy(op, task); break;
    case ROTATE: rotate(op, task); break;
    case STORE: store_row(op, starts, ends, task); break;
    case NORM_BACKWARD: norm_backward(op, task); break;
    case GATED_BACKWARD: gated_backward(op, from, to); break;
    case NLL: nll(op, task); break;
    case NLL_BACKWARD: nll_backward(op, task); break;
    case ATTEND: attend(op, starts, ends, task); break;
    default: elementwise(op, from, to);
    }
}
#endif
