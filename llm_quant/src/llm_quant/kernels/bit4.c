/* nf4 and fp4 as Python calls them: numbers made of nibbles, and nibbles of numbers, by all threads. In plain C too, for
   levels that have nothing of their own. */
#include "product.h"
#include "rounding.h"

#define PIECE4 (64 * GROUP4) /* numbers that a thread takes at a time */

static int64_t pieces(int64_t count) { return (count + PIECE4 - 1) / PIECE4; }

static int64_t size_of(int64_t piece, int64_t count) {
    int64_t left = count - piece * PIECE4;
    return left < PIECE4 ? left : PIECE4;
}

static void whole4(const Weight *w, int64_t first, int64_t count, void *out, int type) {
    const uint8_t *bytes = (const uint8_t *)w->weight;
    for (int64_t i = 0; i < count; i += GROUP4) {
        float table[16], scale = scale4(w, (first + i) / GROUP4);
        int64_t end = i + GROUP4 < count ? i + GROUP4 : count;
        for (int j = 0; j < 16; j++) table[j] = tables4(w)[j] * scale;
        for (int64_t j = i; j < end; j++) put(out, j, table[bytes[(first + j) / 2] >> (j % 2 ? 0 : 4) & 15], type);
    }
}

/* One group of 64, or what is left for the last; what is missing of its last byte is as 0 would be. */
static void round_group(const float *x, int count, const Rounding4 *to, int64_t group) {
    int above[GROUP4] = {0};
    float scaled[GROUP4] = {0}, most = largest(x, count, FLOAT32), size = most < 1e-38f ? 1e-38f : most;
    float inverse = 1.0f / size;
    for (int i = 0; i < count; i++) scaled[i] = x[i] * inverse;
    for (int bound = 0; bound < 15; bound++)
        for (int i = 0; i < GROUP4; i++) above[i] += scaled[i] > to->bounds[bound];
    uint8_t *value = to->value + group * (GROUP4 / 2);
    for (int i = 0; i < count; i += 2) value[i / 2] = (uint8_t)(to->order[above[i]] << 4 | to->order[above[i + 1]]);
    to->scale[group] = most;
}

static void round4(const void *x, int type, int64_t first, int64_t count, const Rounding4 *to) {
    for (int64_t at = first; at < first + count; at += GROUP4) {
        int size = first + count - at < GROUP4 ? (int)(first + count - at) : GROUP4;
        float part[GROUP4];
        for (int i = 0; i < size; i++) part[i] = number(x, at + i, type);
        round_group(part, size, to, at / GROUP4);
    }
}

/* The numbers from `first` on, a multiple of 64, as `count` numbers of `type`, fp32 or bf16. */
EXPORT void llm_quant_whole4(const void *value, const void *scale, int32_t scale_type, const void *tables,
                             int64_t first, int64_t count, void *out, int32_t type, int32_t threads) {
    const Weight w = {.weight = value, .scale = scale, .zero = tables, .scale_type = scale_type, .kind = BIT4};
    int64_t wide = type == FLOAT32 ? 4 : 2;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < pieces(count); i++)
        (chosen->whole4 ? chosen->whole4 : whole4)(&w, first + i * PIECE4, size_of(i, count),
                                                   (char *)out + i * PIECE4 * wide, type);
}

/* The nearest nibbles of `count` numbers of `type`, and the largest of each group. */
EXPORT void llm_quant_round4(const void *x, int32_t type, int64_t count, const float *bounds, const int32_t *order,
                             uint8_t *value, float *scale, int32_t threads) {
    const Rounding4 to = {bounds, order, value, scale};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < pieces(count); i++)
        (chosen->round4 ? chosen->round4 : round4)(x, type, i * PIECE4, size_of(i, count), &to);
}
