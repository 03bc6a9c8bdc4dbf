#include "quant/hqq.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "hqq/zero_search.h"
#include "quant/error.h"
#include "quant/kernels.h"
#include "quant/registry.h"
#include "quant/weight_rows.h"
#include "shared/checks.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

using hqq::GroupChoice;
using hqq::Settings;
using hqq::ZeroSearch;

void check(const HqqOptions& options) {
  const auto require = [](const char* name, auto value, double least, double most) {
    const auto number = static_cast<double>(value);
    if (number >= least && number <= most) return;  // false for NaN
    throw Error(ErrorCode::usage, fmt::format("{} must be from {} to {}, not {}", name, least, most, value));
  };
  require("lp_norm", options.lp_norm, 0.1, 1);
  require("beta", options.beta, 1e-6, 1e12);
  require("kappa", options.kappa, 1, 10);
  require("iters", options.iters, 0, 1000);
}

std::optional<std::string> reason_against(const QuantArgs& args) {
  if (args.type != NumberType::integer || args.symmetric) {
    return "HQQ searches zero points: it needs type int and symmetric: false";
  }
  if (args.strategy != Strategy::channel && args.strategy != Strategy::group && args.strategy != Strategy::block) {
    return "HQQ has zero points per channel, group or block, not for strategy " + std::string(to_string(args.strategy));
  }
  if (args.dynamic != Dynamic::no) return "weights cannot be quantized dynamically";
  if (args.scale_dtype && args.scale_dtype != DType::F32 && args.scale_dtype != DType::F16 &&
      args.scale_dtype != DType::BF16) {
    return "HQQ has scales of type float32, float16 or bfloat16";
  }
  if (args.keep_zeros && has_real_zero_points(args) && dtype_bits(*args.zp_dtype) < 16) {
    return "keep_zeros: zero points of 8 bits are not all whole numbers, which a code of exactly 0 needs";
  }
  if (args.observer && !args.observer->ends_with("minmax")) {
    return "HQQ finds ranges itself and cannot use the observer '" + *args.observer + "'";
  }
  return std::nullopt;
}

// Codes one slice of rows.
class SliceCoder {
 public:
  SliceCoder(const Settings& settings, const TensorView& view, std::span<const float> importance, QuantizedTensor& out)
      : rows_(view),
        importance_(importance),
        out_(out),
        rules_(make_scale_rules(out.args, out.scale_dtype, 1.0F)),
        search_(settings, rules_, has_real_zero_points(out.args) ? *out.args.zp_dtype : DType::I8, out.args.keep_zeros),
        zeros_(out.grid.cols) {}

  void code() {
    for (std::uint64_t r = 0; r < out_.rows; ++r) {
      if (r % out_.grid.row_extent == 0) find_scales(r);
      code_row(r);
    }
  }

 private:
  // Scales and zero points of the row of scales that begins at weight row `row`.
  void find_scales(std::uint64_t row) {
    const std::uint64_t end = std::min(out_.rows, row + out_.grid.row_extent);
    for (std::uint64_t g = 0; g < out_.grid.cols; ++g) {
      const std::uint64_t col = g * out_.grid.col_extent, width = std::min(out_.grid.col_extent, out_.cols - col);
      values_.resize((end - row) * width);
      weights_.clear();
      for (std::uint64_t r = row; r < end; ++r) {
        rows_.read(r, col, std::span(values_).subspan((r - row) * width, width));
        if (importance_.empty()) continue;
        const auto part = importance_.subspan(col, width);
        weights_.insert(weights_.end(), part.begin(), part.end());
      }
      const GroupChoice choice = search_.choose(values_, weights_);
      const std::uint64_t unit = row / out_.grid.row_extent * out_.grid.cols + g;
      out_.scales[unit] = choice.scale;
      zeros_[g] = choice.zero_point;
      if (out_.real_zero_points.empty()) {
        out_.zero_points[unit] = static_cast<std::int8_t>(choice.zero_point);
      } else {
        out_.real_zero_points[unit] = choice.zero_point;
      }
    }
  }

  void code_row(std::uint64_t row) {
    RowSums sums{};  // of zero points that are whole numbers only
    kernels().encode({rows_.row(row, converted_), rows_.type(), Element::integer, out_.cols, out_.grid.col_extent,
                      out_.scales.data() + row / out_.grid.row_extent * out_.grid.cols, zeros_.data(), rules_.code_min,
                      rules_.code_max, out_.codes.data() + row * out_.cols, &sums, nullptr, nullptr});
  }

  WeightRows rows_;
  std::span<const float> importance_;
  QuantizedTensor& out_;
  ScaleRules rules_;
  ZeroSearch search_;
  std::vector<float> zeros_, values_, weights_, converted_;
};

class Hqq final : public Quantizer {
 public:
  explicit Hqq(const HqqOptions& options) : settings_((check(options), options)) {}

  CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }
  bool weighs(const QuantArgs&) const override { return true; }
  TensorParams prepare(const TensorView&, const QuantArgs&, std::span<const float>, int) const override { return {}; }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams&,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    shared::check_importance(importance, rows, false);
    shared::require_finite(rows);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (out.codes.empty()) return;
    SliceCoder(settings_, rows, importance, out).code();
    if (errors.wanted()) measure_rows(rows, out, errors);
  }

 private:
  Settings settings_;
};

HqqOptions options_of(const Parameters& parameters) {
  HqqOptions options;
  const auto number = [&](const char* name, double& value) {
    const auto given = parameters.find(name);
    if (given == parameters.end()) return;
    const auto* whole = std::get_if<std::int64_t>(&given->second);
    value = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(given->second);
  };
  number("lp_norm", options.lp_norm);
  number("beta", options.beta);
  number("kappa", options.kappa);
  if (const auto given = parameters.find("iters"); given != parameters.end()) {
    options.iters = std::get<std::int64_t>(given->second);
  }
  if (const auto given = parameters.find("unit"); given != parameters.end()) {
    const auto& name = std::get<std::string>(given->second);
    if (name != "steps" && name != "weights") {
      throw Error(ErrorCode::usage, "unit must be steps or weights, not '" + name + "'");
    }
    options.unit = name == "steps" ? HqqUnit::steps : HqqUnit::weights;
  }
  return options;
}

}  // namespace

QuantizedTensor hqq_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance,
                             const HqqOptions& options) {
  return shared::quantize_weight(Hqq(options), weight, std::move(args), importance);
}

std::unique_ptr<Quantizer> make_hqq(const HqqOptions& options) { return std::make_unique<Hqq>(options); }

void register_hqq(Registry& registry) {
  using Type = ParameterSpec::Type;
  const HqqOptions defaults;
  AlgorithmEntry entry;
  entry.name = "hqq";
  entry.modifier = "HQQModifier";
  entry.summary = "zero points of least sum of |error|^p by half-quadratic splitting, without calibration data";
  entry.source = "Badri and Shaji 2023, Half-Quadratic Quantization of Large Machine Learning Models";
  entry.parameters = {
      {"lp_norm", Type::number, defaults.lp_norm, "p of the sum of |error|^p that is made small, 0.1 to 1"},
      {"beta", Type::number, defaults.beta, "weight of the quadratic term in the first iteration"},
      {"kappa", Type::number, defaults.kappa, "growth of beta from one iteration to the next"},
      {"iters", Type::integer, defaults.iters, "iterations; the best of all is taken"},
      {"unit", Type::text, std::string("steps"),
       "what beta's errors are measured in: steps of the grid, or weights as they are, as published"}};
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return make_hqq(options_of(parameters));
  };
  registry.add(std::move(entry));
}

}  // namespace quant
