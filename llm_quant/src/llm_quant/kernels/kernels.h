/* Products of few rows of activations with many rows of weights, y = x w^T: what the levels of processors share.

   Shapes: M rows of x, N rows of weights, K columns, G groups of columns that share a scale. Weights of int8 and int4 lie
   in blocks of 16 rows, so that a vector register holds one number for each row of a block and nothing is summed across
   a register:
     int8   bytes [N/16][K/4][16][4], 128 more than the weight
     int4   bytes [N/16][K/8][16][4]: the low nibbles are four columns, the high nibbles the next four
     scale  [N/16][G][16] in bf16 or fp16, zero [N/16][G][16] bytes (int4); [N] fp32 (int8)
   bf16 weights are plain [N][K]. nf4 and fp4 (QLoRA, arXiv 2305.14314) are nibbles [N][K], of whose pairs the high one is
   the first, in groups of 64 that run on from row to row, with a scale each: fp32, or a byte where these are rounded
   too. */
#ifndef LLM_QUANT_KERNELS_H
#define LLM_QUANT_KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define LANES 16    /* rows of a block of weights */
#define MOST_ROWS 8 /* rows of x that one pass over a block takes */
#define GROUP4 64   /* numbers of nf4 and fp4 that share a scale */
#define NESTED4 256 /* of whose scales as many share a scale of their own */

enum { FLOAT32, BFLOAT16, FLOAT16, WHOLE8 };

/* Activations as whole numbers of 16 bits: x = scale * whole, whole = 256 * high + low. The largest of a row takes all
   the bits, so the error is at most 1.6e-5 of it: less than that of bf16, which has 8 bits. */
typedef struct {
    int16_t *whole; /* [M][K] */
    int8_t *high;   /* [M][K] */
    int8_t *low;    /* [M][K] */
    int8_t *pairs;  /* [M][K/4][2][4] four of the high ones, then four of the low ones: AVX-512, without the three above */
    float *sums;    /* [M][G] of whole */
    int32_t *highs; /* [M] sum of high */
    int32_t *lows;  /* [M] sum of low */
    float *scale;   /* [M] */
    uint16_t *panels; /* bf16 [M/16][K/2][16][2], for many rows */
} Rows;

#define LARGEST 32639 /* 256 * 127 + 127 */

typedef struct {
    int64_t n, k, group; /* group = k where a row has one scale */
    const void *weight;
    const void *scale;
    const uint8_t *zero;
    const float *bias; /* [N] or null */
    int32_t scale_type;
    int32_t kind; /* INT8, INT4, BF16, BIT4 */
} Weight;

enum { INT8, INT4, BF16, BIT4 }; /* BIT4: nf4 and fp4, whose `zero` is what tables4 gives */

/* What numbers are rounded to: their nibbles by how many of 15 bounds they are above, and the scales of groups. */
typedef struct {
    const float *bounds;  /* [15] */
    const int32_t *order; /* [16] */
    uint8_t *value;
    float *scale;
} Rounding4;

/* One operation of a list (run.c). What the fields hold is told beside each operation in steps.h, attend.h, run.c. */
typedef struct {
    int32_t code;
    int32_t type;  /* of the numbers that it reads and writes */
    int32_t kind;  /* of its weights, or the type of the cache that it uses */
    int32_t stage; /* operations of one stage, which stand side by side, don't wait for each other */
    int32_t alone; /* whether one thread computes its stage, in order */
    float number[3];
    int64_t size[15];
    const void *in[6];
    void *out[2];
} Op;

enum { LINEAR, NORM, LAYER_NORM, GATED, GELU, CAP, ADD, MULTIPLY, SCALE, DIVIDE, COPY, ROTATE, STORE, ATTEND,
       NORM_BACKWARD, GATED_BACKWARD, NLL, NLL_BACKWARD };

