/* AVX-512 with VNNI and BF16 (Ice Lake and later for the first, Cooper Lake and Zen 4 and later for both). */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "rounding.h"

#define AHEAD 4096 /* bytes: weights are asked for so far before they are needed */

static int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bf16");
}

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

/* In what follows M is a constant wherever it is inlined, so that the sums live in registers. */
#define FIXED static inline __attribute__((always_inline))

/* Sums of whole numbers are exact in any order, so few rows have several of them: one would wait for itself. */
#define CHAINS(M) ((M) <= 2 ? 4 : (M) <= 4 ? 2 : 1)

FIXED void int8_rows(const int M, const Weight *w, const Rows *x, int first, int64_t block, float *out) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    const int8_t *high = x->high + first * w->k, *low = x->low + first * w->k;
    __m512i above[MOST_ROWS][4], below[MOST_ROWS][4];
    for (int m = 0; m < M; m++) {
        for (int c = 0; c < CHAINS(M); c++) above[m][c] = below[m][c] = _mm512_setzero_si512();
        above[m][0] = _mm512_set1_epi32(-128 * x->highs[first + m]); /* the bytes are 128 too large */
        below[m][0] = _mm512_set1_epi32(-128 * x->lows[first + m]);
    }
    int64_t k = 0;
    for (; k + 4 * CHAINS(M) <= w->k; k += 4 * CHAINS(M))
        for (int c = 0; c < CHAINS(M); c++) {
            __m512i weight = _mm512_loadu_si512(bytes + (k + 4 * c) * LANES);
            _mm_prefetch((const char *)bytes + (k + 4 * c) * LANES + AHEAD, _MM_HINT_T0);
            for (int m = 0; m < M; m++) {
                above[m][c] = _mm512_dpbusd_epi32(above[m][c], weight, four(high + m * w->k + k + 4 * c));
                below[m][c] = _mm512_dpbusd_epi32(below[m][c], weight, four(low + m * w->k + k + 4 * c));
            }
        }
    for (; k < w->k; k += 4) {
        __m512i weight = _mm512_loadu_si512(bytes + k * LANES);
        for (int m = 0; m < M; m++) {
            above[m][0] = _mm512_dpbusd_epi32(above[m][0], weight, four(high + m * w->k + k));
            below[m][0] = _mm512_dpbusd_epi32(below[m][0], weight, four(low + m * w->k + k));
        }
    }
    __m512 scale = _mm512_loadu_ps((const float *)w->scale + block * LANES);
    for (int m = 0; m < M; m++) {
        for (int c = 1; c < CHAINS(M); c++) {
            above[m][0] = _mm512_add_epi32(above[m][0], above[m][c]);
            below[m][0] = _mm512_add_epi32(below[m][0], below[m][c]);
        }
        __m512 sum = _mm512_cvtepi32_ps(below[m][0]);
        sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(above[m][0]), _mm512_set1_ps(256), sum);
        sum = _mm512_mul_ps(_mm512_mul_ps(sum, scale), _mm512_set1_ps(x->scale[first + m]));
        _mm512_storeu_ps(out + (first + m) * LANES, sum);
    }
}

