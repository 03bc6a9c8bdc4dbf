// How many units of each axis stay.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "structured/work.h"

namespace quant {

std::uint64_t CutAmount::of(std::uint64_t total) const {
  // 0.1 of 30 is 3, whatever 0.1 is in binary.
  if (value < 1) return static_cast<std::uint64_t>(std::floor(value * static_cast<double>(total) + 1e-9));
  return static_cast<std::uint64_t>(std::min(value, static_cast<double>(total)));
}

namespace structured {
namespace {

std::uint64_t automatic_divisor(std::uint64_t width) {
  std::uint64_t divisor = 1;
  while (divisor < 128 && 2 * divisor <= width / 16) divisor *= 2;
  return divisor;
}

std::string amount_text(const CutAmount& amount) {
  return amount.value < 1 ? fmt::format("{:g} %", 100 * amount.value) : fmt::format("{:g}", amount.value);
}

class Counter {
 public:
  explicit Counter(StructuredPlan& plan) : plan_(plan), work_(*plan.work), model_(*work_.model) {}

  void count() {
    work_.counts.hidden = model_.hidden;
    work_.counts.layers = work_.axes->blocks.size();
    const StructuredOptions& options = plan_.options;
    if (options.hidden.any()) {
      work_.counts.hidden = keep("hidden", model_.family.keys.hidden, options.hidden, model_.hidden,
                                 options.hidden_divisor, "channels of the residual stream");
    }
    if (options.layers.any()) {
      work_.counts.layers = keep("layers", model_.family.keys.layers, options.layers, work_.counts.layers, 1, "layers");
      const auto stay = static_cast<std::uint64_t>(std::count(work_.stays.begin(), work_.stays.end(), true));
      if (stay > work_.counts.layers) {
        problem(fmt::format("layers: {} would stay, but 'ignore' names {}", work_.counts.layers, stay));
      }
    }
    count_heads();
    count_ffn();
    count_experts();
  }

 private:
  void problem(std::string text) { plan_.problems.push_back(std::move(text)); }

  /// What stays of `total`; all of it after adding a problem.
  std::uint64_t keep(const std::string& axis, std::string_view key, const CutAmount& amount, std::uint64_t total,
                     std::uint64_t divisor, const std::string& what) {
    if (divisor == 0) divisor = automatic_divisor(total);
    const std::uint64_t wanted = total - std::min(total, amount.of(total));
    const std::uint64_t kept = std::min(total, (wanted + divisor - 1) / divisor * divisor);
    if (kept == 0) {
      problem(fmt::format("{}: {} of {} {} leaves none", axis, amount_text(amount), total, what));
      return total;
    }
    if (kept == total) {
      problem(fmt::format("{}: {} of {} {} removes nothing, as what stays is a multiple of {}", axis,
                          amount_text(amount), total, what, divisor));
      return total;
    }
    plan_.axes.push_back({axis, std::string(key.substr(0, key.find('|'))), total, kept, divisor});
    return kept;
  }

  // Query heads from every group, or whole groups.
  void count_heads() {
    work_.counts.groups = model_.kv_heads;
    work_.counts.heads_per_group = model_.heads / model_.kv_heads;
    const CutAmount& amount = plan_.options.heads;
    if (!amount.any()) return;
    const std::uint64_t group = work_.counts.heads_per_group, groups = model_.kv_heads;
    const FamilyKeys& keys = model_.family.keys;
    const std::uint64_t removed = amount.of(model_.heads);
    const bool fraction = amount.value < 1;
    const std::uint64_t from_each = fraction ? amount.of(group) : removed % groups == 0 ? removed / groups : 0;
    const std::uint64_t whole = fraction ? amount.of(groups) : removed % group == 0 ? removed / group : 0;
    HeadUnit unit = plan_.options.head_unit;
    if (unit == HeadUnit::automatic) unit = from_each > 0 && group > 1 ? HeadUnit::query : HeadUnit::group;
    const bool query = unit == HeadUnit::query;
    if ((query ? from_each : whole) == 0) {
      return problem(
          fmt::format("heads: {} of {} heads is no whole number of {}, of which there are {}{}", amount_text(amount),
                      model_.heads, query ? "heads in each group" : "groups", query ? group : groups,
                      query ? "; 'head_unit: group' removes key and value heads with their query heads" : ""));
    }
    if ((query ? from_each : whole) >= (query ? group : groups)) {
      return problem(fmt::format("heads: {} of {} heads leaves none", amount_text(amount), model_.heads));
    }
    if (query) work_.counts.heads_per_group -= from_each;
    if (!query) work_.counts.groups -= whole;
    plan_.axes.push_back({"heads", std::string(keys.heads.substr(0, keys.heads.find('|'))), model_.heads,
                          work_.counts.heads_per_group * work_.counts.groups, query ? groups : group});
    if (!query && !keys.kv_heads.empty()) {
      plan_.axes.push_back({"kv_heads", std::string(keys.kv_heads), groups, work_.counts.groups, 1});
    }
  }

