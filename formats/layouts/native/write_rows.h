// Packing of rows into the stored tensors of the layout "libquant".
#pragma once

#include "quant/layout.h"

namespace quant::native {

void write_rows(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink);

}  // namespace quant::native
