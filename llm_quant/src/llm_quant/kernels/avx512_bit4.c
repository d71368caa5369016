/* nf4 and fp4 with AVX-512: products of few rows, weights made whole, and weights rounded. kernels.h has the layout. */
#include "kernels.h"

#if defined(__x86_64__)
#include "avx512.h"

#define AHEAD 1024 /* bytes: weights are asked for so far before they are needed */
#define EACH(i, count) _Pragma("GCC unroll 8") for (int i = 0; i < (count); i++)

/* A table of 16 numbers in bf16, twice, so that the fifth bit of an index doesn't matter; `rest` is what that leaves. */
typedef struct { __m512i near, rest; } Narrow;

static inline __m512i twice(__m512 numbers) {
    __m512i low = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(numbers));
    return _mm512_shuffle_i64x2(low, low, 0x44);
}

static inline Narrow narrow(const float *table) {
    __m512 numbers = _mm512_loadu_ps(table);
    __m512i near = twice(numbers);
    __m512 there = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(near)), 16));
    return (Narrow){near, twice(_mm512_sub_ps(numbers, there))};
}

static inline __m512 pairs(__m512 sum, __m512i a, const uint16_t *b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)_mm512_loadu_si512(b));
}

/* One row of weights, `bytes` with scales from `group` on, with M rows of x, bf16 and [M][K] as `apart` has left them. */
FIXED void bf16_row(const int M, const Weight *w, const Narrow *t, const uint16_t *x, int64_t row, float *out) {
    const uint8_t *bytes = (const uint8_t *)w->weight + row * w->k / 2;
    __m512 total[MOST_ROWS];
    EACH(m, M) total[m] = _mm512_setzero_ps();
    for (int64_t k = 0, group = row * w->k / GROUP4; k < w->k; k += GROUP4, group++) {
        __m512i odd = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(bytes + k / 2)));
        __m512i even = _mm512_srli_epi16(odd, 4);
        _mm_prefetch((const char *)bytes + k / 2 + AHEAD, _MM_HINT_T0);
        __m512i a = _mm512_permutexvar_epi16(even, t->near), b = _mm512_permutexvar_epi16(odd, t->near);
        __m512i c = _mm512_permutexvar_epi16(even, t->rest), d = _mm512_permutexvar_epi16(odd, t->rest);
        __m512 scale = _mm512_set1_ps(scale4(w, group));
        EACH(m, M) {
            const uint16_t *at = x + m * w->k + k;
            __m512 near = pairs(pairs(_mm512_setzero_ps(), a, at), b, at + 32);
            __m512 rest = pairs(pairs(_mm512_setzero_ps(), c, at), d, at + 32);
            total[m] = _mm512_fmadd_ps(_mm512_add_ps(near, rest), scale, total[m]);
        }
    }
    EACH(m, M) out[m * LANES] = _mm512_reduce_add_ps(total[m]);
}

FIXED void fp32_row(const int M, const Weight *w, __m512 table, const float *x, int64_t row, float *out) {
    const uint8_t *bytes = (const uint8_t *)w->weight + row * w->k / 2;
    __m512 total[MOST_ROWS];
    EACH(m, M) total[m] = _mm512_setzero_ps();
    for (int64_t k = 0, group = row * w->k / GROUP4; k < w->k; k += GROUP4, group++) {
        __m512 scale = _mm512_set1_ps(scale4(w, group));
        EACH(half, 2) {
            __m512i odd = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(bytes + k / 2 + 16 * half)));
            __m512 a = _mm512_mul_ps(_mm512_permutexvar_ps(_mm512_srli_epi32(odd, 4), table), scale);
            __m512 b = _mm512_mul_ps(_mm512_permutexvar_ps(odd, table), scale);
            EACH(m, M) {
                const float *at = x + m * w->k + k + 16 * half;
                total[m] = _mm512_fmadd_ps(a, _mm512_loadu_ps(at), total[m]);
                total[m] = _mm512_fmadd_ps(b, _mm512_loadu_ps(at + 32), total[m]);
            }
        }
    }
    EACH(m, M) out[m * LANES] = _mm512_reduce_add_ps(total[m]);
}

FIXED void rows(const int M, const Weight *w, const void *x, int type, int64_t block, float *out) {
    const Narrow t = narrow(tables4(w));
    const __m512 whole = _mm512_loadu_ps(tables4(w));
    for (int64_t lane = 0; lane < LANES && block * LANES + lane < w->n; lane++) {
        if (type == FLOAT32) fp32_row(M, w, whole, x, block * LANES + lane, out + lane);
        else bf16_row(M, w, &t, x, block * LANES + lane, out + lane);
    }
}

