/* Products with AVX-512: of few rows of x, which wait for the weights to be read, and of many, which don't. */
#include "kernels.h"

#if defined(__x86_64__)
#include "avx512.h"

#define AHEAD 4096 /* bytes: weights are asked for so far before they are needed */
#define WIDE 3     /* blocks that many rows of x are multiplied with at a time */
#define PANEL 16   /* rows of x side by side */
#define PANELS 4   /* that are multiplied at a time */

#define EACH(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++)

/* Sums of whole numbers are exact in any order, so few rows have several of them: one would wait for itself. */
#define CHAINS(M, B) ((M) * (B) <= 2 ? 4 : (M) * (B) <= 4 ? 2 : 1)

/* M rows of x from `row` on with B blocks from `block` on: the sums of 16 rows of weights each, total[M][B]. The order in
   which fp32 is added up is the same for every M and B. */
FIXED void int8_tile(const int M, const int B, const Weight *w, const Rows *x, int64_t row, int64_t block,
                     __m512 total[][WIDE]) {
    const int C = CHAINS(M, B);
    const uint8_t *bytes = (const uint8_t *)w->weight + block * w->k * LANES;
    const int8_t *pairs = x->pairs + row * 2 * w->k;
    const int64_t apart = 2 * w->k, next = w->k * LANES;
    Sums above[MOST_ROWS][WIDE][4], below[MOST_ROWS][WIDE][4];
    EACH(m, M) EACH(b, B) {
        EACH(c, C) above[m][b][c] = below[m][b][c] = (Sums){0};
        above[m][b][0] -= 128 * x->highs[row + m]; /* the bytes are 128 too large */
        below[m][b][0] -= 128 * x->lows[row + m];
    }
    int64_t k = 0;
    for (; k + 4 * C <= w->k; k += 4 * C)
        EACH(c, C) {
            __m512i weight[WIDE];
            EACH(b, B) weight[b] = _mm512_loadu_si512(bytes + b * next + (k + 4 * c) * LANES);
            EACH(b, B) _mm_prefetch((const char *)bytes + b * next + (k + 4 * c) * LANES + AHEAD, _MM_HINT_T0);
            EACH(m, M) {
                const int8_t *at = pairs + m * apart + 2 * (k + 4 * c);
                EACH(b, B) above[m][b][c] = add_products(above[m][b][c], weight[b], four(at));
                EACH(b, B) below[m][b][c] = add_products(below[m][b][c], weight[b], four(at + 4));
            }
        }
    for (; k < w->k; k += 4)
        EACH(b, B) {
            __m512i weight = _mm512_loadu_si512(bytes + b * next + k * LANES);
            EACH(m, M) {
                const int8_t *at = pairs + m * apart + 2 * k;
                above[m][b][0] = add_products(above[m][b][0], weight, four(at));
                below[m][b][0] = add_products(below[m][b][0], weight, four(at + 4));
            }
        }
    EACH(b, B) {
        __m512 scale = _mm512_loadu_ps((const float *)w->scale + (block + b) * LANES);
        EACH(m, M) {
            for (int c = 1; c < C; c++) {
                above[m][b][0] += above[m][b][c];
                below[m][b][0] += below[m][b][c];
            }
            __m512 sum = _mm512_fmadd_ps(as_float(above[m][b][0]), _mm512_set1_ps(256), as_float(below[m][b][0]));
            total[m][b] = _mm512_mul_ps(_mm512_mul_ps(sum, scale), _mm512_set1_ps(x->scale[row + m]));
        }
    }
}

FIXED void int4_tile(const int M, const int B, const Weight *w, const Rows *x, int64_t row, int64_t block,
                     __m512 total[][WIDE]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    const int split = CHAINS(M, B) == 4; /* whether the two nibbles of a byte have sums of their own */
    const int64_t groups = w->k / w->group, apart = 2 * w->k, next = w->k * LANES / 2;
    const uint8_t *bytes = (const uint8_t *)w->weight + block * next;
    const int8_t *pairs = x->pairs + row * apart;
    const float *sums = x->sums + row * groups;
    EACH(m, M) EACH(b, B) total[m][b] = _mm512_setzero_ps();
    for (int64_t g = 0; g < groups; g++) {
        Sums above[MOST_ROWS][WIDE][2], below[MOST_ROWS][WIDE][2];
        EACH(m, M) EACH(b, B) EACH(c, 2) above[m][b][c] = below[m][b][c] = (Sums){0};
        for (int64_t k = g * w->group; k < (g + 1) * w->group; k += 8) {
            __m512i both[WIDE];
            EACH(b, B) both[b] = _mm512_loadu_si512(bytes + b * next + k * (LANES / 2));
            EACH(b, B) _mm_prefetch((const char *)bytes + b * next + k * (LANES / 2) + AHEAD, _MM_HINT_T0);
            EACH(half, 2) {
                __m512i weight[WIDE];
                const int c = split ? half : 0;
                EACH(b, B) weight[b] = _mm512_and_si512(half ? _mm512_srli_epi16(both[b], 4) : both[b], nibble);
                EACH(m, M) {
                    const int8_t *at = pairs + m * apart + 2 * (k + 4 * half);
                    EACH(b, B) above[m][b][c] = add_products(above[m][b][c], weight[b], four(at));
                    EACH(b, B) below[m][b][c] = add_products(below[m][b][c], weight[b], four(at + 4));
                }
            }
        }
        EACH(b, B) {
            int64_t at = ((block + b) * groups + g) * LANES;
            __m512 scale = scales(w, at), zero = zeros(w, at);
            EACH(m, M) {
                Sums whole = (above[m][b][0] + (split ? above[m][b][1] : (Sums){0})) * 256 + below[m][b][0];
                __m512 sum = as_float(split ? whole + below[m][b][1] : whole);
                sum = _mm512_fnmadd_ps(zero, _mm512_set1_ps(sums[m * groups + g]), sum);
                total[m][b] = _mm512_fmadd_ps(scale, sum, total[m][b]);
            }
        }
    }
    EACH(m, M) EACH(b, B) total[m][b] = _mm512_mul_ps(total[m][b], _mm512_set1_ps(x->scale[row + m]));
}

