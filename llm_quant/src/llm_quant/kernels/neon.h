/* The kernels of 64-bit Arm, by the instructions that the file which includes this is compiled for. All but bf16 gives
   the bits of plain C: sums of whole numbers are exact, and fp32 is rounded at the same places in the same order. */
#ifndef LLM_QUANT_NEON_H
#define LLM_QUANT_NEON_H

#include "neon_sums.h"
#include "ops.h"
#include "rounding.h"

#define SHORT 256 /* columns whose products with int8 fit into 32 bits */

/* Whether the processor has an extension: a bit of an entry that Linux gives, or a name that macOS knows. */
#if defined(__linux__)
#include <sys/auxv.h>
#define HAS(entry, bit, name) ((getauxval(entry) & (bit)) != 0)
#elif defined(__APPLE__)
#include <sys/sysctl.h>
static inline int known(const char *name) {
    int value = 0;
    size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, 0, 0) == 0 && value != 0;
}
#define HAS(entry, bit, name) known(name)
#else
#define HAS(entry, bit, name) 0
#endif

FIXED float32x4_t scales(const Weight *w, int64_t index) {
    uint16x4_t bits = vld1_u16((const uint16_t *)w->scale + index);
    if (w->scale_type == FLOAT16) return vcvt_f32_f16(vreinterpret_f16_u16(bits));
    return vreinterpretq_f32_u32(vshll_n_u16(bits, 16));
}

FIXED float32x4_t zeros(const Weight *w, int64_t index) {
    uint32_t bytes;
    __builtin_memcpy(&bytes, w->zero + index, 4);
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
}

/* In what follows M is a constant wherever it is inlined, so that the sums live in registers. */
FIXED void int8_rows(const int M, const Weight *w, const Rows *x, int first, int64_t block, float *out) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    float32x4_t total[4][4] = {0}; /* [M][quarter] */
    for (int64_t begin = 0; begin < w->k; begin += SHORT) {
        int64_t end = begin + SHORT < w->k ? begin + SHORT : w->k;
        for (int quarter = 0; quarter < 4; quarter += QUARTERS(M)) {
            Sum part[4][4] = {0};
            for (int64_t k = begin; k < end; k += 4) {
                Four columns[4];
                for (int m = 0; m < M; m++) columns[m] = four(x, (first + m) * w->k + k);
                for (int q = 0; q < QUARTERS(M); q++) {
                    int8x16_t weight = without_offset(bytes + k * LANES + (quarter + q) * 16);
                    for (int m = 0; m < M; m++) part[m][q] = plus(part[m][q], weight, columns[m]);
                }
            }
            for (int m = 0; m < M; m++)
                for (int q = 0; q < QUARTERS(M); q++) {
                    float32x4_t *sum = &total[m][quarter + q];
                    *sum = vaddq_f32(*sum, vcvtq_f32_s32(whole(part[m][q])));
                }
        }
    }
    for (int q = 0; q < 4; q++) {
        float32x4_t scale = vld1q_f32((const float *)w->scale + block * LANES + q * 4);
        for (int m = 0; m < M; m++)
            vst1q_f32(out + (first + m) * LANES + q * 4,
                      vmulq_n_f32(vmulq_f32(total[m][q], scale), x->scale[first + m]));
    }
}

