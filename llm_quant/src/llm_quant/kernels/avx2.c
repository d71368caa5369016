/* AVX2 with FMA and F16C (Haswell and Zen, and later). */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "rounding.h"

/* The sum of each of 8 registers. */
static inline void sums(const __m256 v[8], float *out) {
    __m256 first = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    __m256 last = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    __m256 low = _mm256_permute2f128_ps(first, last, 0x20), high = _mm256_permute2f128_ps(first, last, 0x31);
    _mm256_storeu_ps(out, _mm256_add_ps(low, high));
}

#define VEC 8
#define FUSED(a, b, c) ((Vec)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define SUMS(v, out) sums((const __m256 *)(v), out)
#define TOGETHER 8
#define TILE 8
#include "ops.h"

static int supported(void) {
    __builtin_cpu_init();
    /* every processor with AVX2 converts fp16 too, for which clang has no name */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

#define FIXED static inline __attribute__((always_inline))

static inline __m256i four(const int8_t *x) {
    int32_t bits;
    __builtin_memcpy(&bits, x, 4);
    return _mm256_set1_epi32(bits);
}

static inline __m256i four_whole(const int16_t *x) {
    int64_t bits;
    __builtin_memcpy(&bits, x, 8);
    return _mm256_set1_epi64x(bits);
}

static inline __m256 scales(const Weight *w, int64_t index) {
    __m128i bits = _mm_loadu_si128((const __m128i *)((const uint16_t *)w->scale + index));
    if (w->scale_type == FLOAT16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

static inline __m256 zeros(const Weight *w, int64_t index) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(w->zero + index))));
}

/* Four rows of weights at a time, two sums of pairs for each. 128 products of 23 bits fit into 32. */
FIXED void int8_rows(const int M, const Weight *w, const Rows *x, int first, int64_t block, int quarter, float *out) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES + quarter * 16;
    const int16_t *whole = x->whole + first * w->k;
    __m256 total[4];
    for (int m = 0; m < M; m++) total[m] = _mm256_setzero_ps();
    for (int64_t begin = 0; begin < w->k; begin += 256) {
        int64_t end = begin + 256 < w->k ? begin + 256 : w->k;
        __m256i part[4];
        for (int m = 0; m < M; m++) part[m] = _mm256_setzero_si256();
        for (int64_t k = begin; k < end; k += 4) {
            __m256i weight = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(bytes + k * LANES)));
            weight = _mm256_sub_epi16(weight, _mm256_set1_epi16(128));
            for (int m = 0; m < M; m++)
                part[m] = _mm256_add_epi32(part[m], _mm256_madd_epi16(weight, four_whole(whole + m * w->k + k)));
        }
        for (int m = 0; m < M; m++) total[m] = _mm256_add_ps(total[m], _mm256_cvtepi32_ps(part[m]));
    }
    __m128 scale = _mm_loadu_ps((const float *)w->scale + block * LANES + quarter * 4);
    for (int m = 0; m < M; m++) {
        __m128 pairs = _mm_hadd_ps(_mm256_castps256_ps128(total[m]), _mm256_extractf128_ps(total[m], 1));
        pairs = _mm_mul_ps(_mm_mul_ps(pairs, scale), _mm_set1_ps(x->scale[first + m]));
        _mm_storeu_ps(out + (first + m) * LANES + quarter * 4, pairs);
    }
}

