/* Plain C, for any processor: the compiler vectorises what it can. Also the definition that the other levels follow. */
#include "kernels.h"
#include "rounding.h"
#include "ops.h"

static int always(void) { return 1; }

static void int8_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    const float *scale = (const float *)w->scale + block * LANES;
    for (int row = 0; row < m; row++) {
        const int16_t *whole = x->whole + row * w->k;
        float sum[LANES] = {0};
        for (int64_t begin = 0; begin < w->k; begin += 256) { /* 256 products of 23 bits fit into 32 */
            int64_t end = begin + 256 < w->k ? begin + 256 : w->k;
            int32_t part[LANES] = {0};
            for (int64_t k = begin; k < end; k += 4)
                for (int lane = 0; lane < LANES; lane++)
                    for (int i = 0; i < 4; i++)
                        part[lane] += ((int32_t)bytes[k * LANES + lane * 4 + i] - 128) * whole[k + i];
            for (int lane = 0; lane < LANES; lane++) sum[lane] += (float)part[lane];
        }
        for (int lane = 0; lane < LANES; lane++) out[row * LANES + lane] = sum[lane] * scale[lane] * x->scale[row];
    }
}

static void int4_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2;
    const uint8_t *zero = w->zero + block * groups * LANES;
    for (int row = 0; row < m; row++) {
        const int16_t *whole = x->whole + row * w->k;
        float sum[LANES] = {0};
        for (int64_t g = 0; g < groups; g++) {
            int32_t part[LANES] = {0};
            for (int64_t k = g * w->group; k < (g + 1) * w->group; k += 8)
                for (int lane = 0; lane < LANES; lane++)
                    for (int i = 0; i < 4; i++) {
                        uint8_t pair = bytes[k * LANES / 2 + lane * 4 + i];
                        part[lane] += (pair & 15) * whole[k + i] + (pair >> 4) * whole[k + 4 + i];
                    }
            for (int lane = 0; lane < LANES; lane++) {
                float centred = (float)part[lane] - zero[g * LANES + lane] * x->sums[row * groups + g];
                sum[lane] += centred * scale_at(w, (block * groups + g) * LANES + lane);
            }
        }
        for (int lane = 0; lane < LANES; lane++) out[row * LANES + lane] = sum[lane] * x->scale[row];
    }
}

static void bf16_product(const Weight *w, const uint16_t *x, int m, int64_t block, float *out) {
    for (int row = 0; row < m; row++)
        for (int lane = 0; lane < LANES; lane++) {
            const uint16_t *weight = (const uint16_t *)w->weight + (block * LANES + lane) * w->k;
            float part[8] = {0}; /* independent sums, which the compiler may keep in one register */
            int64_t k = 0;
            for (; k + 8 <= w->k; k += 8)
                for (int i = 0; i < 8; i++) part[i] += from_bf16(weight[k + i]) * from_bf16(x[row * w->k + k + i]);
            for (; k < w->k; k++) part[0] += from_bf16(weight[k]) * from_bf16(x[row * w->k + k]);
            float sum = 0;
            for (int i = 0; i < 8; i++) sum += part[i];
            out[row * LANES + lane] = sum;
        }
}

static void expand(const Weight *w, int64_t block, void *out, int type) {
    int64_t groups = w->k / w->group;
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t k = 0; k < w->k; k++) {
            int64_t g = (block * groups + k / w->group) * LANES + lane;
            float value;
            if (w->kind == INT8) {
                uint8_t byte = ((const uint8_t *)w->weight)[block * w->k * LANES + k / 4 * 64 + lane * 4 + k % 4];
                value = ((int)byte - 128) * ((const float *)w->scale)[block * LANES + lane];
            } else {
                uint8_t pair = ((const uint8_t *)w->weight)[block * w->k * LANES / 2 + k / 8 * 64 + lane * 4 + k % 4];
                value = ((k % 8 < 4 ? pair & 15 : pair >> 4) - w->zero[g]) * scale_at(w, g);
            }
            put(out, lane * w->k + k, value, type);
        }
}

const Level level_portable = {"portable", always, round_row, int8_product, int4_product, bf16_product, expand,
                             norm, gated, step};