FIXED void int4_rows(const int M, const Weight *w, const Rows *x, int first, int64_t block, float *out) {
    const __m512i nibble = _mm512_set1_epi8(15);
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2;
    const int8_t *high = x->high + first * w->k, *low = x->low + first * w->k;
    const float *sums = x->sums + first * groups;
    __m512 total[MOST_ROWS];
    for (int m = 0; m < M; m++) total[m] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        __m512i above[MOST_ROWS][4], below[MOST_ROWS][4];
        for (int m = 0; m < M; m++)
            for (int c = 0; c < 4; c++) above[m][c] = below[m][c] = _mm512_setzero_si512();
        for (int64_t k = g * w->group; k < (g + 1) * w->group; k += 8) {
            __m512i pair = _mm512_loadu_si512(bytes + k * (LANES / 2));
            _mm_prefetch((const char *)bytes + k * (LANES / 2) + AHEAD, _MM_HINT_T0);
            __m512i first_four = _mm512_and_si512(pair, nibble);
            __m512i next_four = _mm512_and_si512(_mm512_srli_epi16(pair, 4), nibble);
            const int c = CHAINS(M) == 4;
            for (int m = 0; m < M; m++) {
                const int8_t *h = high + m * w->k + k, *l = low + m * w->k + k;
                above[m][0] = _mm512_dpbusd_epi32(above[m][0], first_four, four(h));
                below[m][0] = _mm512_dpbusd_epi32(below[m][0], first_four, four(l));
                above[m][c] = _mm512_dpbusd_epi32(above[m][c], next_four, four(h + 4));
                below[m][c] = _mm512_dpbusd_epi32(below[m][c], next_four, four(l + 4));
            }
        }
        int64_t at = (block * groups + g) * LANES;
        __m512 scale = scales(w, at), zero = zeros(w, at);
        for (int m = 0; m < M; m++) {
            __m512i high_sum = _mm512_add_epi32(above[m][0], above[m][1]);
            __m512i low_sum = _mm512_add_epi32(below[m][0], below[m][1]);
            __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high_sum, 8), low_sum));
            sum = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sums[m * groups + g]), sum);
            total[m] = _mm512_fmadd_ps(scale, sum, total[m]);
        }
    }
    for (int m = 0; m < M; m++)
        _mm512_storeu_ps(out + (first + m) * LANES, _mm512_mul_ps(total[m], _mm512_set1_ps(x->scale[first + m])));
}

/* One row of weights against M rows of x, in four sums each, whatever M is. */
FIXED void bf16_row(const int M, const Weight *w, const uint16_t *x, int first, int64_t n, float *out) {
    const uint16_t *weight = (const uint16_t *)w->weight + n * w->k;
    __m512 sum[4][4];
    for (int c = 0; c < 4; c++)
        for (int m = 0; m < M; m++) sum[c][m] = _mm512_setzero_ps();
    x += first * w->k;
    int64_t k = 0;
    for (; k + 128 <= w->k; k += 128)
        for (int c = 0; c < 4; c++) {
            __m512bh row = (__m512bh)_mm512_loadu_si512(weight + k + 32 * c);
            _mm_prefetch((const char *)(weight + k + 32 * c) + AHEAD, _MM_HINT_T0);
            for (int m = 0; m < M; m++)
                sum[c][m] = _mm512_dpbf16_ps(sum[c][m], row, (__m512bh)_mm512_loadu_si512(x + m * w->k + k + 32 * c));
        }
    for (; k < w->k; k += 32) {
        __mmask32 there = w->k - k >= 32 ? ~(__mmask32)0 : (__mmask32)((1ull << (w->k - k)) - 1);
        __m512bh row = (__m512bh)_mm512_maskz_loadu_epi16(there, weight + k);
        for (int m = 0; m < M; m++)
            sum[0][m] = _mm512_dpbf16_ps(sum[0][m], row, (__m512bh)_mm512_maskz_loadu_epi16(there, x + m * w->k + k));
    }
    for (int m = 0; m < M; m++) {
        __m512 all = _mm512_add_ps(_mm512_add_ps(sum[0][m], sum[1][m]), _mm512_add_ps(sum[2][m], sum[3][m]));
        out[(first + m) * LANES + n % LANES] = _mm512_reduce_add_ps(all);
    }
}

static void int8_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    int row = 0;
    for (; row + 8 <= m; row += 8) int8_rows(8, w, x, row, block, out);
    for (; row + 4 <= m; row += 4) int8_rows(4, w, x, row, block, out);
    for (; row + 2 <= m; row += 2) int8_rows(2, w, x, row, block, out);
    if (row < m) int8_rows(1, w, x, row, block, out);
}