FIXED void tile(const int kind, const int M, const int B, const Weight *w, const Rows *x, int64_t row, int64_t block,
                __m512 total[][WIDE]) {
    if (kind == INT8) int8_tile(M, B, w, x, row, block, total);
    else int4_tile(M, B, w, x, row, block, total);
}

FIXED void few_rows(const int kind, const int M, const Weight *w, const Rows *x, int row, int64_t block, float *out) {
    __m512 total[MOST_ROWS][WIDE];
    tile(kind, M, 1, w, x, row, block, total);
    EACH(m, M) _mm512_storeu_ps(out + (row + m) * LANES, total[m][0]);
}

FIXED void few(const int kind, const Weight *w, const Rows *x, int m, int64_t block, float *out) {
    int row = 0;
    for (; row + 8 <= m; row += 8) few_rows(kind, 8, w, x, row, block, out);
    for (; row + 4 <= m; row += 4) few_rows(kind, 4, w, x, row, block, out);
    for (; row + 2 <= m; row += 2) few_rows(kind, 2, w, x, row, block, out);
    if (row < m) few_rows(kind, 1, w, x, row, block, out);
}

void int8_avx512(const Weight *w, const Rows *x, int m, int64_t block, float *out) { few(INT8, w, x, m, block, out); }
void int4_avx512(const Weight *w, const Rows *x, int m, int64_t block, float *out) { few(INT4, w, x, m, block, out); }

/* Write the numbers of up to 16 rows of weights, from row n on, at one row of y [..][N], with their bias. */
static inline void write(const Weight *w, __m512 values, int64_t row, int64_t n, int type, void *y) {
    __mmask16 there = (__mmask16)first_of(w->n - n);
    if (w->bias) values = _mm512_add_ps(values, _mm512_maskz_loadu_ps(there, w->bias + n));
    int64_t at = row * w->n + n;
    if (type == FLOAT32) _mm512_mask_storeu_ps((float *)y + at, there, values);
    else _mm256_mask_storeu_epi16((uint16_t *)y + at, there, (__m256i)_mm512_cvtneps_pbh(values));
}

FIXED void many_rows(const int kind, const int M, const int B, const Weight *w, const Rows *x, int type, int64_t row,
                     int64_t block, void *y) {
    __m512 total[MOST_ROWS][WIDE];
    tile(kind, M, B, w, x, row, block, total);
    EACH(m, M) EACH(b, B) write(w, total[m][b], row + m, (block + b) * LANES, type, y);
}

FIXED void whole_many(const int kind, const int B, const Weight *w, const Rows *x, int type, int64_t m, int64_t block,
                      void *y) {
    int64_t row = 0;
    for (; row + 4 <= m; row += 4) many_rows(kind, 4, B, w, x, type, row, block, y);
    for (; row + 2 <= m; row += 2) many_rows(kind, 2, B, w, x, type, row, block, y);
    if (row < m) many_rows(kind, 1, B, w, x, type, row, block, y);
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
        __mmask32 there = (__mmask32)first_of(w->k - k);
        __m512bh row = (__m512bh)_mm512_maskz_loadu_epi16(there, weight + k);
        for (int m = 0; m < M; m++)
            sum[0][m] = _mm512_dpbf16_ps(sum[0][m], row, (__m512bh)_mm512_maskz_loadu_epi16(there, x + m * w->k + k));
    }
    for (int m = 0; m < M; m++) {
        __m512 all = _mm512_add_ps(_mm512_add_ps(sum[0][m], sum[1][m]), _mm512_add_ps(sum[2][m], sum[3][m]));
        out[(first + m) * LANES + n % LANES] = _mm512_reduce_add_ps(all);
    }
}

