// Encoders of block formats: see blocks.inc.
#define QUANT_ISA_NAME "avx2"
#define QUANT_BLOCK_TABLE kAvx2Blocks
#include "kernels/blocks/blocks.inc"
