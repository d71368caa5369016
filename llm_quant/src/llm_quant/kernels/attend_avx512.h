/* Attention over a cache by AVX-512: scores with keys of bf16 or int8 from pairs of columns, 32 keys side by side, so
   that nothing is summed across a register; values of any type widened once for 8 queries, whose sums stay in registers.
   Shapes as in attend.h. A query's numbers don't depend on how many others go with it. */
#ifndef LLM_QUANT_ATTEND_AVX512_H
#define LLM_QUANT_ATTEND_AVX512_H

#include "attend_plain.h"

#define PAIRS (WIDEST / 2)
#define ROWS_AHEAD 64 /* rows of the cache are asked for so many before they are needed */

static inline int bytes_of(int type) { return type == FLOAT32 ? 4 : type == BFLOAT16 ? 2 : 1; }

/* A query as whole numbers of 16 bits, zeros up to `width`, in the order in which keys of int8 are laid; what a product
   has to be multiplied by. All bits are used, so a score loses less than it does to the rounding of keys. */
static inline float round_query(const float *x, int64_t width, int16_t *to) {
    __m512 most = _mm512_setzero_ps();
    for (int64_t i = 0; i < width; i += 16)
        most = _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(most),
                                                    _mm512_castps_si512(_mm512_abs_ps(_mm512_loadu_ps(x + i)))));
    /* NaN is the most */
    union { uint32_t u; float f; } size = {.u = _mm512_reduce_max_epu32(_mm512_castps_si512(most))};
    int seen = size.f <= 3.4028235e38f && size.f > 1e-30f;
    __m512 inverse = _mm512_set1_ps(seen ? LARGEST / size.f : 0.0f);
    for (int64_t i = 0; i < width; i += 16) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), inverse));
        whole = _mm512_shuffle_epi32(whole, 0xd8); /* columns 0 and 2 of four are a pair, and 1 and 3 */
        _mm256_storeu_si256((__m256i *)(to + i), _mm512_cvtepi32_epi16(whole));
    }
    return size.f <= 3.4028235e38f ? seen ? size.f / LARGEST : 0.0f : size.f - size.f;
}

/* 16 keys [16][size], of which `count` are there, as pairs of columns [pairs][16]. */
FIXED void lay_bf16(const int all, const uint16_t *keys, int64_t count, int64_t size, __m512i *to) {
    for (int64_t j = 0; j < size; j += 32) {
        __mmask32 there = (__mmask32)first_of(size - j);
        __m512i rows[16];
        for (int i = 0; i < 16; i++)
            rows[i] = _mm512_maskz_loadu_epi16(all || i < count ? there : 0, keys + i * size + j);
        for (int i = 0; i < 16; i++) _mm_prefetch((const char *)(keys + (ROWS_AHEAD + i) * size + j), _MM_HINT_T0);
        transpose(rows);
        for (int i = 0; i < 16; i++) to[j / 2 + i] = rows[i];
    }
}

FIXED void lay_int8(const int all, const int8_t *keys, int64_t count, int64_t size, __m512i *to) {
    for (int64_t j = 0; j < size; j += 64) {
        __mmask64 there = first_of(size - j);
        __m512i rows[16];
        for (int i = 0; i < 16; i++)
            rows[i] = _mm512_maskz_loadu_epi8(all || i < count ? there : 0, keys + i * size + j);
        for (int i = 0; i < 16; i++) _mm_prefetch((const char *)(keys + (ROWS_AHEAD + i) * size + j), _MM_HINT_T0);
        transpose(rows);
        for (int i = 0; i < 16; i++) { /* the even bytes of each pair of them, and the odd ones */
            to[j / 2 + 2 * i] = _mm512_srai_epi16(_mm512_slli_epi16(rows[i], 8), 8);
            to[j / 2 + 2 * i + 1] = _mm512_srai_epi16(rows[i], 8);
        }
    }
}

static inline void lay(const Op *op, int64_t row, int64_t count, __m512i *to) {
    int64_t size = op->size[4];
    const void *keys = (const char *)op->in[1] + row * size * bytes_of(op->kind);
    if (op->kind == BFLOAT16) count >= 16 ? lay_bf16(1, keys, 16, size, to) : lay_bf16(0, keys, count, size, to);
    else count >= 16 ? lay_int8(1, keys, 16, size, to) : lay_int8(0, keys, count, size, to);
}