static void int4_product(const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    int row = 0;
    for (; row + 8 <= m; row += 8) int4_rows(8, w, x, row, block, out);
    for (; row + 4 <= m; row += 4) int4_rows(4, w, x, row, block, out);
    for (; row + 2 <= m; row += 2) int4_rows(2, w, x, row, block, out);
    if (row < m) int4_rows(1, w, x, row, block, out);
}

static void bf16_product(const Weight *w, const uint16_t *x, int m, int64_t block, float *out) {
    for (int64_t n = block * LANES; n < (block + 1) * LANES; n++) {
        int row = 0;
        for (; row + 4 <= m; row += 4) bf16_row(4, w, x, row, n, out);
        for (; row + 2 <= m; row += 2) bf16_row(2, w, x, row, n, out);
        if (row < m) bf16_row(1, w, x, row, n, out);
    }
}

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

static inline void sums(__m512 v[16], float *out) {
    transpose((__m512i *)v);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) v[i] = _mm512_add_ps(v[i], v[i + width]);
    _mm512_storeu_ps(out, v[0]);
}

/* The products of up to 8 queries [many][size] with 16 keys [16][size], of which `count` are there, all in bf16: columns
   of keys are put side by side, so that nothing is summed across a register. scores [many][apart]. */
static inline void scores_bf16(const uint16_t *q, int many, const uint16_t *keys, int64_t count, int64_t size, float scale,
                               float *scores, int64_t apart) {
    __m512 sum[8];
    for (int m = 0; m < 8; m++) sum[m] = _mm512_setzero_ps();
    for (int64_t j = 0; j < size; j += 32) {
        __mmask32 there = size - j >= 32 ? ~(__mmask32)0 : (__mmask32)((1ull << (size - j)) - 1);
        __m512i rows[16];
        for (int i = 0; i < 16; i++) rows[i] = _mm512_maskz_loadu_epi16(i < count ? there : 0, keys + i * size + j);
        transpose(rows);
        for (int m = 0; m < many; m++) {
            int32_t pairs[16];
            _mm512_storeu_si512(pairs, _mm512_maskz_loadu_epi16(there, q + m * size + j));
            __m512 other = _mm512_setzero_ps(); /* two sums, so that neither waits long for itself */
            for (int p = 0; p < 16; p += 2) {
                sum[m] = _mm512_dpbf16_ps(sum[m], (__m512bh)rows[p], (__m512bh)_mm512_set1_epi32(pairs[p]));
                other = _mm512_dpbf16_ps(other, (__m512bh)rows[p + 1], (__m512bh)_mm512_set1_epi32(pairs[p + 1]));
            }
            sum[m] = _mm512_add_ps(sum[m], other);
        }
    }
    for (int m = 0; m < many; m++) _mm512_storeu_ps(scores + m * apart, _mm512_mul_ps(sum[m], _mm512_set1_ps(scale)));
}

#define SCORES_BF16 scores_bf16
#define SUMS(v, out) sums((__m512 *)(v), out)
#define TOGETHER KEYS
#include "ops.h"

/* 64 columns of a block from column k on, one register for each of its rows. */
static inline void columns_of_int8(const uint8_t *bytes, int64_t k, __m512i rows[16]) {
    for (int i = 0; i < 16; i++) rows[i] = _mm512_loadu_si512(bytes + (k + 4 * i) * LANES);
    transpose(rows);
}

static void expand_int8(const Weight *w, int64_t block, void *out, int type) {
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    const float *scale = (const float *)w->scale + block * LANES;
    int64_t k = 0;
    for (; k + 64 <= w->k; k += 64) {
        __m512i rows[16];
        columns_of_int8(bytes, k, rows);
        for (int lane = 0; lane < LANES; lane++) {
            __m512i value = _mm512_xor_si512(rows[lane], _mm512_set1_epi8(-128)); /* signed again */
            __m128i part[4];
            _mm512_storeu_si512(part, value);
            for (int i = 0; i < 4; i++) {
                __m512 whole = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(part[i]));
                store(out, lane * w->k + k + 16 * i, type, _mm512_mul_ps(whole, _mm512_set1_ps(scale[lane])));
            }
        }
    }
    for (int lane = 0; lane < LANES; lane++)
        for (int64_t rest = k; rest < w->k; rest++) {
            int whole = (int)bytes[rest / 4 * 64 + lane * 4 + rest % 4] - 128;
            put(out, lane * w->k + rest, (float)whole * scale[lane], type);
        }
}

