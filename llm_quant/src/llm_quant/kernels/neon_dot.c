/* NEON with dot products of bytes (Cortex-A76, Neoverse N1, Apple M1, and later). */
#include "kernels.h"

#if defined(__aarch64__)
#include "neon.h"

static int supported(void) { return HAS(AT_HWCAP, HWCAP_ASIMDDP, "hw.optional.arm.FEAT_DotProd"); }

const Level level_neon_dot = {"neon_dot", supported, round_row, int8_product, int4_product, bf16_product, expand,
                              norm, gated, step};
#else
static int never(void) { return 0; }
const Level level_neon_dot = {"neon_dot", never, 0, 0, 0, 0, 0, 0, 0};
#endif
