// Encoders of block formats: see blocks.inc.
#define QUANT_ISA_NAME "scalar"
#define QUANT_BLOCK_TABLE kScalarBlocks
#include "kernels/blocks/blocks.inc"
