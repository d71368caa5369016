/* What the files of the AVX-512 level share. */
#ifndef LLM_QUANT_AVX512_H
#define LLM_QUANT_AVX512_H

#include <immintrin.h>

#include "kernels.h"

/* Sums of 16 whole numbers: of this type, because gcc keeps arrays of __m512i in memory. */
typedef int32_t Sums __attribute__((vector_size(64)));

static inline __m512i four(const int8_t *x) { /* four columns of one row of x, for each row of weights */
    int32_t bits;
    __builtin_memcpy(&bits, x, 4);
    return _mm512_set1_epi32(bits);
}

/* 16 scales of a block as fp32. */
static inline __m512 scales(const Weight *w, int64_t index) {
    __m256i bits = _mm256_loadu_si256((const __m256i *)((const uint16_t *)w->scale + index));
    if (w->scale_type == FLOAT16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static inline __m512 zeros(const Weight *w, int64_t index) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(w->zero + index))));
}

/* In what follows M (and the like) is a constant wherever it is inlined, so that the sums live in registers. */
#define FIXED static inline __attribute__((always_inline))

static inline __mmask64 first_of(int64_t count) { /* lanes; none for a negative count */
    return count >= 64 ? ~(__mmask64)0 : count <= 0 ? 0 : ((__mmask64)1 << count) - 1;
}

/* 16 numbers of a row, from j on, of which `there` are there, as fp32. */
FIXED __m512 number(const int kind, __mmask16 there, const void *row, int64_t j) {
    if (kind == FLOAT32) return _mm512_maskz_loadu_ps(there, (const float *)row + j);
    if (kind == WHOLE8)
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(there, (const int8_t *)row + j)));
    __m256i bits = _mm256_maskz_loadu_epi16(there, (const uint16_t *)row + j);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

/* Add to each lane the products of four bytes without a sign with four bytes with one. */
FIXED Sums add_products(Sums sum, __m512i weights, __m512i x) {
    return (Sums)_mm512_dpbusd_epi32((__m512i)sum, weights, x);
}

FIXED __m512 as_float(Sums sum) { return _mm512_cvtepi32_ps((__m512i)sum); }

static inline void store(void *out, int64_t index, int type, __m512 values) {
    if (type == FLOAT32) _mm512_storeu_ps((float *)out + index, values);
    else _mm256_storeu_si256((__m256i *)((uint16_t *)out + index), (__m256i)_mm512_cvtneps_pbh(values));
}

/* 16 vectors of 16 numbers of 32 bits: rows become columns. */
static inline void transpose(__m512i v[16]) {
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            v[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + 2 + j]);
            v[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + 2 + j]);
        }
    for (int j = 0; j < 4; j++) { /* now each quarter of a register is a 4 x 4 square in its place */
        t[j] = _mm512_shuffle_i32x4(v[j], v[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(v[j], v[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(v[8 + j], v[12 + j], 0xdd);
    }
    for (int j = 0; j < 4; j++) {
        v[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        v[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        v[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        v[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

/* Products (avx512_products.c): of up to MOST_ROWS rows of x with one block of weights, and of many rows with some. */
void int8_avx512(const Weight *w, const Rows *x, int m, int64_t block, float *out);
void int4_avx512(const Weight *w, const Rows *x, int m, int64_t block, float *out);
void bf16_avx512(const Weight *w, const uint16_t *x, int m, int64_t block, float *out);
void pack_avx512(const uint16_t *x, int64_t m, int64_t k, int64_t panel, uint16_t *to);
void many_avx512(const Weight *w, const Rows *x, int type, int64_t m, int64_t block, int64_t count, void *y);
/* nf4 and fp4 (avx512_bit4.c). */
void bit4_avx512(const Weight *w, const void *x, int type, int m, int64_t block, float *out);
void whole4_avx512(const Weight *w, int64_t first, int64_t count, void *out, int type);
void round4_avx512(const void *x, int type, int64_t first, int64_t count, const Rounding4 *to);

#endif
