#include "quant/rtn.h"

#include <omp.h>

#include <algorithm>
#include <string>

#include "coder.h"
#include "parallel_for.h"
#include "quant/error.h"
#include "quant/registry.h"
#include "shared/checks.h"
#include "tensor_params.h"

namespace quant {
namespace {

using rtn::Coder;

std::optional<std::string> reason_against(const QuantArgs& args) {
  if (args.strategy == Strategy::token || args.strategy == Strategy::attn_head) {
    return "strategy " + std::string(to_string(args.strategy)) + " is not one for weights";
  }
  if (args.dynamic != Dynamic::no) return "weights cannot be quantized dynamically";
  if (args.type == NumberType::codebook) {
    return "rounding to a grid makes no codebooks; use CodebookModifier (nf4, fp4) or KMeansModifier (learned)";
  }
  if (has_blocks(args)) return "rounding to a grid makes no blocks of GGUF; use GGUFModifier";
  if (has_real_zero_points(args)) return "this method makes zero points that are whole numbers; use HQQModifier";
  if (args.type == NumberType::integer && args.num_bits == 1 && args.symmetric &&
      symmetric_range(args) == SymmetricRange::restricted) {
    return "the restricted range of 1 bit holds nothing but 0";
  }
  try {
    rtn::make_observer(args);
    if (!is_mx(args)) rtn::make_rules(args, args.scale_dtype.value_or(DType::F32), 1.0F);
  } catch (const Error& error) {
    return error.what();
  }
  return std::nullopt;
}

class Rtn final : public Quantizer {
 public:
  CalibrationNeeds needs() const override { return {}; }

  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }
  bool weighs(const QuantArgs& args) const override { return rtn::make_observer(args).searches(); }

  TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                       int threads) const override {
    return rtn::tensor_params(weight, args, importance, threads);
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    static thread_local Coder coder;  // keeps its buffers
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    out.global_scale = params.global_scale.value_or(1.0F);
    coder.code(rows, 0, args, scale_dtype, params, importance,
               {out.codes.data(), out.scales.data(), out.zero_points.empty() ? nullptr : out.zero_points.data()},
               errors);
  }
};

// Rows of about 2^18 weights, a multiple of the rows that share a scale.
std::uint64_t slice_rows(const QuantizedTensor& out) {
  const std::uint64_t unit = out.args.strategy == Strategy::block ? out.grid.row_extent : 1;
  return unit * std::max<std::uint64_t>(1, (1U << 18) / std::max<std::uint64_t>(1, unit * out.cols));
}

// Codes rows [first, first + count). The slices of a tensor with a single scale all find the same one: one writes it.
void code_slice(Coder& coder, const TensorView& weight, const TensorParams& params, std::span<const float> importance,
                std::uint64_t first, std::uint64_t count, QuantizedTensor& out) {
  float shared_scale = 0;
  std::int8_t shared_zero = 0;
  const std::size_t at = first / out.grid.row_extent * out.grid.cols;
  const bool shared = out.args.strategy == Strategy::tensor;
  std::int8_t* zero = out.zero_points.empty() ? nullptr : shared ? &shared_zero : out.zero_points.data() + at;
  coder.code(weight.slice_rows(first, count), first, out.args, out.scale_dtype, params, importance,
             {out.codes.data() + first * out.cols, shared ? &shared_scale : out.scales.data() + at, zero}, {});
  if (!shared || first != 0) return;
  out.scales[0] = shared_scale;
  if (zero != nullptr) out.zero_points[0] = shared_zero;
}

void code_slices(const TensorView& weight, const TensorParams& params, std::span<const float> importance, int threads,
                 QuantizedTensor& out) {
  const std::uint64_t step = slice_rows(out);
  const std::uint64_t slices = (out.rows + step - 1) / step;
  const auto code = [&](Coder& coder, std::uint64_t s) {
    code_slice(coder, weight, params, importance, s * step, std::min(step, out.rows - s * step), out);
  };
  rtn::parallel_for(
      threads, slices, [] { return Coder(); }, code, [](Coder&) {});
}

}  // namespace

QuantizedTensor rtn_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance) {
  shared::complete_args(Rtn(), args);
  rtn::check_weight(weight);
  rtn::check_importance(importance, weight.cols());
  const int threads = rtn::useful_threads(omp_get_max_threads(), weight.rows() * weight.cols());
  QuantizedTensor out;
  out.resize(args, weight.rows(), weight.cols());
  out.scale_dtype = rtn::default_scale_dtype(args, weight.dtype);
  if (out.codes.empty()) return out;
  const TensorParams params = rtn::tensor_params(weight, args, importance, threads);
  out.global_scale = params.global_scale.value_or(1.0F);
  code_slices(weight, params, importance, threads, out);
  return out;
}

std::unique_ptr<Quantizer> make_rtn() { return std::make_unique<Rtn>(); }

void register_rtn(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "rtn";
  entry.modifier = "QuantizationModifier";
  entry.summary = "round to nearest, with min-max, percentile or error-minimizing scales";
  entry.source = "compressed-tensors and llm-compressor (QuantizationModifier and its observers)";
  entry.create = [](const Parameters&) -> std::unique_ptr<Algorithm> { return make_rtn(); };
  registry.add(std::move(entry));
}

}  // namespace quant
