// The modifier.
#include "quant/awq.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "quant/error.h"
#include "quant/registry.h"
#include "quant/rtn.h"
#include "smoothing/channels.h"
#include "smoothing/factor_source.h"
#include "smoothing/group_filter.h"
#include "smoothing/json_text.h"

namespace quant {
namespace {

DuoScaling read_duo(const KwValue& value) {
  if (const auto* truth = std::get_if<bool>(&value)) return *truth ? DuoScaling::yes : DuoScaling::no;
  const auto* text = std::get_if<std::string>(&value);
  if (text != nullptr && *text == "both") return DuoScaling::both;
  if (text != nullptr) smoothing::refuse_value("duo_scaling", *text, {"true", "false", "both"});
  throw Error(ErrorCode::recipe, "duo_scaling: must be true, false or both");
}

int read_count(const Parameters& parameters, const std::string& name, int otherwise, int least) {
  const auto found = parameters.find(name);
  if (found == parameters.end()) return otherwise;
  constexpr std::int64_t kMost = 10'000;
  const auto* value = std::get_if<std::int64_t>(&found->second);
  if (value == nullptr || *value < least || *value > kMost) {
    throw Error(ErrorCode::recipe, fmt::format("{}: must be an integer from {} to {}", name, least, kMost));
  }
  return static_cast<int>(*value);
}

AwqClipOptions read_clip(const Parameters& parameters) {
  AwqClipOptions clip;
  const auto enabled = parameters.find("clip");
  if (enabled != parameters.end()) {
    const auto* truth = std::get_if<bool>(&enabled->second);
    if (truth == nullptr) throw Error(ErrorCode::recipe, "clip: must be true or false");
    clip.enabled = *truth;
  }
  clip.grid = read_count(parameters, "clip_grid", clip.grid, 2);
  const auto shrink = parameters.find("clip_max_shrink");
  if (shrink != parameters.end()) {
    const auto* value = std::get_if<double>(&shrink->second);
    if (value == nullptr || !(*value > 0 && *value < 1)) {
      throw Error(ErrorCode::recipe, "clip_max_shrink: must be a number between 0 and 1");
    }
    clip.max_shrink = *value;
  }
  return clip;
}

AwqOptions read_options(const Parameters& parameters) {
  AwqOptions options;
  const auto duo = parameters.find("duo_scaling");
  if (duo != parameters.end()) options.duo_scaling = read_duo(duo->second);
  options.n_grid = read_count(parameters, "n_grid", options.n_grid, 3);
  const std::string loss = smoothing::text_parameter(parameters, "loss");
  if (loss == "outputs") {
    options.loss = AwqLoss::outputs;
  } else if (!loss.empty() && loss != "gram") {
    smoothing::refuse_value("loss", loss, {"gram", "outputs"});
  }
  options.clip = read_clip(parameters);
  return options;
}

/// Clipped queries and keys change attention scores too much: the reference leaves them alone (by these names).
bool feeds_attention_scores(const std::string& module) {
  const std::string last = module.substr(module.rfind('.') + 1);
  constexpr std::array<std::string_view, 5> kNames = {"q_", "k_", "query", "key", "Wqkv"};
  return std::any_of(kNames.begin(), kNames.end(),
                     [&](std::string_view name) { return last.find(name) != std::string::npos; });
}

class Awq final : public Transform {
 public:
  explicit Awq(const Parameters& parameters) : source_(parameters, "all"), options_(read_options(parameters)) {}

  CalibrationNeeds needs() const override {
    CalibrationNeeds needs;
    needs.mean_abs = true;
    needs.absmax = options_.loss == AwqLoss::outputs;
    needs.rows = options_.loss == AwqLoss::outputs;
    needs.gram = options_.loss == AwqLoss::gram || options_.clip.enabled;
    return needs;
  }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override {
    return make_rtn()->unsupported(weights);
  }
  std::vector<std::filesystem::path> input_files() const override { return source_.input_files(); }
  bool wants(const SmoothingGroup& group) const override { return source_.wants(group); }