/* Eight rows of weights at a time. Sums of two products are at most 15 * 128 * 2, so eight of them fit into 16 bits. */
FIXED void int4_rows(const int M, const Weight *w, const Rows *x, int first, int64_t block, int half, float *out) {
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2 + half * 32;
    const int8_t *high = x->high + first * w->k, *low = x->low + first * w->k;
    __m256 total[4];
    for (int m = 0; m < M; m++) total[m] = _mm256_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m256i above[4], below[4];
        for (int m = 0; m < M; m++) above[m] = below[m] = _mm256_setzero_si256();
        int64_t stop = (g + 1) * w->group;
        for (int64_t begin = g * w->group; begin < stop; begin += 32) {
            int64_t end = begin + 32 < stop ? begin + 32 : stop;
            __m256i narrow_above[4], narrow_below[4];
            for (int m = 0; m < M; m++) narrow_above[m] = narrow_below[m] = _mm256_setzero_si256();
            for (int64_t k = begin; k < end; k += 8) {
                __m256i pair = _mm256_loadu_si256((const __m256i *)(bytes + k * (LANES / 2)));
                __m256i first_four = _mm256_and_si256(pair, nibble);
                __m256i next_four = _mm256_and_si256(_mm256_srli_epi16(pair, 4), nibble);
                for (int m = 0; m < M; m++) {
                    const int8_t *h = high + m * w->k + k, *l = low + m * w->k + k;
                    __m256i a = _mm256_maddubs_epi16(first_four, four(h)), b = _mm256_maddubs_epi16(first_four, four(l));
                    a = _mm256_add_epi16(a, _mm256_maddubs_epi16(next_four, four(h + 4)));
                    b = _mm256_add_epi16(b, _mm256_maddubs_epi16(next_four, four(l + 4)));
                    narrow_above[m] = _mm256_add_epi16(narrow_above[m], a);
                    narrow_below[m] = _mm256_add_epi16(narrow_below[m], b);
                }
            }
            for (int m = 0; m < M; m++) {
                above[m] = _mm256_add_epi32(above[m], _mm256_madd_epi16(narrow_above[m], ones));
                below[m] = _mm256_add_epi32(below[m], _mm256_madd_epi16(narrow_below[m], ones));
            }
        }
        int64_t at = (block * groups + g) * LANES + half * 8;
        __m256 scale = scales(w, at), zero = zeros(w, at);
        for (int m = 0; m < M; m++) {
            __m256 sum = _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_slli_epi32(above[m], 8), below[m]));
            sum = _mm256_fnmadd_ps(zero, _mm256_set1_ps(x->sums[(first + m) * groups + g]), sum);
            total[m] = _mm256_fmadd_ps(scale, sum, total[m]);
        }
    }
    for (int m = 0; m < M; m++) {
        __m256 sum = _mm256_mul_ps(total[m], _mm256_set1_ps(x->scale[first + m]));
        _mm256_storeu_ps(out + (first + m) * LANES + half * 8, sum);
    }
}

static inline __m256 wide(const uint16_t *x) { /* eight numbers of bf16 as fp32 */
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x)), 16));
}

static inline float added(__m256 v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

/* Two rows of weights against M rows of x. */
FIXED void bf16_rows(const int M, const Weight *w, const uint16_t *x, int first, int64_t n, float *out) {
    const uint16_t *weight = (const uint16_t *)w->weight + n * w->k;
    __m256 sum[2][4];
    for (int r = 0; r < 2; r++)
        for (int m = 0; m < M; m++) sum[r][m] = _mm256_setzero_ps();
    x += first * w->k;
    int64_t k = 0;
    for (; k + 8 <= w->k; k += 8) {
        __m256 rows[2] = {wide(weight + k), wide(weight + w->k + k)};
        for (int m = 0; m < M; m++) {
            __m256 columns = wide(x + m * w->k + k);
            for (int r = 0; r < 2; r++) sum[r][m] = _mm256_fmadd_ps(rows[r], columns, sum[r][m]);
        }
    }
    for (int r = 0; r < 2; r++)
        for (int m = 0; m < M; m++) {
            float rest = 0;
            for (int64_t i = k; i < w->k; i++) rest += from_bf16(weight[r * w->k + i]) * from_bf16(x[m * w->k + i]);
            out[(first + m) * LANES + n % LANES + r] = added(sum[r][m]) + rest;
        }
}

static void int8_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    for (int quarter = 0; quarter < 4; quarter++) {
        int row = 0;
        for (; row + 4 <= m; row += 4) int8_rows(4, w, x, row, block, quarter, out);
        for (; row + 2 <= m; row += 2) int8_rows(2, w, x, row, block, quarter, out);
        if (row < m) int8_rows(1, w, x, row, block, quarter, out);
    }
}

