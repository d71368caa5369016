/* NEON with dot products of bytes and of bf16 (Cortex-A510 and A710, Neoverse V1, Apple M2, and later). */
#include "kernels.h"

#if defined(__aarch64__)
#include "neon.h"

static int supported(void) {
    return HAS(AT_HWCAP, HWCAP_ASIMDDP, "hw.optional.arm.FEAT_DotProd") &&
           HAS(AT_HWCAP2, HWCAP2_BF16, "hw.optional.arm.FEAT_BF16");
}

const Level level_neon_bf16 = {"neon_bf16", supported, round_row, int8_product, int4_product, bf16_product, expand,
                               norm, gated, step};
#else
static int never(void) { return 0; }
const Level level_neon_bf16 = {"neon_bf16", never, 0, 0, 0, 0, 0, 0, 0};
#endif
