/* The small steps between products when a token is decoded, which torch takes several operators each for: in loops that
   each level's compiler flags vectorise.

   Shapes: C width. Numbers are of `type`, fp32 or bf16; where torch's operators round between two steps, so do these. */
#ifndef LLM_QUANT_STEPS_H
#define LLM_QUANT_STEPS_H

#include <math.h>

#include "kernels.h"

/* e^x to 2e-7 of itself; 0 below -87. The power of two is put together from its bits. */
static inline float exponential(float x) {
    const float nearest = 12582912.0f;
    float low = x > -87.0f ? x : -87.0f, bounded = low < 88.0f ? low : 88.0f; /* NaN becomes -87, and itself below */
    float whole = (bounded * 1.44269504f + nearest) - nearest;
    float rest = bounded - whole * 0.693359375f + whole * 2.12194440e-4f; /* ln 2 in two parts */
    float power = 1.0f + rest * (1.0f + rest * (0.5f + rest * (0.166666666f + rest * (0.0416666642f +
                  rest * (0.00833338592f + rest * 0.00138889f)))));
    union { int32_t i; float f; } scale = {.i = ((int32_t)whole + 127) << 23};
    float value = power * scale.f;
    return x < -87.0f ? 0.0f : x > 88.0f ? INFINITY : x != x ? x : value;
}

/* One row: x / rms(x) * weight. With `offset` the weight is 1 + weight, and nothing is rounded in between. */
static void norm(const void *x, const void *weight, void *y, int64_t row, int64_t c, float eps, int offset,
                        int type) {
    float part[16] = {0}, sum = 0;
    int64_t from = row * c, i = 0;
    if (type == FLOAT32) {
        const float *v = (const float *)x + from;
        for (; i + 16 <= c; i += 16)
            for (int j = 0; j < 16; j++) part[j] += v[i + j] * v[i + j];
        for (; i < c; i++) part[0] += v[i] * v[i];
    } else {
        const uint16_t *v = (const uint16_t *)x + from;
        for (; i + 16 <= c; i += 16)
            for (int j = 0; j < 16; j++) part[j] += from_bf16(v[i + j]) * from_bf16(v[i + j]);
        for (; i < c; i++) part[0] += from_bf16(v[i]) * from_bf16(v[i]);
    }
    for (int j = 0; j < 16; j++) sum += part[j];
    float scale = 1.0f / sqrtf(sum / (float)c + eps);
    if (type == FLOAT32) {
        const float *v = (const float *)x + from, *w = (const float *)weight;
        float *out = (float *)y + from, plus = offset ? 1.0f : 0.0f;
        for (i = 0; i < c; i++) out[i] = v[i] * scale * (plus + w[i]);
    } else {
        const uint16_t *v = (const uint16_t *)x + from, *w = (const uint16_t *)weight;
        uint16_t *out = (uint16_t *)y + from;
        if (offset)
            for (i = 0; i < c; i++) out[i] = to_bf16(from_bf16(v[i]) * scale * (1.0f + from_bf16(w[i])));
        else
            for (i = 0; i < c; i++)
                out[i] = to_bf16(from_bf16(to_bf16(from_bf16(v[i]) * scale)) * from_bf16(w[i]));
    }
}

/* silu(gate) * up. */
static void gated(const void *gate, const void *up, void *y, int64_t count, int type) {
    if (type == FLOAT32) {
        const float *g = gate, *u = up;
        float *out = y;
        for (int64_t i = 0; i < count; i++) out[i] = g[i] / (1.0f + exponential(-g[i])) * u[i];
    } else {
        const uint16_t *g = gate, *u = up;
        uint16_t *out = y;
        for (int64_t i = 0; i < count; i++) {
            float value = from_bf16(g[i]);
            out[i] = to_bf16(from_bf16(to_bf16(value / (1.0f + exponential(-value)))) * from_bf16(u[i]));
        }
    }
}
#endif