/* The 16 numbers that a nibble of this row and group can be. */
static inline __m512 choices(const Weight *w, int64_t at) {
    const __m512 nibbles = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __m512 centred = _mm512_sub_ps(nibbles, _mm512_set1_ps(w->zero[at]));
    return _mm512_mul_ps(centred, _mm512_set1_ps(scale_at(w, at)));
}

/* `count` columns, a multiple of 8, of one row from column k on, which are nibbles in their order. */
static inline void look_up(const uint8_t *nibbles, int count, __m512 numbers, void *out, int64_t index, int type) {
    int i = 0;
    if (type == BFLOAT16) {
        __m512i table = _mm512_castsi256_si512((__m256i)_mm512_cvtneps_pbh(numbers));
        for (; i + 32 <= count; i += 32) {
            __m512i which = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(nibbles + i)));
            _mm512_storeu_si512((uint16_t *)out + index + i, _mm512_permutexvar_epi16(which, table));
        }
    }
    for (; i < count; i += 8) {
        __m256i which = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(nibbles + i)));
        __m512 found = _mm512_permutexvar_ps(_mm512_castsi256_si512(which), numbers);
        if (type == FLOAT32) _mm256_storeu_ps((float *)out + index + i, _mm512_castps512_ps256(found));
        else _mm_storeu_si128((__m128i *)((uint16_t *)out + index + i),
                              (__m128i)_mm256_cvtneps_pbh(_mm512_castps512_ps256(found)));
    }
}

static void expand_int4(const Weight *w, int64_t block, void *out, int type) {
    const __m512i low = _mm512_set1_epi8(15);
    int64_t groups = w->k / w->group;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES / 2;
    for (int64_t k = 0; k < w->k; k += 128) {
        int64_t count = w->k - k < 128 ? w->k - k : 128;
        __m512i rows[16];
        for (int i = 0; i < 16; i++)
            rows[i] = 8 * i < count ? _mm512_loadu_si512(bytes + (k + 8 * i) * (LANES / 2)) : _mm512_setzero_si512();
        transpose(rows);
        for (int lane = 0; lane < LANES; lane++) {
            __m512i first = _mm512_and_si512(rows[lane], low);
            __m512i next = _mm512_and_si512(_mm512_srli_epi16(rows[lane], 4), low);
            __m512i even = _mm512_unpacklo_epi32(first, next), odd = _mm512_unpackhi_epi32(first, next);
            const __m512i lower = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
            const __m512i upper = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
            uint8_t nibbles[128];
            _mm512_storeu_si512(nibbles, _mm512_permutex2var_epi64(even, lower, odd));
            _mm512_storeu_si512(nibbles + 64, _mm512_permutex2var_epi64(even, upper, odd));
            for (int64_t at = k; at < k + count;) { /* up to the end of each group */
                int64_t g = at / w->group, end = (g + 1) * w->group < k + count ? (g + 1) * w->group : k + count;
                __m512 numbers = choices(w, (block * groups + g) * LANES + lane);
                look_up(nibbles + (at - k), (int)(end - at), numbers, out, lane * w->k + at, type);
                at = end;
            }
        }
    }
}

static void expand(const Weight *w, int64_t block, void *out, int type) {
    w->kind == INT8 ? expand_int8(w, block, out, type) : expand_int4(w, block, out, type);
}

const Level level_avx512 = {"avx512", supported, round_row, int8_product, int4_product, bf16_product, expand,
                             norm, gated, step};
#else
static int never(void) { return 0; }
const Level level_avx512 = {"avx512", never, 0, 0, 0, 0, 0, 0, 0};
#endif
