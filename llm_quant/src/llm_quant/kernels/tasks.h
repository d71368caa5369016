/* How an operation is divided into tasks, which may be computed in any order and by any thread. */
#ifndef LLM_QUANT_TASKS_H
#define LLM_QUANT_TASKS_H

#include "product.h"

#define PIECE 4096 /* numbers of a task, where each is computed by itself */
#define CHUNK 512  /* slots of a cache of a task; sums are put together by chunks, whatever the number of threads */

static inline Weight weight_of(const Op *op) {
    const int64_t *size = op->size;
    return (Weight){size[1], size[2], size[3], op->in[1], op->in[2], op->in[3], op->in[4], (int32_t)size[4], op->kind};
}

/* The slots of a row with `end` positions that hold a key; of an empty row the first one, which is zero. */
static inline int64_t filled(const Op *op, int64_t end) {
    int64_t slots = op->size[6];
    return end < 1 ? 1 : end < slots ? end : slots;
}

static inline int64_t chunks_of(const Op *op, int64_t end) { return (filled(op, end) + CHUNK - 1) / CHUNK; }

/* Whether an attention's queries all see every slot. */
static inline int sees_all(const Op *op) { return op->size[7] < 0; }

/* How many positions row b of an attention has. */
static inline int64_t end_of(const Op *op, const int64_t *ends, int64_t b) {
    return sees_all(op) ? op->size[6] : ends[b];
}

/* Of the longest row. */
static inline int64_t most_chunks(const Op *op, const int64_t *ends) {
    int64_t most = 1;
    for (int64_t b = 0; b < op->size[0]; b++) {
        int64_t chunks = chunks_of(op, end_of(op, ends, b));
        most = chunks > most ? chunks : most;
    }
    return most;
}

static inline int64_t tasks_of(const Op *op, const int64_t *ends) {
    switch (op->code) {
    case LINEAR: {
        Weight w = weight_of(op);
        int64_t share = share_of(&w, op->size[0]);
        return (blocks_of(&w) + share - 1) / share;
    }
    case GELU: case CAP: case ADD: case MULTIPLY: case SCALE: case DIVIDE: case GATED_BACKWARD:
        return (op->size[0] + PIECE - 1) / PIECE;
    case ATTEND: /* chunk by chunk of a kv head, then the next head */
        return most_chunks(op, ends) * op->size[0] * op->size[3];
    default: /* rows */
        return op->size[0];
    }
}

/* How many tasks in a row a thread takes: it reads on where it was in a cache, which the processor foresees, and there
   are still enough for all to end at about the same time. */
static inline int64_t span_of(const Op *op, int64_t tasks, int threads) {
    int64_t span = op->code == ATTEND ? tasks / (8 * threads) : 1;
    return span < 1 ? 1 : span;
}
#endif
