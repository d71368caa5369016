/* One product in pieces that threads can share: x is prepared, then blocks of weights are multiplied. */
#ifndef LLM_QUANT_PRODUCT_H
#define LLM_QUANT_PRODUCT_H

#include "kernels.h"

/* The level in use. */
extern const Level *chosen;

/* Memory of this thread for what `prepare` makes of x [M][K], which stays until its next call; 0 where there is none. */
int make_room(const Weight *w, int64_t m, Rows *rows);

/* x is prepared in parts, in any order: rows that are rounded, or panels of bf16, which only many rows need. */
int64_t parts_of(const Weight *w, int64_t m);
void prepare(const Weight *w, const void *x, int type, int64_t m, int64_t part, const Rows *rows);

/* y [M][N] at the rows of `count` blocks of weights, or those up to the last. */
void multiply(const Weight *w, const void *x, const Rows *rows, int type, int64_t m, int64_t block, int64_t count, void *y);

/* Blocks of weights that a thread takes at a time: others may use the processor too. */
int64_t share_of(const Weight *w, int64_t m);

static inline int64_t blocks_of(const Weight *w) { return (w->n + LANES - 1) / LANES; }

#endif
