// StructuredPruningModifier: the axes and what decides about them, field by field.
#include <fmt/format.h>

#include <algorithm>

#include "quant/error.h"
#include "structured/parameters.h"

namespace quant {
namespace structured_pruning {
namespace {

StructuredOptions options_of(const Parameters& parameters) {
  const Reader reader(parameters);
  StructuredOptions options;
  options.heads = reader.amount("heads");
  options.ffn = reader.amount("ffn");
  options.hidden = reader.amount("hidden");
  options.layers = reader.amount("layers");
  options.experts = reader.amount("experts");
  options.head_unit = reader.word<HeadUnit>(
      "head_unit", {{"auto", HeadUnit::automatic}, {"query", HeadUnit::query}, {"group", HeadUnit::group}});
  options.ffn_divisor = reader.divisor("ffn_divisor", 0);
  options.hidden_divisor = reader.divisor("hidden_divisor", 0);
  options.expert_divisor = std::max<std::uint64_t>(1, reader.divisor("expert_divisor", 1));
  options.importance = reader.word<UnitImportance>("importance", {{"magnitude", UnitImportance::magnitude},
                                                                  {"activation", UnitImportance::activation},
                                                                  {"flap", UnitImportance::flap}});
  options.layer_importance =
      reader.word<LayerImportance>("layer_importance", {{"auto", LayerImportance::automatic},
                                                        {"magnitude", LayerImportance::magnitude},
                                                        {"cosine", LayerImportance::cosine}});
  options.expert_importance =
      reader.word<ExpertImportance>("expert_importance", {{"auto", ExpertImportance::automatic},
                                                          {"magnitude", ExpertImportance::magnitude},
                                                          {"norm", ExpertImportance::norm},
                                                          {"router", ExpertImportance::router}});
  options.compensation = reader.word<Compensation>("compensate", {{"false", Compensation::none},
                                                                  {"true", Compensation::least_squares},
                                                                  {"none", Compensation::none},
                                                                  {"bias", Compensation::bias},
                                                                  {"least_squares", Compensation::least_squares}});
  options.target = reader.word<CompensationTarget>(
      "target", {{"model", CompensationTarget::model}, {"block", CompensationTarget::block}});
  options.damping = reader.number("damping", options.damping);
  if (!(options.damping >= 0 && options.damping <= 1)) {
    throw Error(ErrorCode::usage, fmt::format("damping: {:g} is not between 0 and 1", options.damping));
  }
  options.add_bias = reader.flag("add_bias", false);
  options.report_path = reader.text("report_path", "");
  return options;
}

std::vector<ParameterSpec> parameter_specs() {
  using Type = ParameterSpec::Type;
  const auto amount = [](const char* name, const std::string& what) {
    return ParameterSpec{name, Type::number, 0.0, what + " to remove: a fraction below 1, or how many"};
  };
  return {
      amount("heads", "query heads"),
      {"head_unit", Type::text, std::string("auto"),
       "query: the same number of query heads from each group; group: key/value heads with their query heads; auto: "
       "query where that removes any"},
      amount("ffn", "channels of every MLP, ranked layer by layer,"),
      amount("hidden", "channels of the residual stream"),
      amount("layers", "decoder layers"),
      amount("experts", "experts of each layer"),
      {"ffn_divisor", Type::integer, std::int64_t{0},
       "what stays is a multiple of it; 0: the largest power of two up to 128 and a sixteenth of the width"},
      {"hidden_divisor", Type::integer, std::int64_t{0}, "likewise"},
      {"expert_divisor", Type::integer, std::int64_t{1}, "likewise, for the number of experts"},
      {"importance", Type::text, std::string("magnitude"),
       "magnitude: norm of the unit's weights; activation: Minitron; flap: variance times norm of the readers"},
      {"layer_importance", Type::text, std::string("auto"),
       "cosine: 1 - cos of input and output; magnitude; auto: cosine unless importance is magnitude"},
      {"expert_importance", Type::text, std::string("auto"),
       "router: gate times norm of the output (REAP); norm: of the output; magnitude; auto: router unless importance "
       "is "
       "magnitude"},
      {"compensate", Type::scalar, false,
       "true: linears that read removed channels are fitted again by least squares; bias: only their biases"},
      {"target", Type::text, std::string("model"),
       "of least squares: model: what the unpruned model computes; block: what the uncut linear would compute"},
      {"damping", Type::number, 0.01, "pull of least squares towards the old weights, of the mean diagonal"},
      {"add_bias", Type::boolean, false, "gives fitted linears a bias where config.json can say so"},
      {"report_path", Type::text, std::string(), "where to put a copy of structure.json"}};
}

}  // namespace
}  // namespace structured_pruning

void register_reap(Registry& registry);

void register_structured(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "structured";
  entry.modifier = "StructuredPruningModifier";
  entry.summary = "removes heads, channels, layers and experts whole: a smaller dense model";
  entry.source = "Muralidharan et al. 2024, Minitron (arXiv 2407.14679); An et al. 2023, FLAP (arXiv 2312.11983)";
  entry.parameters = structured_pruning::parameter_specs();
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return std::make_unique<structured_pruning::Pruning>(structured_pruning::options_of(parameters));
  };
  registry.add(std::move(entry));
  register_reap(registry);
}

}  // namespace quant
