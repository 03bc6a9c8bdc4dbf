// The kernels for the baseline of the target: the reference that the other tables must equal.
#include "kernels/cpu/tables.h"

#define QUANT_ISA_NAME "scalar"
#define QUANT_ISA_TABLE kScalarTable
#include "kernels/cpu/kernels.inc"