/* The scores of M queries [M][width] with 32 keys; M is a constant wherever this is inlined. */
FIXED void pairs(const int M, const int whole, const uint16_t *q, int64_t width, __m512i (*keys)[PAIRS],
                 const float *factors, const __m512 *scales, float *scores) {
    __m512 sum[8][2];
    for (int m = 0; m < M; m++) sum[m][0] = sum[m][1] = _mm512_setzero_ps();
    for (int64_t p = 0; p < width / 2; p++) {
        __m512i first = keys[0][p], next = keys[1][p];
        for (int m = 0; m < M; m++) {
            int32_t pair;
            __builtin_memcpy(&pair, q + m * width + 2 * p, 4);
            __m512i x = _mm512_set1_epi32(pair);
            if (whole) {
                sum[m][0] = (__m512)_mm512_dpwssd_epi32((__m512i)sum[m][0], first, x);
                sum[m][1] = (__m512)_mm512_dpwssd_epi32((__m512i)sum[m][1], next, x);
            } else {
                sum[m][0] = _mm512_dpbf16_ps(sum[m][0], (__m512bh)first, (__m512bh)x);
                sum[m][1] = _mm512_dpbf16_ps(sum[m][1], (__m512bh)next, (__m512bh)x);
            }
        }
    }
    for (int m = 0; m < M; m++)
        for (int h = 0; h < 2; h++) {
            __m512 value = whole ? _mm512_mul_ps(_mm512_cvtepi32_ps((__m512i)sum[m][h]), scales[h]) : sum[m][h];
            _mm512_storeu_ps(scores + m * BLOCK + 16 * h, _mm512_mul_ps(value, _mm512_set1_ps(factors[m])));
        }
}

FIXED void all_pairs(const int whole, Some *s, int64_t width, __m512i (*keys)[PAIRS], const __m512 *scales, int64_t k) {
    const uint16_t *q = (const uint16_t *)s->q;
    int64_t m = 0;
#define GO(M) pairs(M, whole, q + m * width, width, keys, s->factor + m, scales, s->scores[m] + k)
    for (; m + 8 <= s->many; m += 8) GO(8);
    for (; m + 4 <= s->many; m += 4) GO(4);
    for (; m + 2 <= s->many; m += 2) GO(2);
    if (m < s->many) GO(1);
#undef GO
}

