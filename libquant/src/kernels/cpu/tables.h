// The tables that the kernel files export; which of them exist depends on the processor family.
#pragma once

#include "quant/kernel_table.h"

namespace quant::cpu {

extern const KernelTable kScalarTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
#endif

}  // namespace quant::cpu
