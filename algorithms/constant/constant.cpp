// The modifier that keeps the zeros that are there.
#include <algorithm>

#include "quant/magnitude.h"
#include "shared/prune_task.h"

namespace quant {
namespace {

class Constant final : public Sparsifier {
 public:
  CalibrationNeeds needs() const override { return {}; }
  SparsityPattern pattern(const std::string& /*module*/) const override { return {}; }
  std::optional<std::uint64_t> kept(const SparsityPattern& /*pattern*/, std::uint64_t /*rows*/,
                                    std::uint64_t /*cols*/) const override {
    return std::nullopt;
  }
  std::uint64_t scratch_bytes(const SparsityPattern& /*pattern*/, std::uint64_t /*rows*/, std::uint64_t /*cols*/,
                              int /*threads*/) const override {
    return 0;
  }
  void prune(std::span<PruneTask> group, const InputStatistics& /*inputs*/, const RunContext& context) const override {
    for (PruneTask& task : group) shared::begin_pruning(task, context, true);
  }
};

}  // namespace

std::unique_ptr<Sparsifier> make_constant_pruning(const Parameters& /*parameters*/) {
  return std::make_unique<Constant>();
}

void register_constant(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "constant";
  entry.modifier = "ConstantPruningModifier";
  entry.summary = "keeps the zeros that weights have already";
  entry.source = "llm-compressor (ConstantPruningModifier)";
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return make_constant_pruning(parameters);
  };
  registry.add(std::move(entry));
}

}  // namespace quant