/* acc [M][deep] += values [count][size] times weights [M][BLOCK], for 16 R columns from j on. */
FIXED void columns(const int M, const int R, const int kind, const char *rows, int64_t count, int64_t size, int64_t j,
                   const float *weights, float *acc, int64_t deep) {
    __m512 sum[8][4];
    __mmask16 there[4], whole[4];
    for (int r = 0; r < R; r++) {
        there[r] = (__mmask16)first_of(size - j - 16 * r);
        whole[r] = there[r] ? 0xffff : 0;
        for (int m = 0; m < M; m++) sum[m][r] = _mm512_maskz_loadu_ps(whole[r], acc + m * deep + j + 16 * r);
    }
    for (int64_t i = 0; i < count; i++) {
        const char *row = rows + i * size * bytes_of(kind);
        __m512 value[4];
        for (int r = 0; r < R; r++) value[r] = number(kind, there[r], row, j + 16 * r);
        for (int at = 0; at < 16 * R * bytes_of(kind); at += 64)
            _mm_prefetch(row + (ROWS_AHEAD * size + j) * bytes_of(kind) + at, _MM_HINT_T0);
        for (int m = 0; m < M; m++) {
            __m512 weight = _mm512_set1_ps(weights[m * BLOCK + i]);
            for (int r = 0; r < R; r++) sum[m][r] = _mm512_fmadd_ps(weight, value[r], sum[m][r]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int m = 0; m < M; m++) _mm512_mask_storeu_ps(acc + m * deep + j + 16 * r, whole[r], sum[m][r]);
}

FIXED void all_columns(const int kind, Some *s, int64_t slot, int64_t count) {
    int64_t size = s->op->size[5], deep = padded(size), m = 0;
    const char *rows = (const char *)s->op->in[2] + (s->head * s->op->size[6] + slot) * size * bytes_of(kind);
#define GO(M, R) \
    for (int64_t j = 0; j < size; j += 16 * R) \
        columns(M, R, kind, rows, count, size, j, s->scores[m], s->acc + m * deep, deep)
    for (; m + 8 <= s->many; m += 8) GO(8, 2);
    for (; m + 4 <= s->many; m += 4) GO(4, 4);
    for (; m + 2 <= s->many; m += 2) GO(2, 4);
    if (m < s->many) GO(1, 4);
#undef GO
}

static inline int in_pairs(const Op *op) {
    return op->kind == WHOLE8 || (op->kind == BFLOAT16 && op->type == BFLOAT16);
}

static inline int64_t width_of(const Op *op) { /* of a query in pairs */
    int64_t least = op->kind == WHOLE8 ? 64 : 32;
    return (op->size[4] + least - 1) / least * least;
}

static void own_queries(Some *s) {
    const Op *op = s->op;
    int64_t size = op->size[4], width = width_of(op);
    if (!in_pairs(op)) {
        plain_queries(s);
        return;
    }
    for (int64_t i = 0; i < s->many; i++) {
        uint16_t *to = (uint16_t *)s->q + i * width;
        s->factor[i] = op->number[0];
        if (op->kind == WHOLE8) {
            float x[WIDEST];
            memset(x, 0, width * sizeof *x);
            widen(op->in[0], s->at[i], op->type, 1.0f, size, x);
            s->factor[i] *= round_query(x, width, (int16_t *)to);
        } else {
            memcpy(to, (const uint16_t *)op->in[0] + s->at[i], size * sizeof *to);
            memset(to + size, 0, (width - size) * sizeof *to);
        }
    }
}

static void own_scores(Some *s, int64_t slot, int64_t count) {
    const Op *op = s->op;
    if (!in_pairs(op)) {
        plain_scores(s, slot, count);
        return;
    }
    __m512i keys[2][PAIRS];
    __m512 scales[2];
    for (int64_t k = 0; k < count; k += 32) {
        for (int h = 0; h < 2; h++) {
            int64_t row = s->head * op->size[6] + slot + k + 16 * h, there = count - k - 16 * h;
            lay(op, row, there, keys[h]);
            if (op->kind == WHOLE8)
                scales[h] = _mm512_maskz_loadu_ps((__mmask16)first_of(there), (const float *)op->in[4] + row);
        }
        if (op->kind == WHOLE8) all_pairs(1, s, width_of(op), keys, scales, k);
        else all_pairs(0, s, width_of(op), keys, scales, k);
    }
}

static void own_values(Some *s, int64_t slot, int64_t count) {
    if (s->op->kind == BFLOAT16) all_columns(BFLOAT16, s, slot, count);
    else if (s->op->kind == FLOAT32) all_columns(FLOAT32, s, slot, count);
    else {
        const float *scales = (const float *)s->op->in[5] + s->head * s->op->size[6] + slot;
        for (int64_t i = 0; i < s->many; i++)
            for (int64_t k = 0; k < count; k++) s->scores[i][k] *= scales[k];
        all_columns(WHOLE8, s, slot, count);
    }
}

/* As `exponential` does in steps.h, with sums that are rounded once. x becomes e^(x - below) and is added to part. */
static inline void exponentials(float *x, int64_t count, float below, float *part) {
    const float terms[] = {0.00138889f, 0.00833338592f, 0.0416666642f, 0.166666666f, 0.5f, 1.0f, 1.0f};
    __m512 sum = _mm512_loadu_ps(part);
    for (int64_t k = 0; k < count; k += 16) {
        __m512 value = _mm512_sub_ps(_mm512_loadu_ps(x + k), _mm512_set1_ps(below));
        __mmask16 some = _mm512_cmp_ps_mask(value, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ); /* NaN too */
        __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(value, _mm512_set1_ps(1.44269504f)), 8);
        __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), value); /* ln 2 in two parts */
        rest = _mm512_fmadd_ps(whole, _mm512_set1_ps(2.12194440e-4f), rest);
        __m512 power = _mm512_set1_ps(terms[0]);
        for (int i = 1; i < 7; i++) power = _mm512_fmadd_ps(power, rest, _mm512_set1_ps(terms[i]));
        power = _mm512_maskz_scalef_ps(some, power, whole);
        _mm512_storeu_ps(x + k, power);
        sum = _mm512_add_ps(sum, power);
    }
    _mm512_storeu_ps(part, sum);
}

#define EXPONENTIALS exponentials
#define PREPARE own_queries
#define SCORES own_scores
#define VALUES own_values
#endif
