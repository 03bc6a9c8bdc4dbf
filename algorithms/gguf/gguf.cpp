#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "quant/error.h"
#include "quant/gguf_quantizer.h"
#include "quant/registry.h"
#include "quant/weight_rows.h"
#include "shared/checks.h"
#include "shared/row_parts.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

// Whether each block has a code of value 0, whatever its scales are. The nearest value is chosen, so zeros get it.
bool holds_zero(BlockType type) {
  switch (type) {
    case BlockType::q4_1:
    case BlockType::q5_1:
    case BlockType::q2_k:
    case BlockType::q4_k:
    case BlockType::q5_k:
    case BlockType::iq4_nl:
    case BlockType::iq4_xs:
      return false;
    default:
      return true;
  }
}

class GGUF final : public Quantizer {
 public:
  explicit GGUF(const GGUFOptions& options) : options_(options) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.gram = options_.hessian;
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override {
    if (!has_blocks(weights)) return "this method makes blocks of GGUF: use a scheme such as Q4_K, or type block";
    const BlockFormat& format = block_format(*weights.block);
    if (!can_encode(format.type)) return fmt::format("blocks of {} are read but not made", format.name);
    if (!weights.keep_zeros || holds_zero(format.type)) return std::nullopt;
    return fmt::format("keep_zeros: not every block of {} has the value 0; Q4_0, Q8_0, Q3_K and Q6_K have it",
                       format.name);
  }
  bool weighs_each() const override { return true; }

  TensorParams prepare(const TensorView&, const QuantArgs&, std::span<const float>, int) const override { return {}; }
  std::uint64_t slice_bytes(const QuantArgs&, std::uint64_t rows, std::uint64_t cols) const override {
    return rows * cols * sizeof(float);
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams&,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    shared::check_importance(importance, rows, true);
    shared::require_finite(rows);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (out.rows * out.cols == 0) return;
    std::vector<float> weights(out.rows * out.cols);
    read_f32(rows, 0, weights);
    encode_blocks(*args.block, weights, out.cols, importance, options_.encoder, out.blocks);
    if (errors.wanted()) measure_rows(rows, out, errors);
  }

 private:
  GGUFOptions options_;
};

BlockEncoder encoder_of(const Parameters& parameters) {
  const auto found = parameters.find("encoder");
  const std::string name = found == parameters.end() ? "search" : std::get<std::string>(found->second);
  if (name == "search") return BlockEncoder::search;
  if (name == "reference-exact") return BlockEncoder::reference;
  throw Error(ErrorCode::usage, fmt::format("encoder: '{}' is neither search nor reference-exact", name));
}

}  // namespace

QuantizedTensor gguf_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance,
                              const GGUFOptions& options) {
  return shared::quantize_weight(GGUF(options), weight, std::move(args), importance);
}

std::unique_ptr<Quantizer> make_gguf(const GGUFOptions& options) { return std::make_unique<GGUF>(options); }

void register_gguf_quantizer(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "gguf";
  entry.modifier = "GGUFModifier";
  entry.summary =
      "block formats of GGUF (Q4_0 to Q8_0, Q2_K to Q6_K, IQ4, TQ, MXFP4): searched scales, or ggml's bytes";
  entry.source = "ggml, ggml-quants.c (k-quants: llama.cpp pull request 1684)";
  entry.parameters = {
      {"encoder", ParameterSpec::Type::text, std::string("search"),
       "search: least importance-weighted squared error; reference-exact: the bytes of ggml's own encoder"},
      shared::importance_parameter("squared errors")};
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return make_gguf({encoder_of(parameters), shared::wants_hessian(parameters)});
  };
  registry.add(std::move(entry));
}

}  // namespace quant
