/* NEON as every 64-bit Arm processor has it. */
#include "kernels.h"

#if defined(__aarch64__)
#include "neon.h"

static int supported(void) { return 1; }

const Level level_neon = {"neon", supported, round_row, int8_product, int4_product, bf16_product, expand,
                          norm, gated, step};
#else
static int never(void) { return 0; }
const Level level_neon = {"neon", never, 0, 0, 0, 0, 0, 0, 0};
#endif
