// Products with packed weights for AVX2 with FMA and F16C.
#include "kernels/packed/packed_table.h"
#include "quant/kernel_table.h"

#define QUANT_ISA_NAME "avx2"
#define QUANT_ISA_TABLE kPackedAvx2
#include "kernels/packed/packed_kernels.inc"