void bit4_avx512(const Weight *w, const void *x, int type, int m, int64_t block, float *out) {
    switch (m) {
    case 1: rows(1, w, x, type, block, out); break;
    case 2: rows(2, w, x, type, block, out); break;
    case 3: rows(3, w, x, type, block, out); break;
    case 4: rows(4, w, x, type, block, out); break;
    case 5: rows(5, w, x, type, block, out); break;
    case 6: rows(6, w, x, type, block, out); break;
    case 7: rows(7, w, x, type, block, out); break;
    default: rows(8, w, x, type, block, out);
    }
}

/* The 64 numbers of a group, in order: a byte's high nibble is the first of its two. */
static inline void group_whole(const uint8_t *bytes, __m512 numbers, void *out, int64_t at, int type) {
    if (type == BFLOAT16) {
        const __m512i table = twice(numbers);
        EACH(half, 2) {
            __m512i byte = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(bytes + 16 * half)));
            __m512i both = _mm512_or_si512(_mm512_srli_epi32(byte, 4), _mm512_slli_epi32(byte, 16));
            _mm512_storeu_si512((uint16_t *)out + at + 32 * half, _mm512_permutexvar_epi16(both, table));
        }
        return;
    }
    EACH(quarter, 4) {
        __m512i byte = _mm512_cvtepu8_epi64(_mm_loadl_epi64((const __m128i *)(bytes + 8 * quarter)));
        __m512i both = _mm512_or_si512(_mm512_srli_epi64(byte, 4), _mm512_slli_epi64(byte, 32));
        _mm512_storeu_ps((float *)out + at + 16 * quarter, _mm512_permutexvar_ps(both, numbers));
    }
}

void whole4_avx512(const Weight *w, int64_t first, int64_t count, void *out, int type) {
    const __m512 table = _mm512_loadu_ps(tables4(w));
    const uint8_t *bytes = (const uint8_t *)w->weight;
    int64_t i = 0;
    for (; i + GROUP4 <= count; i += GROUP4) {
        __m512 scale = _mm512_set1_ps(scale4(w, (first + i) / GROUP4));
        group_whole(bytes + (first + i) / 2, _mm512_mul_ps(table, scale), out, i, type);
    }
    for (; i < count; i++) {
        int64_t at = first + i;
        int nibble = bytes[at / 2] >> (at % 2 ? 0 : 4) & 15;
        put(out, i, tables4(w)[nibble] * scale4(w, at / GROUP4), type);
    }
}

/* How many bounds each number is above, which are in order. */
static inline __m512i places(__m512 x, const float *bounds) {
    __m512i found = _mm512_setzero_si512();
    for (int i = 0; i < 15; i++) {
        __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(bounds[i]), _CMP_GT_OQ);
        found = _mm512_mask_add_epi32(found, above, found, _mm512_set1_epi32(1));
    }
    return found;
}

/* One group, of `count` numbers; what is missing of its last byte is as 0 would be. */
static void round_group(const void *x, int type, int64_t at, int count, const Rounding4 *to, int64_t group) {
    __m512 part[4];
    __m512i most = _mm512_setzero_si512(); /* of bits, which order like sizes: NaN is after infinity */
    EACH(i, 4) {
        part[i] = number(type, (__mmask16)first_of(count - 16 * i), x, at + 16 * i);
        most = _mm512_max_epu32(most, _mm512_castps_si512(_mm512_abs_ps(part[i])));
    }
    union { uint32_t u; float f; } found = {.u = _mm512_reduce_max_epu32(most)};
    float largest = found.f, size = largest < 1e-38f ? 1e-38f : largest;
    uint8_t nibbles[GROUP4];
    EACH(i, 4) {
        __m512 scaled = _mm512_mul_ps(part[i], _mm512_set1_ps(1.0f / size));
        __m512i which = _mm512_permutexvar_epi32(places(scaled, to->bounds), _mm512_loadu_si512(to->order));
        _mm_storeu_si128((__m128i *)(nibbles + 16 * i), _mm512_cvtepi32_epi8(which));
    }
    to->scale[group] = largest;
    for (int i = 0; i < count; i += 2) to->value[(at + i) / 2] = (uint8_t)(nibbles[i] << 4 | nibbles[i + 1]);
}

void round4_avx512(const void *x, int type, int64_t first, int64_t count, const Rounding4 *to) {
    for (int64_t at = first; at < first + count; at += GROUP4) {
        int64_t left = first + count - at;
        round_group(x, type, at, left < GROUP4 ? (int)left : GROUP4, to, at / GROUP4);
    }
}
#endif