  void count_ffn() {
    for (const BlockAxes& block : work_.axes->blocks) {
      for (const FfnAxis& ffn : block.ffn) {
        const auto [at, first] = work_.counts.ffn.try_emplace(ffn.key, ffn.width);
        if (!first) continue;
        if (!plan_.options.ffn.any()) continue;
        at->second =
            keep("ffn", ffn.key, plan_.options.ffn, ffn.width, plan_.options.ffn_divisor, "channels of an MLP");
      }
    }
    if (plan_.options.ffn.any() && work_.counts.ffn.empty()) problem("ffn: the model has no MLP");
  }

  void count_experts() {
    const auto block = std::find_if(work_.axes->blocks.begin(), work_.axes->blocks.end(),
                                    [](const BlockAxes& axes) { return axes.experts.has_value(); });
    if (block == work_.axes->blocks.end()) {
      if (plan_.options.experts.any()) problem("experts: the model has no mixture of experts");
      return;
    }
    const ExpertAxis& axis = *block->experts;
    work_.counts.experts = axis.count;
    if (!plan_.options.experts.any()) return;
    const std::uint64_t kept = keep("experts", model_.family.keys.experts, plan_.options.experts, axis.count,
                                    plan_.options.expert_divisor, "experts");
    if (kept < axis.top_k) {
      return problem(fmt::format("experts: {} would stay, but each token chooses {}", kept, axis.top_k));
    }
    work_.counts.experts = kept;
  }

  StructuredPlan& plan_;
  Work& work_;
  const ProgramModel& model_;
};

Units scored(const std::vector<double>& scores, std::uint64_t total, std::uint64_t count) {
  return scores.empty() ? all_units(count)
                        : best_units(scores.size() == total ? scores : std::vector<double>(total), count);
}

// Query heads ranked in each group, or groups.
void choose_heads(const AttentionAxis& axis, const KeptCounts& counts, const LayerScores& scores, LayerUnits& units) {
  units.groups = scored(scores.groups, axis.kv_heads, counts.groups);
  units.heads.clear();
  for (const std::uint32_t g : units.groups) {
    const std::uint64_t first = g * axis.group();
    std::vector<double> in_group;
    if (!scores.heads.empty()) {
      in_group.assign(scores.heads.begin() + static_cast<std::ptrdiff_t>(first),
                      scores.heads.begin() + static_cast<std::ptrdiff_t>(first + axis.group()));
    }
    for (const std::uint32_t h : scored(in_group, axis.group(), counts.heads_per_group)) {
      units.heads.push_back(static_cast<std::uint32_t>(first + h));
    }
  }
}

}  // namespace

void count_units(StructuredPlan& plan) { Counter(plan).count(); }

KeptUnits choose_units(const Work& work, const Scores& scores) {
  KeptUnits kept = everything(*work.axes, *work.model);
  kept.hidden = scored(scores.hidden, work.model->hidden, work.counts.hidden);
  std::vector<double> of_layers;
  for (const LayerScores& layer : scores.of_layer) of_layers.push_back(layer.layer);
  of_layers.resize(work.axes->blocks.size());
  for (std::size_t b = 0; b < of_layers.size(); ++b) {
    if (work.stays[b]) of_layers[b] = std::numeric_limits<double>::infinity();
  }
  kept.layers = scored(of_layers, work.axes->blocks.size(), work.counts.layers);
  static const LayerScores kNone;
  for (std::size_t b = 0; b < work.axes->blocks.size(); ++b) {
    const BlockAxes& axes = work.axes->blocks[b];
    const LayerScores& layer = scores.of_layer.empty() ? kNone : scores.of_layer[b];
    LayerUnits& units = kept.of_layer[b];
    if (axes.attention) choose_heads(*axes.attention, work.counts, layer, units);
    for (std::size_t f = 0; f < axes.ffn.size(); ++f) {
      const FfnAxis& ffn = axes.ffn[f];
      for (std::size_t e = 0; e < ffn.experts; ++e) {
        const std::vector<double> none;
        units.ffn[f][e] = scored(layer.ffn.empty() ? none : layer.ffn[f][e], ffn.width, work.counts.ffn.at(ffn.key));
      }
    }
    if (axes.experts) units.experts = scored(layer.experts, axes.experts->count, work.counts.experts);
  }
  return kept;
}

}  // namespace structured
}  // namespace quant
