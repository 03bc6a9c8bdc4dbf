#include "quant/bitnet.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "quant/error.h"
#include "quant/registry.h"
#include "quant/weight_rows.h"
#include "shared/checks.h"
#include "shared/row_parts.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

// Weights of a part of the rows that one thread looks at.
constexpr std::uint64_t kPart = 1U << 18U;

bool codes_signs(const QuantArgs& args) { return args.type == NumberType::codebook && args.codebook == Codebook::sign; }

std::optional<std::string> reason_against(const QuantArgs& args) {
  if (!is_ternary(args) && !codes_signs(args)) {
    return "this method makes ternary weights (type int, 2 bits, symmetric_range restricted) or signs (type codebook, "
           "codebook sign)";
  }
  if (args.keep_zeros && codes_signs(args)) return "keep_zeros: signs are -1 and 1; no code of theirs is 0";
  if (args.dynamic != Dynamic::no) return "weights cannot be quantized dynamically";
  if (args.observer && !args.observer->ends_with("minmax")) {
    return "the scale is the mean magnitude; the observer '" + *args.observer + "' goes with QuantizationModifier";
  }
  if (args.scale_dtype && args.scale_dtype != DType::F32 && args.scale_dtype != DType::F16 &&
      args.scale_dtype != DType::BF16) {
    return "scales are of type float32, float16 or bfloat16 here";
  }
  switch (args.strategy) {
    case Strategy::tensor:
    case Strategy::channel:
    case Strategy::group:
    case Strategy::block:
      return std::nullopt;
    default:
      return "strategy " + std::string(to_string(args.strategy)) + " is not one for ternary weights and signs";
  }
}

void check(const TensorView& rows, std::span<const float> importance) {
  shared::check_importance(importance, rows, true);
  shared::require_finite(rows);
}

// What decides the scale of the weights that share one.
class Magnitudes {
 public:
  // `importance`: as many numbers, or none.
  void add(std::span<const float> values, std::span<const float> importance) {
    count_ += values.size();
    for (std::size_t i = 0; i < values.size(); ++i) {
      const float size = std::fabs(values[i]);
      const double weight = importance.empty() ? 1.0 : static_cast<double>(importance[i]);
      sum_ += weight * static_cast<double>(size);
      weight_ += weight;
      plain_sum_ += static_cast<double>(size);
      if (size == 0) {
        zeros_ = true;
      } else if (largest_ == 0) {
        largest_ = size;
      } else {
        single_ = single_ && size == largest_;
      }
    }
  }
  void add(const Magnitudes& more) {
    sum_ += more.sum_;
    weight_ += more.weight_;
    plain_sum_ += more.plain_sum_;
    count_ += more.count_;
    zeros_ = zeros_ || more.zeros_;
    single_ = single_ && more.single_ && (largest_ == 0 || more.largest_ == 0 || largest_ == more.largest_);
    if (largest_ == 0) largest_ = more.largest_;
  }
  // The size of all nonzero weights, if they have one and the form can hold the zeros; else the mean, in which all
  // count the same where none has importance.
  float scale(bool signs) const {
    if (single_ && largest_ > 0 && !(signs && zeros_)) return largest_;
    if (weight_ > 0) return static_cast<float>(sum_ / weight_);
    return count_ > 0 ? static_cast<float>(plain_sum_ / static_cast<double>(count_)) : 0.0F;
  }

 private:
  double sum_ = 0, weight_ = 0, plain_sum_ = 0;
  std::uint64_t count_ = 0;
  float largest_ = 0;
  bool single_ = true, zeros_ = false;
};

// Of all rows.
Magnitudes magnitudes_of(const TensorView& view, std::span<const float> importance) {
  const WeightRows rows(view);
  Magnitudes magnitudes;
  std::vector<float> row(rows.cols());
  for (std::uint64_t r = 0; r < rows.rows(); ++r) {
    rows.read(r, 0, row);
    magnitudes.add(row, shared::importance_of(importance, rows.cols(), r, 0, rows.cols()));
  }
  return magnitudes;
}

void encode(std::span<const float> values, float scale, bool signs, std::int8_t* codes) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (signs) {
      codes[i] = values[i] < 0 ? 0 : 1;
    } else {
      // Half a step rounds to 0, the even one.
      const float size = std::fabs(values[i]) / scale;
      codes[i] = static_cast<std::int8_t>(size > 0.5F ? (values[i] < 0 ? -1 : 1) : 0);
    }
  }
}

class BitNet final : public Quantizer {
 public:
  CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }
  bool weighs_each() const override { return true; }

  TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                       int threads) const override {
    TensorParams params;
    if (args.strategy != Strategy::tensor) return params;
    Magnitudes all;
    for (const Magnitudes& part :
         shared::parts_of_rows<Magnitudes>(weight, args, importance, threads, kPart, magnitudes_of)) {
      all.add(part);
    }
    params.scale = all.scale(codes_signs(args));
    return params;
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    check(rows, importance);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (out.codes.empty()) return;
    if (args.strategy == Strategy::tensor && !params.scale) {
      throw Error(ErrorCode::usage, "strategy tensor needs the scale that prepare() finds");
    }
    const bool signs = codes_signs(args);
    const WeightRows reader(rows);
    for (std::uint64_t unit = 0; unit < out.grid.count(); ++unit) {
      const ScaleGrid& grid = out.grid;
      const std::uint64_t first = unit / grid.cols * grid.row_extent, end = std::min(out.rows, first + grid.row_extent);
      const std::uint64_t col = unit % grid.cols * grid.col_extent, width = std::min(grid.col_extent, out.cols - col);
      std::vector<float> values(width);
      Magnitudes magnitudes;
      for (std::uint64_t r = first; r < end && !params.scale; ++r) {
        reader.read(r, col, values);
        magnitudes.add(values, shared::importance_of(importance, out.cols, r, col, width));
      }
      out.scales[unit] = shared::storable_scale(params.scale.value_or(magnitudes.scale(signs)), scale_dtype);
      for (std::uint64_t r = first; r < end; ++r) {
        reader.read(r, col, values);
        encode(values, out.scales[unit], signs, out.codes.data() + r * out.cols + col);
      }
    }
    if (errors.wanted()) measure_rows(rows, out, errors);
  }
};

}  // namespace

QuantizedTensor bitnet_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance) {
  return shared::quantize_weight(BitNet(), weight, std::move(args), importance);
}

std::unique_ptr<Quantizer> make_bitnet() { return std::make_unique<BitNet>(); }

void register_bitnet(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "bitnet";
  entry.modifier = "BitNetModifier";
  entry.summary = "ternary weights and signs, times the mean magnitude; weights of that form are kept exactly";
  entry.source = "Ma et al. 2024, The Era of 1-bit LLMs (arXiv 2402.17764); Rastegari et al. 2016 (arXiv 1603.05279)";
  entry.create = [](const Parameters&) -> std::unique_ptr<Algorithm> { return make_bitnet(); };
  registry.add(std::move(entry));
}

}  // namespace quant
