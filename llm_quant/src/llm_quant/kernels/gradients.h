/* Gradients of small steps, each in one pass where torch takes several: for each level's compiler flags.

   Shapes: M rows, C width. Everything is fp32 until the end. */
#ifndef LLM_QUANT_GRADIENTS_H
#define LLM_QUANT_GRADIENTS_H

#include "attend.h"

static inline float number_at(const void *x, int64_t index, int type) {
    return type == FLOAT32 ? ((const float *)x)[index] : from_bf16(((const uint16_t *)x)[index]);
}

/* NORM_BACKWARD: size M C; in x, weight, d; number eps; out the gradient of x where d is that of x / rms(x) * weight. */
static inline void norm_backward(const Op *op, int64_t row) {
    int64_t c = op->size[1], from = row * c, whole = c / 16 * 16;
    int type = op->type;
    const void *x = op->in[0], *weight = op->in[1], *d = op->in[2];
    float squares[16] = {0}, along[16] = {0}, square = 0, dot = 0;
    for (int64_t i = 0; i < whole; i += 16)
        for (int j = 0; j < 16; j++) {
            float value = number_at(x, from + i + j, type);
            squares[j] += value * value;
            along[j] += value * (number_at(weight, i + j, type) * number_at(d, from + i + j, type));
        }
    for (int64_t i = whole; i < c; i++) {
        float value = number_at(x, from + i, type);
        squares[0] += value * value;
        along[0] += value * (number_at(weight, i, type) * number_at(d, from + i, type));
    }
    for (int j = 0; j < 16; j++) square += squares[j], dot += along[j];
    float scale = 1.0f / sqrtf(square / (float)c + op->number[0]), less = scale * scale * scale * dot / (float)c;
    for (int64_t i = 0; i < c; i++) {
        float value = number_at(weight, i, type) * number_at(d, from + i, type) * scale;
        put(op->out[0], from + i, value - number_at(x, from + i, type) * less, type);
    }
}

/* GATED_BACKWARD: size count; in gate, up, d; out the gradients of gate and up where d is that of silu(gate) * up. */
static inline void gated_backward(const Op *op, int64_t from, int64_t to) {
    if (op->type == FLOAT32) {
        const float *gate = op->in[0], *up = op->in[1], *d = op->in[2];
        float *dgate = op->out[0], *dup = op->out[1];
        for (int64_t i = from; i < to; i++) {
            float share = 1.0f / (1.0f + exponential(-gate[i]));
            dgate[i] = d[i] * up[i] * share * (1.0f + gate[i] * (1.0f - share));
            dup[i] = d[i] * gate[i] * share;
        }
    } else {
        const uint16_t *gate = op->in[0], *up = op->in[1], *d = op->in[2];
        uint16_t *dgate = op->out[0], *dup = op->out[1];
        for (int64_t i = from; i < to; i++) {
            float g = from_bf16(gate[i]), by = from_bf16(d[i]), share = 1.0f / (1.0f + exponential(-g));
            dgate[i] = to_bf16(by * from_bf16(up[i]) * share * (1.0f + g * (1.0f - share)));
            dup[i] = to_bf16(by * g * share);
        }
    }
}
/* NLL: size M V; in logits, targets as 64-bit numbers; out fp32 [2][M]: log sum e^logit less the target's logit, and the
   former by itself. */
static inline void nll(const Op *op, int64_t row) {
    int64_t v = op->size[1], from = row * v, whole = v / 16 * 16;
    float most[16], part[16] = {0}, top = -INFINITY, sum = 0, *out = op->out[0];
    for (int j = 0; j < 16; j++) most[j] = -INFINITY;
    if (op->type == FLOAT32) {
        const float *x = (const float *)op->in[0] + from;
        for (int64_t i = 0; i < whole; i += 16)
            for (int j = 0; j < 16; j++) most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
        for (int64_t i = whole; i < v; i++) most[0] = x[i] > most[0] ? x[i] : most[0];
        for (int j = 0; j < 16; j++) top = most[j] > top ? most[j] : top;
        for (int64_t i = 0; i < whole; i += 16)
            for (int j = 0; j < 16; j++) part[j] += exponential(x[i + j] - top);
        for (int64_t i = whole; i < v; i++) part[0] += exponential(x[i] - top);
    } else {
        const uint16_t *x = (const uint16_t *)op->in[0] + from;
        for (int64_t i = 0; i < whole; i += 16)
            for (int j = 0; j < 16; j++) most[j] = from_bf16(x[i + j]) > most[j] ? from_bf16(x[i + j]) : most[j];
        for (int64_t i = whole; i < v; i++) most[0] = from_bf16(x[i]) > most[0] ? from_bf16(x[i]) : most[0];
        for (int j = 0; j < 16; j++) top = most[j] > top ? most[j] : top;
        for (int64_t i = 0; i < whole; i += 16)
            for (int j = 0; j < 16; j++) part[j] += exponential(from_bf16(x[i + j]) - top);
        for (int64_t i = whole; i < v; i++) part[0] += exponential(from_bf16(x[i]) - top);
    }
    for (int j = 0; j < 16; j++) sum += part[j];
    float all = top + logf(sum), target = number_at(op->in[0], from + ((const int64_t *)op->in[1])[row], op->type);
    out[row] = all - target;
    out[op->size[0] + row] = all;
}

/* NLL_BACKWARD: size M V; in logits, targets, the logarithms of NLL fp32 [M], factors fp32 [M]; out the gradient of the
   logits where the gradients of NLL are the factors. */
static inline void nll_backward(const Op *op, int64_t row) {
    int64_t v = op->size[1], from = row * v, target = from + ((const int64_t *)op->in[1])[row];
    float all = ((const float *)op->in[2])[row], factor = ((const float *)op->in[3])[row];
    if (op->type == FLOAT32) {
        const float *x = (const float *)op->in[0] + from;
        float *out = (float *)op->out[0] + from;
        for (int64_t i = 0; i < v; i++) out[i] = exponential(x[i] - all) * factor;
    } else {
        const uint16_t *x = (const uint16_t *)op->in[0] + from;
        uint16_t *out = (uint16_t *)op->out[0] + from;
        for (int64_t i = 0; i < v; i++) out[i] = to_bf16(exponential(from_bf16(x[i]) - all) * factor);
    }
    float share = exponential(number_at(op->in[0], target, op->type) - all);
    put(op->out[0], target, (share - 1.0f) * factor, op->type);
}
#endif