void bf16_avx512(const Weight *w, const uint16_t *x, int m, int64_t block, float *out) {
    for (int64_t n = block * LANES; n < (block + 1) * LANES; n++) {
        int row = 0;
        for (; row + 4 <= m; row += 4) bf16_row(4, w, x, row, n, out);
        for (; row + 2 <= m; row += 2) bf16_row(2, w, x, row, n, out);
        if (row < m) bf16_row(1, w, x, row, n, out);
    }
}

/* The 16 rows of one panel of x [M][K] as [K/2][16][2], zeros where there are fewer. */
void pack_avx512(const uint16_t *x, int64_t m, int64_t k, int64_t panel, uint16_t *to) {
    for (int64_t j = 0; j < k; j += 32) {
        __mmask32 there = (__mmask32)first_of(k - j);
        __m512i v[16];
        for (int i = 0; i < 16; i++) {
            int64_t row = panel * PANEL + i;
            v[i] = row < m ? _mm512_maskz_loadu_epi16(there, x + row * k + j) : _mm512_setzero_si512();
        }
        transpose(v);
        for (int i = 0; i < 16 && j + 2 * i < k; i++) _mm512_storeu_si512(to + panel * PANEL * k + (j + 2 * i) * PANEL, v[i]);
    }
}

/* P panels of x with N rows of weights: the sums of 16 rows of x each, out[N][PANELS][16]. */
FIXED void panels(const int P, const int N, const uint16_t *x, const uint16_t *weight, int64_t k, float *out) {
    __m512 sum[12][PANELS];
    EACH(n, N) EACH(p, P) sum[n][p] = _mm512_setzero_ps();
    for (int64_t j = 0; j < k; j += 2) {
        __m512bh column[PANELS];
        if (j % 32 == 0) EACH(n, N) _mm_prefetch((const char *)(weight + (N + n) * k + j), _MM_HINT_T1);
        EACH(p, P) column[p] = (__m512bh)_mm512_loadu_si512(x + (p * k + j) * PANEL);
        EACH(n, N) {
            __m512bh pair = (__m512bh)four((const int8_t *)(weight + n * k + j));
            EACH(p, P) sum[n][p] = _mm512_dpbf16_ps(sum[n][p], column[p], pair);
        }
    }
    EACH(n, N) EACH(p, P) _mm512_storeu_ps(out + (n * PANELS + p) * PANEL, sum[n][p]);
}

/* The same with `count` rows of weights, N <= count at a time: the last ones again where N doesn't divide it. */
FIXED void all_panels(const int P, const int N, const uint16_t *x, const uint16_t *weight, int64_t k, int count, float *out) {
    for (int n = 0; n < count; n += N) {
        int first = n + N <= count ? n : count - N;
        panels(P, N, x, weight + first * k, k, out + first * PANELS * PANEL);
    }
}

static void bf16_many(const Weight *w, const uint16_t *packed, int type, int64_t m, int64_t block, int64_t count, void *y) {
    const uint16_t *weight = (const uint16_t *)w->weight + block * LANES * w->k;
    float out[WIDE * LANES * PANELS * PANEL];
    int64_t left = (m + PANEL - 1) / PANEL;
    for (int64_t panel = 0, taken; left; panel += taken, left -= taken) {
        const uint16_t *x = packed + panel * PANEL * w->k;
        int rows = (int)count * LANES;
        taken = left <= PANELS ? left : left < 2 * PANELS ? (left + 1) / 2 : PANELS;
        if (taken == 4) all_panels(4, 6, x, weight, w->k, rows, out);
        else if (taken == 3) all_panels(3, 8, x, weight, w->k, rows, out);
        else if (taken == 2) all_panels(2, 12, x, weight, w->k, rows, out);
        else all_panels(1, 12, x, weight, w->k, rows, out);
        for (int64_t b = 0; b < count; b++)
            for (int64_t p = 0; p < taken; p++) {
                int64_t row = (panel + p) * PANEL;
                __m512i v[16];
                for (int i = 0; i < 16; i++) v[i] = _mm512_loadu_si512(out + ((b * LANES + i) * PANELS + p) * PANEL);
                transpose(v);
                for (int i = 0; i < 16 && row + i < m; i++)
                    write(w, _mm512_castsi512_ps(v[i]), row + i, (block + b) * LANES, type, y);
            }
    }
}

void many_avx512(const Weight *w, const Rows *x, int type, int64_t m, int64_t block, int64_t count, void *y) {
    for (int64_t taken; count; block += taken, count -= taken) {
        taken = count >= WIDE ? WIDE : w->kind == BF16 ? count : 1;
        if (w->kind == BF16) bf16_many(w, x->panels, type, m, block, taken, y);
        else if (w->kind == INT8 && taken == WIDE) whole_many(INT8, WIDE, w, x, type, m, block, y);
        else if (w->kind == INT8) whole_many(INT8, 1, w, x, type, m, block, y);
        else if (taken == WIDE) whole_many(INT4, WIDE, w, x, type, m, block, y);
        else whole_many(INT4, 1, w, x, type, m, block, y);
    }
}
#endif
