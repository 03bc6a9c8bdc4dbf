#include "quant/codebook.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "codebook/block_coder.h"
#include "quant/error.h"
#include "quant/registry.h"
#include "quant/scale_codes.h"
#include "quant/weight_rows.h"
#include "shared/checks.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

using codebook::ScaleFinder;
using codebook::Table;

const Table& table_of(Codebook which) {
  static const Table nf4(Codebook::nf4);
  static const Table fp4(Codebook::fp4);
  return which == Codebook::nf4 ? nf4 : fp4;
}

bool searches(const QuantArgs& args) {
  return args.observer && *args.observer != "minmax" && *args.observer != "memoryless_minmax" &&
         *args.observer != "static_minmax";
}

std::optional<std::string> reason_against(const QuantArgs& args) {
  if (!has_fixed_codebook(args) || args.codebook == Codebook::sign)
    return "this method codes with a fixed codebook: type codebook, codebook nf4 or fp4";
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

// The weights that share each scale, side by side.
class Units {
 public:
  Units(const TensorView& view, const QuantArgs& args, std::span<const float> importance)
      : rows_(view.rows()), cols_(view.cols()), grid_(scale_grid(args, view.rows(), view.cols())) {
    shared::check_importance(importance, view, true);
    shared::require_finite(view);
    values_.resize(rows_ * cols_);
    read_f32(view, 0, values_);
    if (importance.empty()) return;
    importance_.resize(values_.size());
    for (std::size_t i = 0; i < values_.size(); ++i) {
      importance_[i] = importance[importance.size() == cols_ ? i % cols_ : i];
    }
  }

  std::uint64_t count() const { return values_.empty() ? 0 : grid_.count(); }

  /// Calls act(place of the first, number of weights side by side) for each run of the unit.
  template <class Act>
  void runs(std::uint64_t unit, const Act& act) const {
    if (grid_.flat != 0) {
      const std::uint64_t first = unit * grid_.flat;
      return act(first, std::min<std::uint64_t>(grid_.flat, values_.size() - first));
    }
    const std::uint64_t row = unit / grid_.cols * grid_.row_extent, col = unit % grid_.cols * grid_.col_extent;
    for (std::uint64_t r = row; r < std::min(rows_, row + grid_.row_extent); ++r) {
      act(r * cols_ + col, std::min(grid_.col_extent, cols_ - col));
    }
  }

  float absmax(std::uint64_t unit) const {
    float largest = 0;
    runs(unit, [&](std::uint64_t first, std::uint64_t n) {
      largest = std::max(largest, codebook::largest_magnitude(std::span(values_).subspan(first, n)));
    });
    return largest;
  }

  float search(std::uint64_t unit, const Table& table, DType type, ScaleFinder& finder) {
    gathered_.clear();
    gathered_importance_.clear();
    runs(unit, [&](std::uint64_t first, std::uint64_t n) {
      const auto at = static_cast<std::ptrdiff_t>(first), end = static_cast<std::ptrdiff_t>(first + n);
      gathered_.insert(gathered_.end(), values_.begin() + at, values_.begin() + end);
      if (importance_.empty()) return;
      gathered_importance_.insert(gathered_importance_.end(), importance_.begin() + at, importance_.begin() + end);
    });
    return finder.find(table, gathered_, gathered_importance_, type);
  }

  void encode(std::uint64_t unit, const Table& table, float scale, std::int8_t* codes) const {
    const float inverse = codebook::inverse_of(scale);
    runs(unit, [&](std::uint64_t first, std::uint64_t n) {
      table.encode(std::span(values_).subspan(first, n), inverse, codes + first);
    });
  }

 private:
  std::uint64_t rows_, cols_;
  ScaleGrid grid_;
  std::vector<float> values_, importance_, gathered_, gathered_importance_;
};

std::vector<float> find_scales(Units& units, const QuantArgs& args, DType type) {
  const Table& table = table_of(args.codebook);
  const bool search = searches(args);
  ScaleFinder finder;
  std::vector<float> scales(units.count());
  for (std::uint64_t u = 0; u < scales.size(); ++u) {
    scales[u] = search ? units.search(u, table, type, finder) : shared::storable_scale(units.absmax(u), type);
  }
  return scales;
}

class FixedCodebook final : public Quantizer {
 public:
  explicit FixedCodebook(const CodebookOptions& options) : options_(options) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.gram = options_.hessian;
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }
  bool weighs_each() const override { return true; }

  TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                       int) const override {
    TensorParams params;
    if (!needs_whole_tensor(args)) return params;
    Units units(weight, args, importance);
    const std::vector<float> scales = find_scales(units, args, DType::F32);
    if (args.strategy == Strategy::tensor) {
      params.scale = scales.empty() ? 1.0F : scales.front();
      return params;
    }
    double sum = 0;
    for (const float scale : scales) sum += static_cast<double>(scale);
    params.scale_offset = scales.empty() ? 0.0F : static_cast<float>(sum / static_cast<double>(scales.size()));
    return params;
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    Units units(rows, args, importance);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (out.codes.empty()) return;
    if (args.strategy == Strategy::tensor) {
      if (!params.scale) throw Error(ErrorCode::usage, "strategy tensor needs the scale that prepare() finds");
      out.scales = {shared::storable_scale(*params.scale, scale_dtype)};
    } else {
      out.scales = find_scales(units, args, args.double_quant ? DType::F32 : scale_dtype);
    }
    const Table& table = table_of(args.codebook);
    for (std::uint64_t u = 0; u < units.count(); ++u) units.encode(u, table, out.scales[u], out.codes.data());
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
