#include "quant/codebook.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "codebook/block_coder.h"
#include "quant/error.h"
#include "quant/registry.h"
#include "quant/scale_codes.h"
#include "quant/weight_rows.h"
#include "shared/checks.h"
#include "shared/row_parts.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

using codebook::Fit;
using codebook::Fitter;
using codebook::Table;

// Weights of a part of the rows that one thread looks at.
constexpr std::uint64_t kPart = 1U << 18U;

const Table& table_of(Codebook which) {
  static const Table nf4(Codebook::nf4);
  static const Table fp4(Codebook::fp4);
  return which == Codebook::nf4 ? nf4 : fp4;
}

bool searches(const QuantArgs& args) { return args.observer && !args.observer->ends_with("minmax"); }

std::optional<std::string> reason_against(const QuantArgs& args, bool hessian) {
  if (!has_fixed_codebook(args) || args.codebook == Codebook::sign)
    return "this method codes with a fixed codebook: type codebook, codebook nf4 or fp4";
  if (searches(args) && *args.observer != "mse" && *args.observer != "memoryless_mse") {
    return "scales of NF4 and FP4 blocks are the largest magnitude (no observer, or a min-max one) or searched for the "
           "least squared error (observer: mse), not found by the observer '" +
           *args.observer + "'";
  }
  if (!args.observer_kwargs.empty()) {
    return "the search for scales of NF4 and FP4 blocks has no arguments; leave observer_kwargs." +
           args.observer_kwargs.begin()->first + " out";
  }
  if (hessian && !searches(args) && args.sensitive_percent == 0) {
    return "importance: hessian weighs the search for scales; add observer: mse to the weights, or leave it out";
  }
  switch (args.strategy) {
    case Strategy::tensor:
    case Strategy::channel:
    case Strategy::group:
    case Strategy::block:
    case Strategy::flat:
      return std::nullopt;
    default:
      return "strategy " + std::string(to_string(args.strategy)) + " is not one for codebooks";
  }
}

// The weights that share each scale, one unit at a time; of a whole tensor's scale, row by row.
class Units {
 public:
  Units(const TensorView& view, const QuantArgs& args, std::span<const float> importance)
      : view_(view), rows_(view.rows()), cols_(view.cols()), grid_(grid_of(args, view)), importance_(importance) {}

  std::uint64_t count() const { return rows_ * cols_ == 0 ? 0 : grid_.count(); }

  /// Reads a unit's weights: what the other functions are about.
  void load(std::uint64_t unit) {
    unit_ = unit;
    values_.clear();
    gathered_.clear();
    runs([&](std::uint64_t first, std::uint64_t n) {
      const std::size_t at = values_.size();
      values_.resize(at + n);
      read_f32(view_, first, std::span(values_).subspan(at));
      for (std::uint64_t i = first; i < first + n && !importance_.empty(); ++i) {
        gathered_.push_back(importance_[importance_.size() == cols_ ? i % cols_ : i]);
      }
    });
  }
  float absmax() const { return codebook::largest_magnitude(values_); }
  Fit fit(const Table& table, float scale) { return fitter_.fit(table, values_, gathered_, scale); }
  float find_scale(const QuantArgs& args, const Table& table, DType type) {
    if (!searches(args)) return shared::storable_scale(absmax(), type);
    return codebook::find_scale(absmax(), type, [&](float scale) { return fit(table, scale); });
  }
  void encode(const Table& table, float scale, std::int8_t* codes) const {
    const float inverse = codebook::inverse_of(scale);
    std::size_t at = 0;
    runs([&](std::uint64_t first, std::uint64_t n) {
      table.encode(std::span(values_).subspan(at, n), inverse, codes + first);
      at += n;
    });
  }

 private:
  static ScaleGrid grid_of(QuantArgs args, const TensorView& view) {
    if (args.strategy == Strategy::tensor) args.strategy = Strategy::channel;
    return scale_grid(args, view.rows(), view.cols());
  }
  // Calls act(place of the first, number of weights side by side) for each run of the unit.
  template <class Act>
  void runs(const Act& act) const {
    if (grid_.flat != 0) {
      const std::uint64_t first = unit_ * grid_.flat;
      return act(first, std::min<std::uint64_t>(grid_.flat, rows_ * cols_ - first));
    }
    const std::uint64_t row = unit_ / grid_.cols * grid_.row_extent, col = unit_ % grid_.cols * grid_.col_extent;
    for (std::uint64_t r = row; r < std::min(rows_, row + grid_.row_extent); ++r) {
      act(r * cols_ + col, std::min(grid_.col_extent, cols_ - col));
    }
  }

  TensorView view_;
  std::uint64_t rows_, cols_, unit_ = 0;
  ScaleGrid grid_;
  std::span<const float> importance_;
  std::vector<float> values_, gathered_;
  Fitter fitter_;
};

