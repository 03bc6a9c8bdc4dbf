// Products with packed weights for the baseline of the target.
#include "kernels/packed/packed_table.h"
#include "quant/kernel_table.h"

#define QUANT_ISA_NAME "scalar"
#define QUANT_ISA_TABLE kPackedScalar
#include "kernels/packed/packed_kernels.inc"
