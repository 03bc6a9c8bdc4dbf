#include "structured/report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "quant/version.h"

namespace quant::structured {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kSchemaVersion = 1;

class ReportMaker {
 public:
  ReportMaker(const StructuredPlan& plan, const KeptUnits& kept, const CutList& cuts,
              const CompensationResult& compensation)
      : plan_(plan), work_(*plan.work), kept_(kept), compensation_(compensation) {
    for (const TensorCut& cut : cuts.tensors) {
      if (cut.source != nullptr) cut_of_[cut.source->name] = &cut;
      bytes_after_ += cut.bytes();
      parameters_ += element_count(cut.shape);
    }
  }

  RunReport make() {
    RunReport report;
    report.tool_version = version();
    report.model = plan_.checkpoint->location().string();
    const auto& architectures = plan_.checkpoint->config().architectures;
    if (!architectures.empty()) report.architecture = architectures.front();
    report.recipe_name = plan_.recipe.name;
    report.recipe_text = plan_.recipe.text;
    report.plan_identity = plan_.identity;
    report.layout = "dense";
    report.peak_memory_planned = plan_.peak_memory;
    report.bytes_before = plan_.bytes_before;
    report.bytes_after = bytes_after_;
    report.parameters = parameters_;
    report.model_bits_per_parameter =
        parameters_ == 0 ? 0 : 8.0 * static_cast<double>(bytes_after_) / static_cast<double>(parameters_);
    report.warnings = plan_.warnings;
    add_calibration(report);
    for (std::size_t b = 0; b < work_.axes->blocks.size(); ++b) add_block(b, report);
    std::uint64_t weights = 0, bytes = 0;
    for (const LayerReport& layer : report.layers) {
      bytes += layer.bytes_after;
      weights += static_cast<std::uint64_t>(
          layer.bits_per_weight > 0 ? 8.0 * static_cast<double>(layer.bytes_after) / layer.bits_per_weight : 0);
    }
    report.bits_per_weight = weights == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
    add_skipped(report);
    return report;
  }

 private:
  void add_calibration(RunReport& report) const {
    if (!plan_.calibration) return;
    CalibrationReport calibration;
    calibration.source = std::filesystem::path(plan_.calibration->source).filename().string();
    calibration.hash = plan_.calibration->hash;
    calibration.sequences = plan_.calibration->sequences;
    calibration.tokens = plan_.calibration->tokens;
    calibration.longest = plan_.calibration->longest;
    calibration.product = plan_.calibration->product == ProductType::bf16 ? "bf16" : "f32";
    calibration.blocks = compensation_.blocks;
    report.calibration = std::move(calibration);
  }

  void add_block(std::size_t block, RunReport& report) const {
    for (const Op& op : work_.axes->blocks[block].program->ops) {
      const auto* linear = std::get_if<LinearOp>(&op);
      if (linear == nullptr) continue;
      for (const LinearWeight& weight : linear->weights) add_linear(weight, report);
    }
  }

  void add_linear(const LinearWeight& weight, RunReport& report) const {
    const auto found = cut_of_.find(weight.tensor);
    if (found == cut_of_.end()) return;  // of a layer or an expert that went
    const TensorCut& cut = *found->second;
    const CutPart* part = nullptr;
    const auto slice = static_cast<std::uint64_t>(std::max<std::int64_t>(weight.slice, 0));
    std::size_t place = 0;
    for (; place < cut.parts.size(); ++place) {
      if (cut.parts[place].slice == slice) part = &cut.parts[place];
      if (part != nullptr) break;
    }
    const auto fitted = compensation_.linears.find(weight.module);
    if (part == nullptr && (fitted == compensation_.linears.end() || !cut.parts.empty())) return;
    std::uint64_t rows = part == nullptr ? weight.rows : part->rows.size();
    std::uint64_t cols = part == nullptr ? weight.cols : part->cols.size();
    if (part != nullptr && weight.transposed) std::swap(rows, cols);
    LayerReport layer;
    layer.module = weight.slice < 0 ? cut.name.substr(0, cut.name.rfind('.')) : fmt::format("{}#{}", cut.name, place);
    layer.shape = {weight.rows, weight.cols};
    layer.dtype = dtype_name(cut.dtype);
    layer.rule = "structure";
    layer.modifier = plan_.recipe.modifiers.empty() ? "" : plan_.recipe.modifiers.front().type;
    layer.algorithm = "structured";
    layer.scheme = fmt::format("[{}, {}] {}", rows, cols, dtype_name(cut.dtype));
    layer.format = "dense";
    layer.bits_per_weight = dtype_bits(cut.dtype);
    layer.bytes_before = byte_count(cut.dtype, {weight.rows, weight.cols});
    layer.bytes_after = byte_count(cut.dtype, {rows, cols});
    if (layer.module != weight.module) layer.notes.push_back("was " + weight.module);
    if (fitted != compensation_.linears.end()) {
      layer.calibration = fitted->second.record;
      if (!fitted->second.note.empty()) layer.notes.push_back(fitted->second.note);
      if (!fitted->second.record.fallback.empty()) layer.notes.push_back(fitted->second.record.fallback);
    }
    report.layers.push_back(std::move(layer));
  }

