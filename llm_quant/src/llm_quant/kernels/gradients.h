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
#endif
