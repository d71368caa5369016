/* Exact sums of products of whole numbers on 64-bit Arm, four rows of weights side by side. */
#ifndef LLM_QUANT_NEON_SUMS_H
#define LLM_QUANT_NEON_SUMS_H

#include <arm_neon.h>

#include "kernels.h"

#define FIXED static inline __attribute__((always_inline))

#if defined(__ARM_FEATURE_DOTPROD)
typedef struct { int32x4_t high, low; } Sum;   /* of four rows of weights, with the high and the low bytes of x */
typedef struct { int8x16_t high, low; } Four;  /* four columns of a row of x, for each row of weights */
#define QUARTERS(M) ((M) == 4 ? 2 : 4)         /* of a block at a time, so that its sums are 16 registers at most */

FIXED int8x16_t repeated(const int8_t *x) {
    int32_t bits;
    __builtin_memcpy(&bits, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(bits));
}

FIXED Four four(const Rows *x, int64_t at) { return (Four){repeated(x->high + at), repeated(x->low + at)}; }

FIXED Sum plus(Sum sum, int8x16_t weight, Four x) {
    return (Sum){vdotq_s32(sum.high, weight, x.high), vdotq_s32(sum.low, weight, x.low)};
}

FIXED int32x4_t whole(Sum sum) { return vaddq_s32(vshlq_n_s32(sum.high, 8), sum.low); }
#else
typedef struct { int32x4_t row[4]; } Sum;      /* of each of four rows of weights, still apart by column */
typedef int16x8_t Four;                        /* four columns of a row of x, twice */
#define QUARTERS(M) (4 / (M))

FIXED Four four(const Rows *x, int64_t at) {
    int64_t bits;
    __builtin_memcpy(&bits, x->whole + at, 8);
    return vreinterpretq_s16_s64(vdupq_n_s64(bits));
}

FIXED Sum plus(Sum sum, int8x16_t weight, Four x) {
    int16x8_t first = vmovl_s8(vget_low_s8(weight)), last = vmovl_high_s8(weight);
    sum.row[0] = vmlal_s16(sum.row[0], vget_low_s16(first), vget_low_s16(x));
    sum.row[1] = vmlal_high_s16(sum.row[1], first, x);
    sum.row[2] = vmlal_s16(sum.row[2], vget_low_s16(last), vget_low_s16(x));
    sum.row[3] = vmlal_high_s16(sum.row[3], last, x);
    return sum;
}

FIXED int32x4_t whole(Sum sum) {
    return vpaddq_s32(vpaddq_s32(sum.row[0], sum.row[1]), vpaddq_s32(sum.row[2], sum.row[3]));
}
#endif

FIXED int8x16_t without_offset(const uint8_t *bytes) { /* which are 128 too large */
    return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(bytes), vdupq_n_u8(128)));
}

FIXED int8x16_t low_nibbles(uint8x16_t pairs) { return vreinterpretq_s8_u8(vandq_u8(pairs, vdupq_n_u8(15))); }
FIXED int8x16_t high_nibbles(uint8x16_t pairs) { return vreinterpretq_s8_u8(vshrq_n_u8(pairs, 4)); }

#endif
