// The tensors of a GPTQ linear, as AutoGPTQ and GPTQModel write them:
//   qweight int32 [ceil(in * b / 32), out]       codes 0..2^b - 1, packed along inputs
//   qzeros  int32 [groups, ceil(out * b / 32)]   zero points, packed along outputs
//   scales  float16 [groups, out]
//   g_idx   int32 [in]                           the group of each input
// w[o, i] = scales[g_idx[i], o] * (code[i, o] - zero[g_idx[i], o]). Packing is a little-endian bit stream of fields of
// b bits. Version 1 ("gptq") stores zero points less one, version 2 ("gptq_v2") as they are. Source: GPTQModel 7.7
// (BaseQuantLinear.pack_original), AutoGPTQ 0.7.1 (qlinear_cuda_old).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/layout.h"

namespace quant::gptq_layout {

enum class Version {
  v1,  ///< checkpoint_format "gptq"
  v2   ///< "gptq_v2"
};
std::string_view to_string(Version version);
std::optional<Version> parse_version(std::string_view format);

/// The version in which such weights are written: what the scheme's format says, else v1 for symmetric weights, whose
/// constant every reader knows, and v2 for others, where a zero point of 0 less one has no place of its own.
Version version_of(const Scheme& scheme);

enum Place : std::size_t { kWeight, kZeros, kScales, kIndex };

/// Columns of words of qzeros, and rows of linears, start anew with that many rows.
inline constexpr std::uint64_t kAlignment = 32;

bool holds_bits(int bits);
std::vector<StoredTensor> tensors_of(const QuantArgs& args, const LinearShape& linear);
std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear);

}  // namespace quant::gptq_layout
