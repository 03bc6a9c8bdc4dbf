// Encoders of block formats: see blocks.inc.
#define QUANT_ISA_NAME "avx512"
#define QUANT_BLOCK_TABLE kAvx512Blocks
#include "kernels/blocks/blocks.inc"
