// Unpacking of rows.
#pragma once

#include "layouts/compressed_tensors/formats.h"

namespace quant::compressed_tensors {

void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
               QuantizedTensor& out);
/// The format of a linear that find_linears described. Throws Error{internal} for any other name.
Format format_of(const StoredLinear& linear);

}  // namespace quant::compressed_tensors
