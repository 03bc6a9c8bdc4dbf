#include "quant/llm_int8.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "quant/error.h"
#include "quant/registry.h"
#include "quant/weight_rows.h"
#include "quant/whole_weight.h"
#include "shared/checks.h"
#include "shared/whole_weight.h"

namespace quant {
namespace {

constexpr float kLargestCode = 127.0F;

std::optional<std::string> reason_against(const QuantArgs& args) {
  const bool numbers = args.type == NumberType::integer && args.num_bits == 8 && args.symmetric &&
                       symmetric_range(args) == SymmetricRange::restricted;
  if (!numbers) return "LLM.int8() has 8-bit symmetric integers with symmetric_range: restricted";
  if (args.strategy != Strategy::channel) {
    return "LLM.int8() has a scale per row, strategy channel, not " + std::string(to_string(args.strategy));
  }
  if (args.dynamic != Dynamic::no) return "weights cannot be quantized dynamically";
  if (args.observer && !args.observer->ends_with("minmax")) {
    return "the scale is the largest magnitude; the observer '" + *args.observer + "' goes with QuantizationModifier";
  }
  if (args.scale_dtype && args.scale_dtype != DType::F32) return "LLM.int8() has float32 scales";
  return std::nullopt;
}

// The scale of a row, as it is stored: m / 127. Subnormal numbers are so far apart that the one below would cut off the
// largest weights.
float stored_scale(float largest, DType type) {
  const float scale = shared::storable_scale(largest / kLargestCode, type);
  const bool subnormal = type == DType::F16 && scale < 0x1p-14F;
  return subnormal && scale * kLargestCode < largest ? scale + 0x1p-24F : scale;
}

// Codes of one row; returns its scale, of `type`. Codes follow from the scale as it is stored; with one of float32 from
// 127 / m, as in bitsandbytes.
float code_row(std::span<const float> row, DType type, std::int8_t* codes) {
  float largest = 0;
  for (const float value : row) largest = std::max(largest, std::fabs(value));
  const float scale = stored_scale(largest, type);
  // 127 / m must be finite.
  if (largest < std::numeric_limits<float>::min() * kLargestCode) {
    std::fill_n(codes, row.size(), std::int8_t{0});
    return scale;
  }
  const float factor = type == DType::F32 ? kLargestCode / largest : 1.0F / scale;
  for (std::size_t i = 0; i < row.size(); ++i) {
    const float code = std::clamp(std::nearbyint(row[i] * factor), -kLargestCode, kLargestCode);
    codes[i] = static_cast<std::int8_t>(code);
  }
  return scale;
}

class LlmInt8 final : public Quantizer {
 public:
  CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }
  TensorParams prepare(const TensorView&, const QuantArgs&, std::span<const float>, int) const override { return {}; }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams&,
                     std::span<const float>, QuantizedTensor& out, SliceErrors errors) const override {
    shared::require_finite(rows);
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    if (out.codes.empty()) return;
    const WeightRows reader(rows);
    std::vector<float> row(out.cols);
    for (std::uint64_t r = 0; r < out.rows; ++r) {
      reader.read(r, 0, row);
      out.scales[r] = code_row(row, scale_dtype, out.codes.data() + r * out.cols);
    }
    if (errors.wanted()) measure_rows(rows, out, errors);
  }
};

class WithStatistics final : public CalibratedQuantizer {
 public:
  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.absmax = true;
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override { return reason_against(weights); }

  void quantize(std::span<LinearTask> group, const InputStatistics& inputs, const RunContext& context) const override {
    for (LinearTask& task : group) {
      if (!task.quantized) continue;
      code(task, context.threads);
      const double threshold = task.input_args ? task.input_args->outlier_threshold : 0;
      if (threshold == 0 || inputs.tokens == 0) continue;
      const OutlierColumns found = count_outlier_columns(inputs.absmax, threshold);
      task.record.notes.push_back(fmt::format(
          "LLM.int8(): {} of {} input columns ({:.2f} %) reach {} in {} tokens; the largest magnitude is {:.4g}",
          found.count, found.columns, 100.0 * static_cast<double>(found.count) / static_cast<double>(found.columns),
          threshold, inputs.tokens, found.largest));
    }
  }

 private:
  void code(LinearTask& task, int threads) const {
    *task.out = quantize_slices(coder_, f32_view(task.weight, task.rows, task.cols), task.args, task.scale_dtype, {},
                                {}, threads);
  }

  LlmInt8 coder_;
};

}  // namespace

OutlierColumns count_outlier_columns(std::span<const float> absmax, double threshold) {
  OutlierColumns found;
  found.columns = absmax.size();
  for (const float value : absmax) {
    found.largest = std::max(found.largest, value);
    if (threshold > 0 && static_cast<double>(value) >= threshold) ++found.count;
  }
  return found;
}

QuantizedTensor llm_int8_quantize(const TensorView& weight, QuantArgs args) {
  return shared::quantize_weight(LlmInt8(), weight, std::move(args), {});
}

std::unique_ptr<Quantizer> make_llm_int8() { return std::make_unique<LlmInt8>(); }
std::unique_ptr<CalibratedQuantizer> make_llm_int8_with_statistics() { return std::make_unique<WithStatistics>(); }

void register_llm_int8(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "llm_int8";
  entry.modifier = "LLMInt8Modifier";
  entry.summary = "8-bit rows as bitsandbytes makes them; with calibration data, counts of outlier columns";
  entry.source = "Dettmers et al. 2022, LLM.int8() (arXiv 2208.07339); bitsandbytes, int8_vectorwise_quant";
  entry.parameters = {
      {"outlier_statistics", ParameterSpec::Type::boolean, false,
       "count the input columns that reach outlier_threshold, for the report (needs calibration data)"}};
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    const auto given = parameters.find("outlier_statistics");
    if (given != parameters.end() && std::get<bool>(given->second)) return make_llm_int8_with_statistics();
    return make_llm_int8();
  };
  registry.add(std::move(entry));
}

}  // namespace quant