FIXED void int4_rows(const int M, const Weight *w, const Rows *x, int first, int64_t block, float *out) {
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2;
    float32x4_t total[4][4] = {0}; /* [M][quarter] */
    for (int64_t g = 0; g < groups; g++)
        for (int quarter = 0; quarter < 4; quarter += QUARTERS(M)) {
            Sum part[4][4] = {0};
            for (int64_t k = g * w->group; k < (g + 1) * w->group; k += 8) {
                Four columns[4], next[4];
                for (int m = 0; m < M; m++) {
                    columns[m] = four(x, (first + m) * w->k + k);
                    next[m] = four(x, (first + m) * w->k + k + 4);
                }
                for (int q = 0; q < QUARTERS(M); q++) {
                    uint8x16_t pairs = vld1q_u8(bytes + k * (LANES / 2) + (quarter + q) * 16);
                    for (int m = 0; m < M; m++) {
                        part[m][q] = plus(part[m][q], low_nibbles(pairs), columns[m]);
                        part[m][q] = plus(part[m][q], high_nibbles(pairs), next[m]);
                    }
                }
            }
            for (int q = 0; q < QUARTERS(M); q++) {
                int64_t at = (block * groups + g) * LANES + (quarter + q) * 4;
                float32x4_t scale = scales(w, at), zero = zeros(w, at);
                for (int m = 0; m < M; m++) {
                    float32x4_t *sum = &total[m][quarter + q];
                    float32x4_t offset = vmulq_n_f32(zero, x->sums[(first + m) * groups + g]);
                    float32x4_t centred = vsubq_f32(vcvtq_f32_s32(whole(part[m][q])), offset);
                    *sum = vaddq_f32(*sum, vmulq_f32(centred, scale));
                }
            }
        }
    for (int m = 0; m < M; m++)
        for (int q = 0; q < 4; q++)
            vst1q_f32(out + (first + m) * LANES + q * 4, vmulq_n_f32(total[m][q], x->scale[first + m]));
}

/* Adds the products of 16 columns to two sums. */
#if defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
FIXED void plus_bf16(float32x4_t sum[2], const uint16_t *weight, const uint16_t *x) {
    for (int i = 0; i < 2; i++) {
        bfloat16x8_t row = vreinterpretq_bf16_u16(vld1q_u16(weight + 8 * i));
        sum[i] = vbfdotq_f32(sum[i], row, vreinterpretq_bf16_u16(vld1q_u16(x + 8 * i)));
    }
}
#else
FIXED float32x4_t even(uint16x8_t x) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_u16(x), 16)); }

FIXED float32x4_t odd(uint16x8_t x) {
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u16(x), vdupq_n_u32(0xffff0000u)));
}

FIXED void plus_bf16(float32x4_t sum[2], const uint16_t *weight, const uint16_t *x) {
    for (int i = 0; i < 2; i++) {
        uint16x8_t row = vld1q_u16(weight + 8 * i), columns = vld1q_u16(x + 8 * i);
        sum[0] = vfmaq_f32(sum[0], even(row), even(columns));
        sum[1] = vfmaq_f32(sum[1], odd(row), odd(columns));
    }
}
#endif

/* R rows of weights against M rows of x. */
FIXED void bf16_rows(const int M, const int R, const Weight *w, const uint16_t *x, int first, int64_t n, float *out) {
    const uint16_t *weight = (const uint16_t *)w->weight + n * w->k;
    float32x4_t sum[4][4][2] = {0}; /* [R][M][2] */
    int64_t k = 0;
    x += first * w->k;
    for (; k + 16 <= w->k; k += 16)
        for (int r = 0; r < R; r++)
            for (int m = 0; m < M; m++) plus_bf16(sum[r][m], weight + r * w->k + k, x + m * w->k + k);
    for (int r = 0; r < R; r++)
        for (int m = 0; m < M; m++) {
            float rest = 0;
            for (int64_t i = k; i < w->k; i++) rest += from_bf16(weight[r * w->k + i]) * from_bf16(x[m * w->k + i]);
            out[(first + m) * LANES + n % LANES + r] = vaddvq_f32(vaddq_f32(sum[r][m][0], sum[r][m][1])) + rest;
        }
}

static void int8_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    int row = 0;
    for (; row + 4 <= m; row += 4) int8_rows(4, w, x, row, block, out);
    for (; row + 2 <= m; row += 2) int8_rows(2, w, x, row, block, out);
    if (row < m) int8_rows(1, w, x, row, block, out);
}

static void int4_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    int row = 0;
    for (; row + 4 <= m; row += 4) int4_rows(4, w, x, row, block, out);
    for (; row + 2 <= m; row += 2) int4_rows(2, w, x, row, block, out);
    if (row < m) int4_rows(1, w, x, row, block, out);
}

static void bf16_product(const Weight *w, const uint16_t *x, int m, int64_t block, float *out) {
    for (int64_t n = block * LANES; n < (block + 1) * LANES; n += 4) {
        int row = 0;
        for (; row + 4 <= m; row += 4) {
            bf16_rows(4, 2, w, x, row, n, out);
            bf16_rows(4, 2, w, x, row, n + 2, out);
        }
        for (; row + 2 <= m; row += 2) bf16_rows(2, 4, w, x, row, n, out);
        if (row < m) bf16_rows(1, 4, w, x, row, n, out);
    }
}

