/* Activations as whole numbers, in loops that each level's compiler flags vectorise. */
#ifndef LLM_QUANT_ROUNDING_H
#define LLM_QUANT_ROUNDING_H

#include "kernels.h"

#define ALIKE static inline __attribute__((always_inline)) /* `type` is a constant where it is inlined */

ALIKE float number(const void *x, int64_t i, int type) {
    return type == FLOAT32 ? ((const float *)x)[i] : from_bf16(((const uint16_t *)x)[i]);
}

ALIKE float largest(const void *x, int64_t k, int type) { /* of bits, which order like sizes: NaN comes after infinity */
    union { uint32_t u; float f; } v = {.u = 0};
    for (int64_t i = 0; i < k; i++) {
        union { float f; uint32_t u; } w = {.f = number(x, i, type)};
        uint32_t size = w.u & 0x7fffffffu;
        v.u = size > v.u ? size : v.u;
    }
    return v.f;
}

ALIKE void round_as(const void *x, int type, int64_t k, int64_t group, int64_t row, const Rows *to) {
    const float nearest = 12582912.0f; /* 1.5 * 2^23: adding it leaves no fraction */
    int16_t *whole = to->whole + row * k;
    int8_t *high = to->high + row * k, *low = to->low + row * k;
    float size = largest(x, k, type);
    int finite = size <= 3.4028235e38f, seen = finite && size > 1e-30f;
    float inverse = seen ? LARGEST / size : 0.0f;
    for (int64_t i = 0; i < k; i++) {
        float value = finite ? number(x, i, type) * inverse : 0.0f;
        int32_t rounded = (int32_t)((value + nearest) - nearest);
        int32_t top = (rounded + 128) >> 8;
        whole[i] = (int16_t)rounded;
        high[i] = (int8_t)top;
        low[i] = (int8_t)(rounded - top * 256);
    }
    int32_t highs = 0, lows = 0;
    for (int64_t g = 0; g < k / group; g++) {
        int32_t above = 0, below = 0;
        for (int64_t i = g * group; i < (g + 1) * group; i++) {
            above += high[i];
            below += low[i];
        }
        to->sums[row * (k / group) + g] = (float)above * 256.0f + (float)below;
        highs += above;
        lows += below;
    }
    to->highs[row] = highs;
    to->lows[row] = lows;
    /* a row with an infinity or NaN gives NaN, as a product would */
    to->scale[row] = !finite ? size - size : seen ? size / LARGEST : 0.0f;
}

static void round_row(const void *x, int type, int64_t k, int64_t group, int64_t row, const Rows *to) {
    if (type == FLOAT32) round_as(x, FLOAT32, k, group, row, to);
    else round_as(x, BFLOAT16, k, group, row, to);
}

#endif
