// Hot loops, written once and compiled for several instruction sets; the table is chosen at run time.
#pragma once

#include <string_view>
#include <vector>

#include "quant/dtype.h"
#include "quant/kernel_table.h"

namespace quant {

/// The table in use: the best that the processor runs, or the one that the environment variable QUANT_ISA names
/// (scalar, avx2, avx512; Error{usage} if the processor lacks it or the name is unknown). Decided at the first call.
const KernelTable& kernels();
/// Every table that this processor can run, scalar first.
const std::vector<const KernelTable*>& available_kernels();
/// The table of that name, the best one for an empty name. Throws Error{usage} as kernels() does.
const KernelTable& select_kernels(std::string_view isa);

/// What the kernels call elements of that type; Element::integer for all that are not F4, F8_E4M3 or F8_E5M2.
Element element_of(DType type);

/// The table of x^norm, 0 < norm <= 7, for `search`: relative error below 1.5e-6 (4e-6 for norms below 1) for
/// 2^-14 <= x < 2^17, 0 below that. Throws Error{usage} for another norm.
PowerTable make_power_table(double norm);

}  // namespace quant