static void int4_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    for (int half = 0; half < 2; half++) {
        int row = 0;
        for (; row + 2 <= m; row += 2) int4_rows(2, w, x, row, block, half, out);
        if (row < m) int4_rows(1, w, x, row, block, half, out);
    }
}

static void bf16_product(const Weight *w, const uint16_t *x, int m, int64_t block, float *out) {
    for (int64_t n = block * LANES; n < (block + 1) * LANES; n += 2) {
        int row = 0;
        for (; row + 4 <= m; row += 4) bf16_rows(4, w, x, row, n, out);
        for (; row + 2 <= m; row += 2) bf16_rows(2, w, x, row, n, out);
        if (row < m) bf16_rows(1, w, x, row, n, out);
    }
}

static inline void store(void *out, int64_t index, int type, __m256 values) {
    if (type == FLOAT32) {
        _mm256_storeu_ps((float *)out + index, values);
        return;
    }
    __m256i bits = _mm256_castps_si256(values); /* to nearest, ties to even; weights are finite */
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
    __m128i low = _mm256_castsi256_si128(bits), high = _mm256_extracti128_si256(bits, 1);
    _mm_storeu_si128((__m128i *)((uint16_t *)out + index), _mm_packus_epi32(low, high));
}

static inline __m128i eight(const uint8_t *bytes, int64_t stride) { /* two runs of four bytes */
    int32_t part[2];
    for (int i = 0; i < 2; i++) __builtin_memcpy(part + i, bytes + i * stride, 4);
    return _mm_loadl_epi64((const __m128i *)part);
}

static void expand_int8(const Weight *w, int64_t block, void *out, int type) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    for (int lane = 0; lane < LANES; lane++) {
        float scale = ((const float *)w->scale)[block * LANES + lane];
        int64_t k = 0;
        for (; k + 8 <= w->k; k += 8) {
            __m256i whole = _mm256_cvtepu8_epi32(eight(bytes + k * LANES + lane * 4, 64));
            whole = _mm256_sub_epi32(whole, _mm256_set1_epi32(128));
            store(out, lane * w->k + k, type, _mm256_mul_ps(_mm256_cvtepi32_ps(whole), _mm256_set1_ps(scale)));
        }
        for (; k < w->k; k++)
            put(out, lane * w->k + k, (float)((int)bytes[k / 4 * 64 + lane * 4 + k % 4] - 128) * scale, type);
    }
}

static void expand_int4(const Weight *w, int64_t block, void *out, int type) {
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2;
    for (int64_t g = 0; g < groups; g++)
        for (int lane = 0; lane < LANES; lane++) {
            int64_t at = (block * groups + g) * LANES + lane;
            __m256 scale = _mm256_set1_ps(scale_at(w, at)), zero = _mm256_set1_ps(w->zero[at]);
            for (int64_t k = g * w->group; k < (g + 1) * w->group; k += 8) {
                int32_t pair;
                __builtin_memcpy(&pair, bytes + k * (LANES / 2) + lane * 4, 4);
                __m128i low = _mm_cvtsi32_si128(pair & 0x0f0f0f0f), high = _mm_cvtsi32_si128(pair >> 4 & 0x0f0f0f0f);
                __m256 whole = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_unpacklo_epi32(low, high)));
                store(out, lane * w->k + k, type, _mm256_mul_ps(_mm256_sub_ps(whole, zero), scale));
            }
        }
}

static void expand(const Weight *w, int64_t block, void *out, int type) {
    w->kind == INT8 ? expand_int8(w, block, out, type) : expand_int4(w, block, out, type);
}

const Level level_avx2 = {"avx2", supported, round_row, int8_product, int4_product, bf16_product, expand,
                             norm, gated, step};
#else
static int never(void) { return 0; }
const Level level_avx2 = {"avx2", never, 0, 0, 0, 0, 0, 0, 0};
#endif
