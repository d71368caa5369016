/* One product in pieces that threads can share: the rows of x are rounded, then blocks of weights are multiplied. */
#ifndef LLM_QUANT_PRODUCT_H
#define LLM_QUANT_PRODUCT_H

#include "kernels.h"

/* The level in use. */
extern const Level *chosen;

/* Round the rows of x [M][K] into memory of this thread, which stays until its next call; 0 where there is none. */
int round_rows(const Weight *w, const void *x, int type, int64_t m, Rows *rows);

/* y [M][N] at the rows of a block of weights. `rows` is what was rounded of x, unused for weights in bf16. */
void multiply(const Weight *w, const void *x, const Rows *rows, int type, int64_t m, int64_t block, void *y);

/* Blocks of weights that a thread takes at a time: others may use the processor too. */
int64_t share_of(const Weight *w);

static inline int64_t blocks_of(const Weight *w) { return (w->n + LANES - 1) / LANES; }

#endif