  void add_skipped(RunReport& report) const {
    for (const auto& [source, cut] : cut_of_) {
      if (!cut->whole()) continue;
      const std::string module = cut->name.substr(0, cut->name.rfind('.'));
      const bool there = std::any_of(report.layers.begin(), report.layers.end(),
                                     [&](const LayerReport& layer) { return layer.module == module; });
      if (there) continue;
      const std::string reason = cut->name == source ? "copied" : "copied, was " + source;
      report.skipped.push_back({cut->name, cut->shape, std::string(dtype_name(cut->dtype)), cut->bytes(), reason});
    }
  }

  const StructuredPlan& plan_;
  const Work& work_;
  const KeptUnits& kept_;
  const CompensationResult& compensation_;
  std::map<std::string, const TensorCut*> cut_of_;
  std::uint64_t bytes_after_ = 0, parameters_ = 0;
};

Json numbers(const std::vector<double>& scores) {
  Json list = Json::array();
  for (const double score : scores) list.push_back(score);
  return list;
}

Json layer_json(const Work& work, const LayerUnits& units, const LayerScores& scores, std::size_t block,
                const KeptUnits& kept) {
  Json entry;
  const auto place = std::lower_bound(kept.layers.begin(), kept.layers.end(), block);
  const bool is_kept = place != kept.layers.end() && *place == block;
  entry["layer"] = block;
  entry["becomes"] = is_kept ? Json(place - kept.layers.begin()) : Json();
  if (work.request.layers) entry["score"] = scores.layer;
  if (!is_kept) return entry;
  const BlockAxes& axes = work.axes->blocks[block];
  if (axes.attention && units.heads.size() != axes.attention->heads) {
    entry["heads"] = units.heads;
    entry["kv_heads"] = units.groups;
    entry["head_scores"] = numbers(scores.heads);
    entry["kv_head_scores"] = numbers(scores.groups);
  }
  if (axes.experts && units.experts.size() != axes.experts->count) {
    entry["experts"] = units.experts;
    entry["expert_scores"] = numbers(scores.experts);
  }
  for (std::size_t f = 0; f < axes.ffn.size(); ++f) {
    const FfnAxis& ffn = axes.ffn[f];
    if (units.ffn[f].front().size() == ffn.width) continue;
    const std::string key = "ffn." + ffn.key.substr(0, ffn.key.find('|'));
    entry[key] = ffn.experts == 1 ? Json(units.ffn[f].front()) : Json(units.ffn[f]);
  }
  return entry;
}

}  // namespace

RunReport make_report(const StructuredPlan& plan, const KeptUnits& kept, const CutList& cuts,
                      const CompensationResult& compensation) {
  return ReportMaker(plan, kept, cuts, compensation).make();
}

std::string structure_json(const StructuredPlan& plan, const KeptUnits& kept, const Scores& scores) {
  const Work& work = *plan.work;
  Json json;
  json["schema_version"] = kSchemaVersion;
  json["tool_version"] = version();
  json["family"] = plan.family;
  json["axes"] = Json::array();
  for (const StructuredAxis& axis : plan.axes) {
    json["axes"].push_back({{"name", axis.name},
                            {"key", axis.key},
                            {"before", axis.before},
                            {"after", axis.after},
                            {"divisor", axis.divisor}});
  }
  if (kept.hidden.size() != work.model->hidden) json["hidden"] = kept.hidden;
  json["layers"] = Json::array();
  for (std::size_t b = 0; b < kept.of_layer.size(); ++b) {
    json["layers"].push_back(layer_json(work, kept.of_layer[b], scores.of_layer.at(b), b, kept));
  }
  return json.dump(1) + "\n";
}

}  // namespace quant::structured
