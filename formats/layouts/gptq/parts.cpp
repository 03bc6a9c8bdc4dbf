#include "layouts/gptq/parts.h"

#include <fmt/format.h>

#include "layouts/stored/transposed.h"
#include "packing/pack_bits.h"

namespace quant::gptq_layout {

std::string_view to_string(Version version) { return version == Version::v1 ? "gptq" : "gptq_v2"; }

std::optional<Version> parse_version(std::string_view format) {
  if (format == "gptq") return Version::v1;
  if (format == "gptq_v2") return Version::v2;
  return std::nullopt;
}

Version version_of(const Scheme& scheme) {
  if (scheme.format) {
    if (const auto version = parse_version(*scheme.format)) return *version;
  }
  return scheme.weights && !scheme.weights->symmetric ? Version::v2 : Version::v1;
}

bool holds_bits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

std::vector<StoredTensor> tensors_of(const QuantArgs& args, const LinearShape& linear) {
  const auto bits = static_cast<unsigned>(args.num_bits);
  const std::uint64_t groups = scale_grid(args, linear.rows, linear.cols).cols;
  return {{linear.module + ".qweight", DType::I32, {packing::dense_words(linear.cols, bits), linear.rows}},
          {linear.module + ".qzeros", DType::I32, {groups, packing::dense_words(linear.rows, bits)}},
          {linear.module + ".scales", DType::F16, {groups, linear.rows}},
          {linear.module + ".g_idx", DType::I32, {linear.cols}}};
}

std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear) {
  if (auto reason = stored::why_no_plain_groups(scheme, linear, "gptq", "compressed-tensors")) return reason;
  const QuantArgs& args = *scheme.weights;
  if (!holds_bits(args.num_bits)) {
    return fmt::format("weights: gptq holds 2, 3, 4 and 8 bits, not {}; use --layout compressed-tensors",
                       args.num_bits);
  }
  if (scheme.format && !parse_version(*scheme.format)) {
    return fmt::format("format: \"{}\" is none of gptq, in which zero points are stored less one, and gptq_v2",
                       *scheme.format);
  }
  if (linear.rows % kAlignment != 0 || linear.cols % kAlignment != 0) {
    return fmt::format(
        "weights: {} is {}x{}, and gptq packs matrices whose sizes are multiples of {}; put it on the ignore list",
        linear.module, linear.rows, linear.cols, kAlignment);
  }
  return std::nullopt;
}

}  // namespace quant::gptq_layout
