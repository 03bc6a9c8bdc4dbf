// REAPPruningModifier, as llm-compressor names it: experts by what they add to their tokens' outputs.
#include <fmt/format.h>

#include "quant/error.h"
#include "structured/parameters.h"

namespace quant {
namespace {

StructuredOptions options_of(const Parameters& parameters) {
  const structured_pruning::Reader reader(parameters);
  const double sparsity = reader.number("sparsity", 0.5);
  if (!(sparsity > 0 && sparsity < 1)) {
    throw Error(ErrorCode::usage, fmt::format("sparsity: {:g} is not a fraction between 0 and 1", sparsity));
  }
  StructuredOptions options;
  options.experts = {sparsity};
  options.expert_importance = ExpertImportance::router;
  options.report_path = reader.text("report_path", "");
  return options;
}

}  // namespace

void register_reap(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "reap";
  entry.modifier = "REAPPruningModifier";
  entry.summary = "removes the experts whose weighted outputs are smallest";
  entry.source = "Lasby et al. 2025, REAP the experts (arXiv 2510.13999)";
  entry.parameters = {
      {"sparsity", ParameterSpec::Type::number, 0.5, "fraction of each layer's experts to remove"},
      {"report_path", ParameterSpec::Type::text, std::string(), "where to put a copy of structure.json"}};
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return std::make_unique<structured_pruning::Pruning>(options_of(parameters));
  };
  registry.add(std::move(entry));
}

}  // namespace quant
