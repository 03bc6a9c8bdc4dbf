// The kernels for AVX-512 F, BW, DQ and VL.
#include "kernels/cpu/tables.h"

#define QUANT_ISA_NAME "avx512"
#define QUANT_ISA_TABLE kAvx512Table
#include "kernels/cpu/kernels.inc"
