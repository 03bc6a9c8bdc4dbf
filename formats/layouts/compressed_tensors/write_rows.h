// Packing of rows into the stored tensors.
#pragma once

#include "layouts/compressed_tensors/formats.h"

namespace quant::compressed_tensors {

void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink);

}  // namespace quant::compressed_tensors