FIXED uint16x4_t halves_of(float32x4_t values) { /* to nearest, ties to even; weights are finite */
    uint32x4_t bits = vreinterpretq_u32_f32(values);
    uint32x4_t last = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    return vshrn_n_u32(vaddq_u32(bits, vaddq_u32(last, vdupq_n_u32(0x7fff))), 16);
}

/* Eight columns of one row. */
FIXED void store(void *out, int64_t index, int type, int8x8_t whole, float zero, float scale) {
    int16x8_t wide = vmovl_s8(whole);
    float32x4_t first = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), last = vcvtq_f32_s32(vmovl_high_s16(wide));
    first = vmulq_n_f32(vsubq_f32(first, vdupq_n_f32(zero)), scale);
    last = vmulq_n_f32(vsubq_f32(last, vdupq_n_f32(zero)), scale);
    if (type == FLOAT32) {
        vst1q_f32((float *)out + index, first);
        vst1q_f32((float *)out + index + 4, last);
    } else {
        vst1q_u16((uint16_t *)out + index, vcombine_u16(halves_of(first), halves_of(last)));
    }
}

/* Eight columns of four rows of weights, `whole[0]` the first four columns of each row and `whole[1]` the next. */
FIXED void store_rows(void *out, int64_t index, int64_t stride, int type, const int8x16_t whole[2], const float *zero,
                      const float *scale) {
    int32x4_t first = vreinterpretq_s32_s8(whole[0]), next = vreinterpretq_s32_s8(whole[1]);
    int8x16_t rows[2] = {vreinterpretq_s8_s32(vzip1q_s32(first, next)), vreinterpretq_s8_s32(vzip2q_s32(first, next))};
    for (int i = 0; i < 2; i++) {
        store(out, index + 2 * i * stride, type, vget_low_s8(rows[i]), zero[2 * i], scale[2 * i]);
        store(out, index + (2 * i + 1) * stride, type, vget_high_s8(rows[i]), zero[2 * i + 1], scale[2 * i + 1]);
    }
}

/* Four rows of weights at a time, and for these some columns at a time, which stay in the nearest cache. */
static void expand_int8(const Weight *w, int64_t block, void *out, int type) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    const float *scale = (const float *)w->scale + block * LANES, zero[4] = {0};
    int64_t whole = w->k - w->k % 8;
    for (int64_t begin = 0; begin < whole; begin += SHORT)
        for (int lane = 0; lane < LANES; lane += 4)
            for (int64_t k = begin; k < whole && k < begin + SHORT; k += 8) {
                const uint8_t *at = bytes + k * LANES + lane * 4;
                int8x16_t columns[2] = {without_offset(at), without_offset(at + 4 * LANES)};
                store_rows(out, lane * w->k + k, w->k, type, columns, zero, scale + lane);
            }
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t k = whole; k < w->k; k++)
            put(out, lane * w->k + k, (float)((int)bytes[k / 4 * 64 + lane * 4 + k % 4] - 128) * scale[lane], type);
}

static void expand_int4(const Weight *w, int64_t block, void *out, int type) {
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2;
    for (int64_t g = 0; g < groups; g++)
        for (int lane = 0; lane < LANES; lane += 4) {
            float scale[4], zero[4];
            vst1q_f32(scale, scales(w, (block * groups + g) * LANES + lane));
            vst1q_f32(zero, zeros(w, (block * groups + g) * LANES + lane));
            for (int64_t k = g * w->group; k < (g + 1) * w->group; k += 8) {
                uint8x16_t pairs = vld1q_u8(bytes + k * (LANES / 2) + lane * 4);
                int8x16_t columns[2] = {low_nibbles(pairs), high_nibbles(pairs)};
                store_rows(out, lane * w->k + k, w->k, type, columns, zero, scale);
            }
        }
}

static void expand(const Weight *w, int64_t block, void *out, int type) {
    w->kind == INT8 ? expand_int8(w, block, out, type) : expand_int4(w, block, out, type);
}

#endif
