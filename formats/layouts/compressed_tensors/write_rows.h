// Packing of rows into the stored tensors.
#pragma once

#include "layouts/compressed_tensors/formats.h"

namespace quant::compressed_tensors {

/// Writes one static scale as `tensor`, the sink's number `place`, rounded to its type. Throws Error{usage} naming the
/// tensor unless the result is a positive number.
void write_static_scale(const StoredTensor& tensor, std::size_t place, float scale, StoredBytesSink& sink);

void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink);

}  // namespace quant::compressed_tensors