// The scale of a whole tensor: of its largest magnitude, or searched in as many passes as there are candidates.
float tensor_scale(const TensorView& weight, const QuantArgs& args, std::span<const float> importance, int threads) {
  const auto in_parts = [&](const auto& body) {
    using Part = std::decay_t<decltype(body(std::declval<Units&>()))>;
    return shared::parts_of_rows<Part>(weight, args, importance, threads, kPart,
                                       [&](const TensorView& view, std::span<const float> part) {
                                         Units rows(view, args, part);
                                         return body(rows);
                                       });
  };
  float largest = 0;
  for (const float part : in_parts([](Units& rows) {
         float most = 0;
         for (std::uint64_t u = 0; u < rows.count(); ++u) {
           rows.load(u);
           most = std::max(most, rows.absmax());
         }
         return most;
       })) {
    largest = std::max(largest, part);
  }
  if (!searches(args)) return shared::storable_scale(largest, DType::F32);
  const Table& table = table_of(args.codebook);
  return codebook::find_scale(largest, DType::F32, [&](float scale) {
    Fit all;
    for (const Fit& part : in_parts([&](Units& rows) {
           Fit sum;
           for (std::uint64_t u = 0; u < rows.count(); ++u) {
             rows.load(u);
             sum += rows.fit(table, scale);
           }
           return sum;
         })) {
      all += part;
    }
    return all;
  });
}

// The mean of all scales, which double_quant takes off.
float mean_scale(const TensorView& weight, const QuantArgs& args, std::span<const float> importance, int threads) {
  struct Sum {
    double scales = 0;
    std::uint64_t count = 0;
  };
  Sum all;
  for (const Sum& part : shared::parts_of_rows<Sum>(
           weight, args, importance, threads, kPart, [&](const TensorView&view, std::span<const float> weights) {
             Units units(view, args, weights);
             Sum sum{0, units.count()};
             for (std::uint64_t u = 0; u < sum.count; ++u) {
               units.load(u);
               sum.scales += static_cast<double>(units.find_scale(args, table_of(args.codebook), DType::F32));
             }
             return sum;
           })) {
    all.scales += part.scales;
    all.count += part.count;
  }
  return all.count == 0 ? 0.0F : static_cast<float>(all.scales / static_cast<double>(all.count));
}

class FixedCodebook final : public Quantizer {
 public:
  explicit FixedCodebook(const CodebookOptions& options) : options_(options) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.gram = options_.hessian;
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override {
    return reason_against(weights, options_.hessian);
  }
  bool weighs_each() const override { return true; }

  TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                       int threads) const override {
    TensorParams params;
    if (args.strategy == Strategy::tensor) {
      params.scale = tensor_scale(weight, args, importance, threads);
    } else if (args.double_quant) {
      params.scale_offset = mean_scale(weight, args, importance, threads);
    }
    return params;
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    shared::check_importance(importance, rows, true);
    shared::require_finite(rows);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (out.codes.empty()) return;
    const bool whole = args.strategy == Strategy::tensor;
    if (whole && !params.scale) throw Error(ErrorCode::usage, "strategy tensor needs the scale that prepare() finds");
    if (whole) out.scales = {shared::storable_scale(*params.scale, scale_dtype)};
    const Table& table = table_of(args.codebook);
    Units units(rows, args, importance);
    for (std::uint64_t u = 0; u < units.count(); ++u) {
      units.load(u);
      float& scale = out.scales[whole ? 0 : u];
      if (!whole) scale = units.find_scale(args, table, args.double_quant ? DType::F32 : scale_dtype);
      units.encode(table, scale, out.codes.data());
    }
    if (args.double_quant) {
      if (!params.scale_offset) throw Error(ErrorCode::usage, "double_quant needs the offset that prepare() finds");
      code_scales(out.scales, *params.scale_offset, out.coded_scales);
      decode_scales(out);
    }
    if (errors.wanted()) measure_rows(rows, out, errors);
  }

 private:
  CodebookOptions options_;
};

}  // namespace

QuantizedTensor codebook_quantize(const TensorView& weight, QuantArgs args, std::span<const float> importance,
                                  const CodebookOptions& options) {
  return shared::quantize_weight(FixedCodebook(options), weight, std::move(args), importance);
}

std::unique_ptr<Quantizer> make_codebook(const CodebookOptions& options) {
  return std::make_unique<FixedCodebook>(options);
}

void register_codebook(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "codebook";
  entry.modifier = "CodebookModifier";
  entry.summary = "NF4 and FP4: a fixed table of 16 values and a scale per block, absmax or searched";
  entry.source = "Dettmers et al. 2023, QLoRA (arXiv 2305.14314); bitsandbytes, quantize_4bit";
  entry.parameters = {shared::importance_parameter("squared errors in the search for scales")};
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    CodebookOptions options;
    options.hessian = shared::wants_hessian(parameters);
    return make_codebook(options);
  };
  registry.add(std::move(entry));
}

}  // namespace quant
