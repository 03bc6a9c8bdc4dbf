// Products with packed weights for AVX-512 with VNNI, BF16 and VBMI.
#include "kernels/packed/packed_table.h"
#include "quant/kernel_table.h"

#define QUANT_ISA_NAME "avx512_vnni"
#define QUANT_ISA_TABLE kPackedAvx512Vnni
#include "kernels/packed/packed_kernels.inc"
