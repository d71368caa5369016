/* Activations as whole numbers, in loops that each level's compiler flags vectorise. */
#ifndef LLM_QUANT_ROUNDING_H
#define LLM_QUANT_ROUNDING_H

#include "kernels.h"

static inline float largest(const float *x, int64_t k) { /* of bits, which order like sizes: NaN comes after infinity */
    union { uint32_t u; float f; } v = {.u = 0};
    for (int64_t i = 0; i < k; i++) {
        union { float f; uint32_t u; } w = {.f = x[i]};
        uint32_t size = w.u & 0x7fffffffu;
        v.u = size > v.u ? size : v.u;
    }
    return v.f;
}

static void round_row(const float *x, int64_t k, int64_t group, int row, const Rows *to) {
    const float nearest = 12582912.0f; /* 1.5 * 2^23: adding it leaves no fraction */
    int16_t *whole = to->whole + row * k;
    int8_t *high = to->high + row * k, *low = to->low + row * k;
    float size = largest(x, k);
    int finite = size <= 3.4028235e38f, seen = finite && size > 1e-30f;
    float inverse = seen ? LARGEST / size : 0.0f;
    for (int64_t i = 0; i < k; i++) {
        float value = finite ? x[i] * inverse : 0.0f;
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

#endif
