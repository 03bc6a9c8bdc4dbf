#include "quant/smoothquant.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "quant/error.h"
#include "quant/registry.h"
#include "smoothing/channels.h"
#include "smoothing/factor_source.h"
#include "smoothing/group_filter.h"
#include "smoothing/json_text.h"
#include "smoothing/loss.h"

namespace quant {
namespace {

constexpr double kSmallestFactor = 1e-5;

float as_factor(double s) {
  const bool sound = std::isfinite(s) && s <= static_cast<double>(std::numeric_limits<float>::max());
  return sound ? static_cast<float>(std::max(s, kSmallestFactor)) : 1.0F;
}

void require_sizes(std::size_t activations, std::size_t weights) {
  if (activations == weights) return;
  throw Error(ErrorCode::usage,
              fmt::format("SmoothQuant: {} columns of inputs and {} of weights", activations, weights));
}

std::vector<double> input_ranges(const SmoothingGroup& group, const InputStatistics& inputs, ActivationRange range) {
  std::vector<double> low(inputs.cols, 0.0);
  std::vector<double> high(inputs.cols, 0.0);
  for (std::size_t c = 0; c < inputs.absmax.size(); ++c) {
    const bool both = range == ActivationRange::range && !inputs.minimum.empty() && !inputs.maximum.empty();
    low[c] = both ? -std::min(0.0, static_cast<double>(inputs.minimum[c])) : 0.0;
    high[c] = both ? std::max(0.0, static_cast<double>(inputs.maximum[c])) : static_cast<double>(inputs.absmax[c]);
  }
  smoothing::pool_channels(group, smoothing::Pool::maximum, low);
  smoothing::pool_channels(group, smoothing::Pool::maximum, high);
  for (std::size_t c = 0; c < low.size(); ++c) high[c] += low[c];
  return high;
}

std::vector<double> weight_ranges(const SmoothingGroup& group, ActivationRange range, int threads) {
  std::vector<double> ranges = smoothing::column_absmax(group, threads);
  smoothing::pool_channels(group, smoothing::Pool::maximum, ranges);
  for (double& one : ranges) one *= range == ActivationRange::range ? 2.0 : 1.0;
  return ranges;
}

SmoothQuantResult choose_alpha(const SmoothingGroup& group, const InputStatistics& inputs,
                               const SmoothQuantOptions& options, std::span<const double> activations,
                               std::span<const double> weights, int threads) {
  const auto loss = smoothing::make_output_loss(group, inputs, threads);
  SmoothQuantResult best;
  best.loss_unscaled = loss->of({});
  best.loss = best.loss_unscaled;
  for (int i = 0; i <= options.grid; ++i) {
    const double alpha = static_cast<double>(i) / options.grid;
    std::vector<float> factors = smoothquant_factors(activations, weights, alpha);
    const double found = loss->of(factors);
    if (!(found < best.loss)) continue;
    best.loss = found;
    best.alpha = alpha;
    best.factors = std::move(factors);
  }
  return best;
}

std::optional<double> read_strength(const KwValue& value) {
  double alpha = -1;
  if (const auto* number = std::get_if<double>(&value)) alpha = *number;
  if (const auto* whole = std::get_if<std::int64_t>(&value)) alpha = static_cast<double>(*whole);
  if (const auto* text = std::get_if<std::string>(&value)) {
    if (*text == "auto") return std::nullopt;
    smoothing::refuse_value("smoothing_strength", *text, {"auto"});
  }
  if (!(alpha >= 0 && alpha <= 1)) {
    throw Error(ErrorCode::recipe, "smoothing_strength: must be a number from 0 to 1, or 'auto'");
  }
  return alpha;
}

SmoothQuantOptions read_options(const Parameters& parameters) {
  SmoothQuantOptions options;
  const auto strength = parameters.find("smoothing_strength");
  if (strength != parameters.end()) options.strength = read_strength(strength->second);
  const std::string algorithm = smoothing::text_parameter(parameters, "algorithm");
  if (algorithm == "log_equalization") {
    options.log_equalization = true;
  } else if (!algorithm.empty() && algorithm != "smoothquant") {
    smoothing::refuse_value("algorithm", algorithm, {"smoothquant", "log_equalization"});
  }
  const std::string range = smoothing::text_parameter(parameters, "activation_range");
  if (range == "absmax") {
    options.range = ActivationRange::absmax;
  } else if (!range.empty() && range != "range") {
    smoothing::refuse_value("activation_range", range, {"range", "absmax"});
  }
  return options;
}

class SmoothQuant final : public Transform {
 public:
  explicit SmoothQuant(const Parameters& parameters)
      : source_(parameters, "norm"), options_(read_options(parameters)) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.absmax = true;
    needs.rows = automatic();
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs&) const override { return std::nullopt; }
  std::vector<std::filesystem::path> input_files() const override { return source_.input_files(); }
  bool wants(const SmoothingGroup& group) const override { return source_.wants(group); }

  std::vector<float> factors(const SmoothingGroup& group, const InputStatistics& inputs, const RunContext& context,
                             SolveRecord& record) const override {
    smoothing::check_group(group, inputs);
    if (auto imported = source_.imported(group, inputs.cols, record)) return std::move(*imported);
    if (inputs.tokens == 0 || inputs.absmax.empty()) {
      record.fallback = "not smoothed: no calibration token reached it";
      return {};
    }
    const SmoothQuantResult result = smoothquant(group, inputs, options_, context.threads);
    note(result, record);
    source_.save(in_file(group, result));
    return result.factors;
  }

