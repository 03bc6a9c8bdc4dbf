// The kernels for AVX2 with F16C.
#include "kernels/cpu/tables.h"

#define QUANT_ISA_NAME "avx2"
#define QUANT_ISA_TABLE kAvx2Table
#include "kernels/cpu/kernels.inc"
