#include "quant/gptq.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "quant/error.h"
#include "quant/registry.h"
#include "quant/rtn.h"
#include "shared/checks.h"
#include "solver.h"

namespace quant {
namespace {

constexpr std::array<std::pair<ColumnOrder, std::string_view>, 4> kOrders{{{ColumnOrder::none, "none"},
                                                                           {ColumnOrder::weight, "static"},
                                                                           {ColumnOrder::group, "group"},
                                                                           {ColumnOrder::group_aware, "group_aware"}}};
constexpr std::array<std::pair<ScaleSearch, std::string_view>, 3> kSearches{
    {{ScaleSearch::none, "none"}, {ScaleSearch::diagonal, "diagonal"}, {ScaleSearch::solve, "solve"}}};

template <class Names, class Value>
std::string_view name_in(const Names& names, Value value) {
  const auto at = std::find_if(names.begin(), names.end(), [&](const auto& entry) { return entry.first == value; });
  return at == names.end() ? std::string_view("unknown") : at->second;
}

template <class Names>
auto value_in(const Names& names, std::string_view field, std::string_view name) {
  std::string known;
  for (const auto& [value, text] : names) {
    if (text == name) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw Error(ErrorCode::usage, std::string(field) + " must be one of " + known + ", not '" + std::string(name) + "'");
}

void require(bool holds, std::string_view field, const std::string& rule) {
  if (!holds) throw Error(ErrorCode::usage, std::string(field) + " must be " + rule);
}

void check(const GptqOptions& options) {
  require(options.block_size >= 1 && options.block_size <= 65536, "block_size", "from 1 to 65536");
  require(options.dampening_frac >= 0 && options.dampening_frac <= 1e6, "dampening_frac", "from 0 to 1e6");
  require(options.dampening_increment >= 1e-6 && options.dampening_increment <= 1, "dampening_increment",
          "from 1e-6 to 1");
  require(options.refine_rounds <= 1000, "refine_rounds", "from 0 to 1000");
  require(options.asymmetric >= 0 && options.asymmetric <= 1, "asymmetric", "from 0 to 1");
  require(options.residual >= 0 && options.residual <= 1, "residual", "from 0 to 1");
}

// A modifier's order in the words of schemes. Empty where those have none: columns as they are, or an order that needs
// no place in the file; nor do groups that follow the order without scales of their own.
std::optional<ActOrder> scheme_order(ColumnOrder order, const QuantArgs& weights) {
  if (order == ColumnOrder::weight) return ActOrder::weight;
  if (order == ColumnOrder::group && weights.strategy == Strategy::group) return ActOrder::group;
  return std::nullopt;
}

class Gptq final : public CalibratedQuantizer {
 public:
  explicit Gptq(const GptqOptions& options) : options_(options), rtn_(make_rtn()) { check(options); }

  CalibrationNeeds needs() const override { return gptq_needs(options_); }

  std::optional<std::string> unsupported(const QuantArgs& weights) const override {
    return rtn_->unsupported(weights);  // the same scales
  }

  // Layouts and config.json look at the scheme alone.
  std::optional<std::string> complete(QuantArgs& weights) const override {
    const auto own = scheme_order(options_.order, weights);
    if (!weights.actorder) {
      weights.actorder = own;
      return std::nullopt;
    }
    if (weights.actorder == own || (own == std::nullopt && options_.order == ColumnOrder::group)) return std::nullopt;
    if (options_.order == ColumnOrder::none && weights.actorder == ActOrder::none) return std::nullopt;
    return "actorder: the modifier says " + std::string(to_string(options_.order)) + ", its scheme's weights say " +
           (weights.actorder == ActOrder::none ? "false" : std::string(to_string(*weights.actorder))) +
           "; leave one of them out";
  }

  void quantize(std::span<LinearTask> group, const InputStatistics& inputs, const RunContext& context) const override {
    gptq::SharedInputs shared(inputs, options_, context);
    for (LinearTask& task : group) {
      if (task.cols != inputs.cols || task.weight.size() != task.rows * task.cols || task.out == nullptr) {
        throw Error(ErrorCode::usage, task.module + " has " + std::to_string(task.weight.size()) + " weights in " +
                                          std::to_string(task.rows) + " rows; its inputs have " +
                                          std::to_string(inputs.cols) + " channels");
      }
      if (task.quantized) gptq::solve(task, shared);
    }
  }

  double operations(std::uint64_t rows, std::uint64_t cols, const CalibrationNeeds& parts) const override {
    const auto n = static_cast<double>(cols);
    const double product = 2.0 * static_cast<double>(rows) * n * n;
    // A factor of H, inverted. A sweep passes each column's error on to the columns behind it: half a product.
    double operations = CalibratedQuantizer::operations(0, cols, parts);
    operations += gptq::sweeps(options_) * product / 2;
    operations += static_cast<double>(options_.refine_rounds) * product;
    // Both together go through the two products with the factor of H.
    const bool compensates_inputs = options_.asymmetric > 0 && parts.cross_gram;
    const bool compensates_residual = options_.residual > 0 && parts.residual;
    if (compensates_inputs || compensates_residual) operations += (compensates_inputs ? 3 : 2) * product;
    return operations;
  }

 private:
  GptqOptions options_;
  std::unique_ptr<Quantizer> rtn_;
};

// Reads a recipe's values.
class ParameterReader {
 public:
  explicit ParameterReader(const Parameters& parameters) : parameters_(parameters) {}

  template <class Value>
  void read(const std::string& name, Value& value) const {
    const auto it = parameters_.find(name);
    if (it == parameters_.end()) return;
    if constexpr (std::is_same_v<Value, std::uint64_t>) {
      const auto given = std::get<std::int64_t>(it->second);
      require(given >= 0, name, "at least 0");
      value = static_cast<std::uint64_t>(given);
    } else if constexpr (std::is_same_v<Value, double>) {
      const auto* whole = std::get_if<std::int64_t>(&it->second);
      value = whole != nullptr ? static_cast<double>(*whole) : std::get<double>(it->second);
    } else {
      value = std::get<Value>(it->second);
    }
  }

 private:
  const Parameters& parameters_;
};

ColumnOrder order_of(const std::string& name) {
  if (name == "weight") return ColumnOrder::weight;
  if (name == "dynamic") return ColumnOrder::group;
  if (name.empty() || name == "null") return ColumnOrder::none;
  return value_in(kOrders, "actorder", name);
}

GptqOptions options_of(const Parameters& parameters) {
  const ParameterReader reader(parameters);
  GptqOptions options;
  reader.read("block_size", options.block_size);
  reader.read("dampening_frac", options.dampening_frac);
  reader.read("dampening_increment", options.dampening_increment);
  reader.read("static_groups", options.static_groups);
  reader.read("zero_dead_columns", options.zero_dead_columns);
  reader.read("fallback_threshold", options.fallback_threshold);
  reader.read("refine_rounds", options.refine_rounds);
  reader.read("refit_scales", options.refit_scales);
  reader.read("asymmetric", options.asymmetric);
  reader.read("residual", options.residual);
  std::string order(to_string(options.order)), search(to_string(options.scale_search));
  reader.read("actorder", order);
  reader.read("scale_search", search);
  options.order = order_of(order);
  options.scale_search = value_in(kSearches, "scale_search", search);
  return options;
}

std::vector<ParameterSpec> parameter_specs() {
  using Type = ParameterSpec::Type;
  const GptqOptions defaults;
  const auto whole = [](std::uint64_t value) { return KwValue(static_cast<std::int64_t>(value)); };
  return {
      {"block_size", Type::integer, whole(defaults.block_size), "columns whose errors are passed on together"},
      {"dampening_frac", Type::number, defaults.dampening_frac, "of H's mean diagonal, added to its diagonal"},
      {"dampening_increment", Type::number, defaults.dampening_increment, "first step up if H is singular even so"},
      {"actorder", Type::text, std::string(to_string(defaults.order)),
       "order of columns: static, group, group_aware or none; it becomes the scheme's where that has none, and two "
       "different ones are refused"},
      {"static_groups", Type::boolean, defaults.static_groups, "scales from the original weights"},
      {"zero_dead_columns", Type::boolean, defaults.zero_dead_columns, "weights of inputs that were always 0 become 0"},
      {"fallback_threshold", Type::integer, whole(defaults.fallback_threshold),
       "fewer tokens than these: round to nearest"},
      {"scale_search", Type::text, std::string(to_string(defaults.scale_search)),
       "none: the scheme's observer; diagonal: least error weighted with H's diagonal; solve: tries several ranges"},
      {"refine_rounds", Type::integer, whole(defaults.refine_rounds), "passes of coordinate descent over the codes"},
      {"refit_scales", Type::boolean, defaults.refit_scales, "a refining round also gives each group its best scale"},
      {"asymmetric", Type::number, defaults.asymmetric, "share of earlier layers' error to compensate (GPTAQ's alpha)"},
      {"residual", Type::number, defaults.residual,
       "share of the residual stream's error to compensate in linears that add to it"},
      {"offload_hessians", Type::boolean, false, "accepted and ignored"},
  };
}

}  // namespace

std::string_view to_string(ColumnOrder order) { return name_in(kOrders, order); }
std::string_view to_string(ScaleSearch search) { return name_in(kSearches, search); }

CalibrationNeeds gptq_needs(const GptqOptions& options) {
  CalibrationNeeds needs;
  needs.gram = true;
  needs.cross_gram = options.asymmetric > 0;
  needs.residual = options.residual > 0;
  return needs;
}

GptqResult gptq_quantize(std::span<const float> weight, std::uint64_t rows, const InputStatistics& inputs,
                         QuantArgs args, const GptqOptions& options, int threads) {
  const std::unique_ptr<CalibratedQuantizer> gptq = make_gptq(options);
  shared::complete_args(*gptq, args);
  std::vector<float> values(weight.begin(), weight.end());
  GptqResult result;
  LinearTask task;
  task.module = "the weight";
  task.rows = rows;
  task.cols = inputs.cols;
  task.weight = values;
  task.args = args;
  task.scale_dtype = args.scale_dtype.value_or(is_mx(args) ? DType::U8 : DType::F32);
  task.out = &result.tensor;
  RunContext context;
  context.threads = threads;
  gptq->quantize({&task, 1}, inputs, context);
  result.record = std::move(task.record);
  return result;
}

std::unique_ptr<CalibratedQuantizer> make_gptq(const GptqOptions& options) { return std::make_unique<Gptq>(options); }

void register_gptq(Registry& registry) {
  AlgorithmEntry entry;
  entry.name = "gptq";
  entry.modifier = "GPTQModifier";
  entry.summary = "codes that compensate each other's errors on calibration data";
  entry.source = "Frantar et al. 2022, GPTQ (arXiv 2210.17323); llm-compressor (GPTQModifier)";
  entry.parameters = parameter_specs();
  entry.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
    return make_gptq(options_of(parameters));
  };
  registry.add(std::move(entry));
}

}  // namespace quant
