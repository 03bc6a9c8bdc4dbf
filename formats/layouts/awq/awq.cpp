// The layout "awq": written in the form gemm of AutoAWQ, read in all its forms. docs/layouts.md describes it.
#include <fmt/format.h>

#include "layouts/awq/forms.h"
#include "layouts/stored/transposed.h"
#include "quant/registry.h"

namespace quant {
namespace {

std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear) {
  if (auto reason = stored::why_no_plain_groups(scheme, linear, "awq", "compressed-tensors")) return reason;
  const QuantArgs& args = *scheme.weights;
  if (args.num_bits != static_cast<int>(awq_layout::kBits)) {
    return fmt::format("weights: awq holds 4 bits, not {}; use --layout gptq or compressed-tensors", args.num_bits);
  }
  if (args.actorder == ActOrder::group) {
    return std::string("weights: actorder group has no place in awq; use actorder: static, or --layout gptq");
  }
  if (scheme.format && awq_layout::parse_form(*scheme.format) != awq_layout::Form::gemm) {
    return fmt::format("format: \"{}\" is not gemm, the one form of awq that is written", *scheme.format);
  }
  if (linear.rows % awq_layout::kRowsPerWord != 0) {
    return fmt::format("weights: {} has {} rows, and awq packs {} to a word; put it on the ignore list", linear.module,
                       linear.rows, awq_layout::kRowsPerWord);
  }
  if (linear.module == "lm_head" || linear.module.ends_with(".lm_head")) {
    return std::string("weights: loaders of awq know no quantized lm_head; put it on the ignore list");
  }
  return std::nullopt;
}

class Awq final : public Layout {
 public:
  std::string_view name() const override { return "awq"; }
  DType scale_dtype(const QuantArgs&, DType) const override { return DType::F16; }
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const override {
    return why_unsupported(scheme, linear);
  }
  std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) const override {
    return awq_layout::contradictions(groups);
  }
  std::string format_of(const Scheme&) const override {
    return std::string(awq_layout::to_string(awq_layout::Form::gemm));
  }
  std::vector<StoredTensor> stored(const Scheme& scheme, const LinearShape& linear) const override {
    return awq_layout::gemm_tensors(*scheme.weights, linear);
  }
  std::uint64_t row_alignment(const Scheme&) const override { return awq_layout::kSliceRows; }
  void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row,
                  const QuantizedTensor& slice, StoredBytesSink& sink) const override {
    awq_layout::write_gemm_rows(*scheme.weights, linear, first_row, slice, sink);
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                          const std::vector<std::string>& ignore) const override {
    return awq_layout::config_json(model, groups, ignore);
  }
  bool recognizes(const ModelConfig& model) const override { return awq_layout::says_awq(model); }
  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    return awq_layout::find_linears(checkpoint);
  }
  std::uint64_t read_alignment(const StoredLinear& linear) const override {
    switch (awq_layout::parse_form(linear.format).value_or(awq_layout::Form::gemm)) {
      case awq_layout::Form::gemv:
        return 1;
      case awq_layout::Form::gemv_fast:
        return awq_layout::kInterleave;
      default:
        return awq_layout::kRowsPerWord;
    }
  }
  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
                 QuantizedTensor& out) const override {
    const std::uint64_t unit = read_alignment(linear);
    stored::check_read(linear, first_row, count, unit);
    // Words hold the codes of whole units of rows; a reader may ask for a part of the last.
    const std::uint64_t whole = (count + unit - 1) / unit * unit;
    out.resize(linear.args, whole, linear.shape.cols);
    out.scale_dtype = linear.scale_dtype;
    switch (awq_layout::parse_form(linear.format).value_or(awq_layout::Form::gemm)) {
      case awq_layout::Form::gemv:
        awq_layout::read_gemv_rows(checkpoint, linear, first_row, out);
        break;
      case awq_layout::Form::gemv_fast:
        awq_layout::read_fast_rows(checkpoint, linear, first_row, out);
        break;
      default:
        awq_layout::read_gemm_rows(checkpoint, linear, first_row, out);
    }
    if (whole != count) out = slice_of(out, 0, count);
  }
};

}  // namespace

void register_awq_layout(Registry& registry);
void register_awq_layout(Registry& registry) { registry.add(std::make_unique<Awq>()); }

}  // namespace quant