  std::vector<float> factors(const SmoothingGroup& group, const InputStatistics& inputs, const RunContext& context,
                             SolveRecord& record) const override {
    smoothing::check_group(group, inputs);
    if (auto imported = source_.imported(group, inputs.cols, record)) return std::move(*imported);
    if (inputs.tokens == 0) {
      record.fallback = "not scaled: no calibration token reached it";
      return {};
    }
    const AwqResult result = awq_search(group, inputs, options_, context);
    note(result, record);
    source_.save(in_file(group, result));
    return result.factors;
  }

  void adjust(std::span<LinearTask> readers, const InputStatistics& inputs, const RunContext& context) const override {
    if (!options_.clip.enabled || inputs.tokens == 0) return;
    for (LinearTask& reader : readers) {
      if (!reader.quantized || feeds_attention_scores(reader.module)) continue;
      const std::uint64_t limited = awq_clip(reader, inputs, options_.clip, context);
      if (limited > 0) reader.record.notes.push_back(fmt::format("{} groups clipped", limited));
    }
  }

 private:
  static void note(const AwqResult& result, SolveRecord& record) {
    if (result.factors.empty()) {
      record.notes.emplace_back("left as it was: no factors of the grid lower the loss");
      return;
    }
    record.notes.push_back(fmt::format("ratio {:.4g}{}: loss {:.4g} of the unscaled one", result.point.ratio,
                                       result.point.duo ? " with weights" : "", result.loss / result.loss_unscaled));
  }

  SmoothingFactors in_file(const SmoothingGroup& group, const AwqResult& result) const {
    SmoothingFactors file{"awq", group.smooth_layer, result.factors, {}};
    file.values = {{"ratio", result.point.ratio},
                   {"duo_scaling", result.point.duo ? 1.0 : 0.0},
                   {"loss", result.loss},
                   {"loss_unscaled", result.loss_unscaled}};
    return file;
  }

  smoothing::FactorSource source_;
  AwqOptions options_;
};

std::vector<ParameterSpec> own_parameters() {
  using Type = ParameterSpec::Type;
  return {{"duo_scaling", Type::scalar, true, "scales from inputs and weights: true, false or both"},
          {"n_grid", Type::integer, std::int64_t{20}, "points of the search grid"},
          {"loss", Type::text, std::string("gram"), "gram (all inputs, fast) or outputs (sampled rows)"},
          {"clip", Type::boolean, false, "limits weights as well, group by group"},
          {"clip_grid", Type::integer, std::int64_t{20}, "limits are 1/clip_grid apart"},
          {"clip_max_shrink", Type::number, 0.5, "largest part of a group's range to cut off"},
          {"import_factors", Type::text, std::string(), "directory with files of factors to use instead of a search"},
          {"export_factors", Type::text, std::string(), "directory to write the factors to, a file per smooth layer"},
          {"offload_device", Type::scalar, std::string(), "accepted for llm-compressor's recipes; no effect"},
          {"max_chunk_memory", Type::scalar, std::string(), "accepted for llm-compressor's recipes; no effect"}};
}

}  // namespace

std::unique_ptr<Transform> make_awq(const Parameters& parameters) { return std::make_unique<Awq>(parameters); }

void register_awq(Registry& registry);
void register_awq(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "awq";
  entry.modifier = "AWQModifier";
  entry.summary = "scales channels so that weights that meet large activations are rounded least";
  entry.source = "Lin et al., AWQ, arXiv 2306.00978; llm-compressor";
  entry.parameters = smoothing::group_filter_parameters("all");
  for (auto& spec : own_parameters()) entry.parameters.push_back(std::move(spec));
  entry.followed_by = "QuantizationModifier";
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> { return make_awq(parameters); };
  registry.add(std::move(entry));
}

}  // namespace quant
