// Which table of products with packed weights runs.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/packed/packed_table.h"

namespace quant::cpu {

/// Every table that this processor can run, scalar first.
const std::vector<const PackedTable*>& packed_tables();
/// The table of that name; for an empty name the best one of the instruction set that QUANT_ISA allows. Throws
/// Error{usage}.
const PackedTable& packed_table(std::string_view isa);

}  // namespace quant::cpu
