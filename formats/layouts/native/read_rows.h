// Reading of the layout "libquant". Nothing in the file is trusted.
#pragma once

#include <vector>

#include "quant/layout.h"

namespace quant::native {

std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint);
void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
               QuantizedTensor& out);
std::uint64_t read_alignment(const StoredLinear& linear);

}  // namespace quant::native