 private:
  bool automatic() const { return !options_.strength && !options_.log_equalization; }

  void note(const SmoothQuantResult& result, SolveRecord& record) const {
    if (options_.log_equalization) {
      record.notes.emplace_back("log equalization");
    } else if (!automatic()) {
      record.notes.push_back(fmt::format("smoothing strength {:g}", result.alpha));
    } else if (result.factors.empty()) {
      record.notes.emplace_back("left as it was: no smoothing strength lowers the output error");
    } else {
      record.notes.push_back(fmt::format("smoothing strength {:g}: output error {:.4g} of the unsmoothed one",
                                         result.alpha, result.loss / result.loss_unscaled));
    }
  }

  SmoothingFactors in_file(const SmoothingGroup& group, const SmoothQuantResult& result) const {
    SmoothingFactors file{"smoothquant", group.smooth_layer, result.factors, {}};
    if (!options_.log_equalization) file.values["alpha"] = result.alpha;
    if (automatic()) {
      file.values["loss"] = result.loss;
      file.values["loss_unscaled"] = result.loss_unscaled;
    }
    return file;
  }

  smoothing::FactorSource source_;
  SmoothQuantOptions options_;
};

AlgorithmEntry entry_of(const std::string& name, const std::string& modifier, const std::string& algorithm,
                        const std::string& summary) {
  using Type = ParameterSpec::Type;
  AlgorithmEntry entry;
  entry.name = name;
  entry.modifier = modifier;
  entry.summary = summary;
  entry.source = "Xiao et al., SmoothQuant, arXiv 2211.10438; llm-compressor";
  entry.parameters = smoothing::group_filter_parameters("norm");
  entry.parameters.insert(
      entry.parameters.end(),
      {{"smoothing_strength", Type::scalar, 0.5, "alpha from 0 (all range stays in the inputs) to 1, or auto"},
       {"algorithm", Type::text, algorithm, "smoothquant or log_equalization"},
       {"activation_range", Type::text, std::string("range"), "range (max - min) or absmax (the paper)"},
       {"import_factors", Type::text, std::string(), "directory with files of factors to use instead of a search"},
       {"export_factors", Type::text, std::string(), "directory to write the factors to, a file per smooth layer"},
       {"num_calibration_steps", Type::scalar, std::string(), "accepted for llm-compressor's recipes; no effect"},
       {"calibration_function", Type::scalar, std::string(), "accepted for llm-compressor's recipes; no effect"}});
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return make_smoothquant(parameters);
  };
  return entry;
}

}  // namespace

std::vector<float> smoothquant_factors(std::span<const double> activations, std::span<const double> weights,
                                       double alpha) {
  require_sizes(activations.size(), weights.size());
  if (!(alpha >= 0 && alpha <= 1)) {
    throw Error(ErrorCode::usage, fmt::format("SmoothQuant: the strength {} is not in [0, 1]", alpha));
  }
  std::vector<float> factors(activations.size(), 1.0F);
  for (std::size_t c = 0; c < factors.size(); ++c) {
    if (!(activations[c] > 0)) continue;
    const double s =
        weights[c] > 0 ? std::pow(activations[c], alpha) / std::pow(weights[c], 1 - alpha) : activations[c];
    factors[c] = as_factor(s);
  }
  return factors;
}

std::vector<float> log_equalization_factors(std::span<const double> activations) {
  std::vector<float> factors(activations.size(), 1.0F);
  for (std::size_t c = 0; c < factors.size(); ++c) {
    if (activations[c] > 0) factors[c] = as_factor(activations[c] / std::log2(2.0 + activations[c]));
  }
  return factors;
}

SmoothQuantResult smoothquant(const SmoothingGroup& group, const InputStatistics& inputs,
                              const SmoothQuantOptions& options, int threads) {
  smoothing::check_group(group, inputs);
  if (inputs.absmax.empty()) throw Error(ErrorCode::usage, "SmoothQuant needs the ranges of the inputs (absmax)");
  const std::vector<double> activations = input_ranges(group, inputs, options.range);
  SmoothQuantResult result;
  if (options.log_equalization) {
    result.factors = log_equalization_factors(activations);
    return result;
  }
  const std::vector<double> weights = weight_ranges(group, options.range, threads);
  if (!options.strength) {
    if (inputs.rows.empty()) {
      throw Error(ErrorCode::usage, "SmoothQuant's automatic strength needs sampled rows of the inputs");
    }
    if (options.grid < 1) throw Error(ErrorCode::usage, "SmoothQuant's grid needs at least 1 step");
    return choose_alpha(group, inputs, options, activations, weights, threads);
  }
  result.alpha = *options.strength;
  result.factors = smoothquant_factors(activations, weights, result.alpha);
  return result;
}

std::unique_ptr<Transform> make_smoothquant(const Parameters& parameters) {
  return std::make_unique<SmoothQuant>(parameters);
}

void register_smoothquant(Registry& registry);
void register_smoothquant(Registry& registry) {
  registry.add(entry_of("smoothquant", "SmoothQuantModifier", "smoothquant",
                        "moves the range of activations into weights before both are quantized"));
  registry.add(entry_of("log_equalization", "LogarithmicEqualizationModifier", "log_equalization",
                        "SmoothQuantModifier with algorithm log_equalization, by its old name"));
}

}  // namespace quant
