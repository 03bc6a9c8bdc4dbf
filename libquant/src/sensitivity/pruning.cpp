#include "sensitivity/pruning.h"

#include <charconv>

#include "pipeline/statistics_collector.h"
#include "quant/error.h"

namespace quant::sensitivity {

std::optional<SparsityPattern> candidate_pattern(std::string_view name) {
  if (name.size() < 2 || (name.front() != 'S' && name.front() != 's')) return std::nullopt;
  name.remove_prefix(1);
  double percent = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), percent);
  if (error != std::errc()) return std::nullopt;
  SparsityPattern pattern;
  if (end == name.data() + name.size()) {
    if (!(percent > 0 && percent < 100)) return std::nullopt;
    pattern.sparsity = percent / 100;
    return pattern;
  }
  if (*end != ':') return std::nullopt;
  try {
    return parse_pattern(std::string(name));
  } catch (const Error&) {
    return std::nullopt;
  }
}

InputStatistics inputs_of(const ModelChain& chain, std::size_t op, const CalibrationNeeds& needs, ProductType product,
                          int threads) {
  if (!needs.any()) return {};
  const ValueId in = std::get<LinearOp>(chain.current().ops[op]).in;
  const std::uint64_t cols = chain.current().values[static_cast<std::size_t>(in)].width;
  StatisticsCollector collector(cols, needs, product);
  for (const Chunk& chunk : chain.chunks()) {
    const std::vector<float>& rows = chunk.values.at(in);
    collector.add(rows, {}, rows.size() / cols, threads);
  }
  return collector.take(threads);
}

WeightPruner::WeightPruner(const Plan& plan, int threads)
    : algorithms_(create_algorithms(plan.recipe, *plan.registry)), threads_(threads) {
  const AlgorithmEntry* wanda = plan.registry->algorithm("wanda");
  if (wanda == nullptr) return;
  Parameters parameters;
  for (const ParameterSpec& spec : wanda->parameters) parameters[spec.name] = spec.default_value;
  own_ = wanda->create(parameters);
  default_ = dynamic_cast<const Sparsifier*>(own_.get());
}

const Sparsifier& WeightPruner::sparsifier_of(const PlannedLinear& linear) const {
  // The last one that chooses: what earlier ones remove, such as zeros that were there, is not asked about.
  for (auto pruning = linear.pruning.rbegin(); pruning != linear.pruning.rend(); ++pruning) {
    const bool chooses = pruning->pattern.sparsity > 0 || pruning->pattern.semi_structured();
    if (chooses) return *algorithms_[pruning->modifier].sparsifier;
  }
  if (default_ != nullptr) return *default_;
  throw Error(ErrorCode::unsupported,
              "the recipe has no modifier that prunes, and this build has none to measure with");
}

CalibrationNeeds WeightPruner::needs(const PlannedLinear& linear) const {
  CalibrationNeeds needs = sparsifier_of(linear).needs();
  needs.cross_gram = false;
  needs.residual = false;
  return needs;
}

std::optional<std::string> WeightPruner::unsupported(const PlannedLinear& linear,
                                                     const SparsityPattern& pattern) const {
  if (auto reason = contradiction(pattern, linear.shape.rows, linear.shape.cols)) return reason;
  return sparsifier_of(linear).unsupported_pattern(pattern);
}

std::optional<std::uint64_t> WeightPruner::kept(const PlannedLinear& linear, const SparsityPattern& pattern) const {
  return sparsifier_of(linear).kept(pattern, linear.shape.rows, linear.shape.cols);
}

std::vector<float> WeightPruner::pruned(const PlannedLinear& linear, const SparsityPattern& pattern,
                                        std::vector<float> weight, const InputStatistics& inputs) const {
  std::vector<std::uint8_t> mask(weight.size(), 1);
  PruneTask task;
  task.module = linear.shape.module;
  task.rows = linear.shape.rows;
  task.cols = linear.shape.cols;
  task.weight = weight;
  task.mask = mask;
  task.pattern = pattern;
  sparsifier_of(linear).prune(std::span(&task, 1), inputs, {threads_, nullptr});
  return weight;
}

}  // namespace quant::sensitivity
