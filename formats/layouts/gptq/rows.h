// Packing and unpacking rows of GPTQ linears.
#pragma once

#include "layouts/gptq/parts.h"

namespace quant::gptq_layout {

void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink);

/// How zero points are found in stored words; see docs/layouts.md.
struct ZeroRule {
  Version version = Version::v1;
  /// The writer took one from every field of a word at once, so that a field that was 0 borrowed from its neighbour.
  bool whole_words = false;
};
/// The zero points, less 2^(b-1), of `values.size()` rows from words that start with the first of them.
void unpack_zeros(std::span<const std::byte> words, unsigned bits, const ZeroRule& rule, std::span<std::int8_t> values);

void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, const ZeroRule& rule, std::uint64_t first_row,
               std::uint64_t count, QuantizedTensor& out);

}  // namespace quant::gptq_layout
