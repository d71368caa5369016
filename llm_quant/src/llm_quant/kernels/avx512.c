/* AVX-512 with VNNI and BF16 (Ice Lake and later for the first, Cooper Lake and Zen 4 and later for both). */
#include "kernels.h"

#if defined(__x86_64__)
#include "avx512.h"

static int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") &&
           __builtin_cpu_supports("avx512bf16");
}

static float largest(const void *x, int64_t k, int type) { /* of bits, which order like sizes: NaN is after infinity */
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < k; i += 16) {
        __m512i bits = _mm512_castps_si512(number(type, (__mmask16)first_of(k - i), x, i));
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    union { uint32_t u; float f; } v = {.u = _mm512_reduce_max_epu32(most)};
    return v.f;
}

/* As round_row in rounding.h, with the bytes where this level's products read them. */
static void round_avx512(const void *x, int type, int64_t k, int64_t group, int64_t row, const Rows *to) {
    int8_t *pairs = to->pairs + row * 2 * k;
    float size = largest(x, k, type);
    int finite = size <= 3.4028235e38f, seen = finite && size > 1e-30f;
    __m512 inverse = _mm512_set1_ps(seen ? LARGEST / size : 0.0f);
    int32_t highs = 0, lows = 0;
    for (int64_t g = 0; g < k / group; g++) {
        __m512i above = _mm512_setzero_si512(), below = _mm512_setzero_si512();
        int64_t end = (g + 1) * group;
        for (int64_t i = g * group; i < end; i += 16) {
            __mmask16 there = finite ? (__mmask16)first_of(end - i) : 0;
            __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(number(type, there, x, i), inverse));
            __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
            __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
            above = _mm512_add_epi32(above, high);
            below = _mm512_add_epi32(below, low);
            __m128i h = _mm512_cvtepi32_epi8(high), l = _mm512_cvtepi32_epi8(low);
            __m256i both = _mm256_set_m128i(_mm_unpackhi_epi32(h, l), _mm_unpacklo_epi32(h, l));
            _mm256_mask_storeu_epi64(pairs + 2 * i, (__mmask8)first_of((end - i) / 4), both);
        }
        int32_t high_sum = _mm512_reduce_add_epi32(above), low_sum = _mm512_reduce_add_epi32(below);
        to->sums[row * (k / group) + g] = (float)high_sum * 256.0f + (float)low_sum;
        highs += high_sum;
        lows += low_sum;
    }
    to->highs[row] = highs;
    to->lows[row] = lows;
    to->scale[row] = !finite ? size - size : seen ? size / LARGEST : 0.0f;
}

static inline void sums(__m512 v[16], float *out) {
    transpose((__m512i *)v);
    for (int width = 8; width; width /= 2)
        for (int i = 0; i < width; i++) v[i] = _mm512_add_ps(v[i], v[i + width]);
    _mm512_storeu_ps(out, v[0]);
}

#define VEC 16
#define FUSED(a, b, c) ((Vec)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define SUMS(v, out) sums((__m512 *)(v), out)
#define TOGETHER KEYS
#define TILE 8
#include "attend_avx512.h"
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

const Level level_avx512 = {"avx512", supported, round_avx512, int8_avx512, int4_avx512, bf16_avx512, expand,
                            norm, gated, step, pack_avx512, many_avx512, bit4_avx512, whole4_avx512, round4_avx512};
#else
static int never(void) { return 0; }
const Level level_avx512 = {.name = "avx512", .supported = never};
#endif
