// The tensors of one linear in the layout "libquant" (docs/native-layout.md), in the order in which they are stored.
#pragma once

#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::native {

enum class Part {
  mask,    // of a pruned linear: which weights are stored ...
  starts,  // ... and, unless all rows keep as many, how many in the rows before each
  values,  // of plain numbers, which are pruned always
  codes,
  blocks,
  codebook,
  scale,
  scale_codes,
  scale_scales,
  scale_offset,
  zero_point,
  sparse_starts,
  sparse_columns,
  sparse_values
};

/// Layout::format_of: "integer", "codebook", "plain" or "block".
std::string format_of(const QuantArgs& args);
/// ".weight_codes"
std::string part_suffix(Part part);
std::vector<Part> parts_of(const QuantArgs& args, const LinearShape& linear);
StoredTensor stored_part(Part part, const QuantArgs& args, const LinearShape& linear);
/// Bytes of one row of codes.
std::uint64_t code_row_bytes(const QuantArgs& args, std::uint64_t cols);
DType stored_scale_dtype(const QuantArgs& args, DType weight_dtype);
/// Of sparse values: the type of scales where that is 16 bits wide, else F32.
DType sparse_dtype(DType scale_dtype);
/// U16 where column numbers fit, else U32.
DType column_dtype(std::uint64_t cols);
bool has_sparse_part(const QuantArgs& args);
/// Why the layout cannot hold such weights, or nothing.
std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear);

}  // namespace quant::native