/* One level of instructions. `round` fills row `row` of `to` from x [K] of `type`, whose groups have `group` columns. Each
   product is of `m` <= MOST_ROWS rows with the block `block` of weights and writes fp32 sums out[m][16]; `many`, where it
   isn't null, is of any number of rows with `count` blocks and writes y [M][N] of `type`, for which `pack` has put bf16
   into panels; `expand` writes the 16 rows of a block as [16][K] numbers of `type`, fp32 or bf16. `norm` and `gated` are
   in steps.h; `step` computes a part of any operation but LINEAR, of which there are as many as tasks.h says. Of nf4 and
   fp4 `bit4` is the product, with x of `type` as product.c puts it, `whole4` gives some numbers and `round4` rounds them:
   null where torch multiplies and plain C (bit4.c) does the rest. */
typedef struct {
    const char *name;
    int (*supported)(void);
    void (*round)(const void *x, int type, int64_t k, int64_t group, int64_t row, const Rows *to);
    void (*int8)(const Weight *w, const Rows *x, int m, int64_t block, float *out);
    void (*int4)(const Weight *w, const Rows *x, int m, int64_t block, float *out);
    void (*bf16)(const Weight *w, const uint16_t *x, int m, int64_t block, float *out);
    void (*expand)(const Weight *w, int64_t block, void *out, int type);
    void (*norm)(const void *x, const void *weight, void *y, int64_t row, int64_t c, float eps, int offset, int type);
    void (*gated)(const void *gate, const void *up, void *y, int64_t count, int type);
    void (*step)(const Op *op, const int64_t *starts, const int64_t *ends, int64_t task);
    void (*pack)(const uint16_t *x, int64_t m, int64_t k, int64_t panel, uint16_t *to);
    void (*many)(const Weight *w, const Rows *x, int type, int64_t m, int64_t block, int64_t count, void *y);
    void (*bit4)(const Weight *w, const void *x, int type, int m, int64_t block, float *out);
    void (*whole4)(const Weight *w, int64_t first, int64_t count, void *out, int type);
    void (*round4)(const void *x, int type, int64_t first, int64_t count, const Rounding4 *to);
} Level;

extern const Level level_portable, level_avx2, level_avx512, level_neon, level_neon_dot, level_neon_bf16;

static inline float from_bf16(uint16_t bits) {
    union { uint32_t u; float f; } v = {.u = (uint32_t)bits << 16};
    return v.f;
}

static inline uint16_t to_bf16(float value) { /* to nearest, ties to even; NaN stays NaN */
    union { float f; uint32_t u; } v = {.f = value};
    uint32_t kept = (v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16;
    return (uint16_t)((v.u & 0x7fffffffu) > 0x7f800000u ? (v.u >> 16) | 0x40 : kept);
}

static inline void put(void *out, int64_t index, float value, int type) {
    if (type == FLOAT32) ((float *)out)[index] = value;
    else ((uint16_t *)out)[index] = to_bf16(value);
}

static inline float from_fp16(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    union { uint32_t u; float f; } v, scale = {.u = 0x77800000u}; /* 2^112 brings the exponent to fp32's bias */
    v.u = rest << 13;
    v.f *= scale.f;
    if (rest >= 0x7c00) v.u |= 0x7f800000u;
    v.u |= sign;
    return v.f;
}

static inline float scale_at(const Weight *w, int64_t index) {
    uint16_t bits = ((const uint16_t *)w->scale)[index];
    return w->scale_type == FLOAT16 ? from_fp16(bits) : from_bf16(bits);
}

/* The 16 numbers that a nibble may be. Where scales are bytes, an offset follows them, the 256 numbers that a byte may be,
   and the scales of scales. */
static inline const float *tables4(const Weight *w) { return (const float *)(const void *)w->zero; }

static inline float scale4(const Weight *w, int64_t group) {
    if (w->scale_type == FLOAT32) return ((const float *)w->scale)[group];
    const float *nested = tables4(w) + 16;
    return nested[1 + ((const uint8_t *)w->scale)[group]] * nested[257 + group / NESTED4] + nested[0];
}

#endif
