// Products with packed weights for AVX-512 F, BW, DQ and VL.
#include "kernels/packed/packed_table.h"
#include "quant/kernel_table.h"

#define QUANT_ISA_NAME "avx512"
#define QUANT_ISA_TABLE kPackedAvx512
#include "kernels/packed/packed_kernels.inc"
