#include "quant/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "hash.h"
#include "output/files.h"
#include "plan/algorithm_set.h"
#include "plan/calibration_work.h"
#include "plan/pruning.h"
#include "plan/resources.h"
#include "plan/sensitivities.h"
#include "plan/shards.h"
#include "plan/targets.h"
#include "quant/error.h"
#include "quant/version.h"

namespace quant {
namespace {

using plan_detail::Assignment;

// One line for each distinct reason, naming the first linears that it holds for.
class ProblemCollector {
 public:
  void add(const std::string& reason, const std::string& module) {
    auto [at, is_new] = modules_.try_emplace(reason);
    if (is_new) order_.push_back(reason);
    at->second.push_back(module);
  }
  void flush(std::vector<std::string>& problems) const {
    for (const std::string& reason : order_) {
      const auto& modules = modules_.at(reason);
      std::string list = modules.front();
      for (std::size_t i = 1; i < std::min<std::size_t>(modules.size(), 3); ++i) list += ", " + modules[i];
      if (modules.size() > 3) list += fmt::format(" and {} more", modules.size() - 3);
      problems.push_back(fmt::format("{}: {}", list, reason));
    }
  }

 private:
  std::map<std::string, std::vector<std::string>> modules_;
  std::vector<std::string> order_;
};

// The scheme groups of all modifiers under distinct names, and where each modifier's begin.
std::vector<std::size_t> collect_groups(const Recipe& recipe, const std::vector<ModifierAlgorithm>& algorithms,
                                        Plan& plan) {
  std::vector<std::size_t> first;
  for (std::size_t m = 0; m < recipe.modifiers.size(); ++m) {
    const RecipeModifier& modifier = recipe.modifiers[m];
    first.push_back(plan.groups.size());
    for (const RecipeScheme& scheme : modifier.schemes) {
      const auto taken = [&](const std::string& name) {
        return std::any_of(plan.groups.begin(), plan.groups.end(),
                           [&](const SchemeGroup& g) { return g.name == name; });
      };
      std::string name = scheme.name;
      for (std::size_t n = plan.groups.size(); taken(name); ++n) name = fmt::format("group_{}", n);
      plan.groups.push_back({name, scheme.scheme, {}});
      // The scheme's word holds; that both were given and differ is a mistake of the recipe's text.
      auto& weights = plan.groups.back().scheme.weights;
      if (weights && algorithms[m].own != nullptr) algorithms[m].own->complete(*weights);
    }
  }
  return first;
}

void check_model(const Checkpoint& checkpoint, Plan& plan) {
  if (!checkpoint.config().quantization_config.empty()) {
    plan.problems.push_back(
        fmt::format("{} is quantized already (its config.json has a quantization_config); run 'quant "
                    "dequantize' on it first, or start from the original",
                    checkpoint.location().string()));
  }
  if (checkpoint.tensors().empty()) plan.problems.push_back(checkpoint.location().string() + " holds no tensors");
}

std::vector<ModifierAlgorithm> create_or_complain(const Recipe& recipe, const Registry& registry, Plan& plan) {
  std::vector<ModifierAlgorithm> algorithms;
  if (recipe.modifiers.empty()) plan.problems.push_back(recipe.name + " has no modifier: nothing to do");
  for (const RecipeModifier& modifier : recipe.modifiers) {
    algorithms.emplace_back();
    try {
      algorithms.back() = create_algorithm(modifier, registry);
    } catch (const Error& error) {
      plan.problems.push_back(modifier.where.to_string() + ": " + error.what());
      continue;
    }
    if (algorithms.back().own == nullptr) {
      plan.problems.push_back(modifier.where.to_string() + ": " + modifier.type + " is not available in this build");
    }
  }
  return algorithms;
}

bool has_ragged_groups(const PlannedLinear& linear, const QuantArgs& args) {
  return args.strategy != Strategy::flat && args.group_size.value_or(0) > 0 &&
         linear.shape.cols % static_cast<std::uint64_t>(*args.group_size) != 0;
}

void check_linear(const PlannedLinear& linear, const Scheme& scheme, const RecipeModifier& modifier,
                  const QuantArgs& args, const Algorithm* algorithm, const Layout& layout, ProblemCollector& problems) {
  const std::string& name = linear.shape.module;
  const DType type = linear.shape.dtype;
  if (type != DType::F32 && type != DType::F16 && type != DType::BF16) {
    problems.add(fmt::format("weights of type {} cannot be quantized (F32, F16 and BF16 can)", dtype_name(type)), name);
    return;
  }
  if (linear.shape.rows == 0 || linear.shape.cols == 0) {
    problems.add(fmt::format("the weight {} is empty", to_string(linear.weight->shape)), name);
    return;
  }
  // Ranges of inputs that the recipe does not give come from calibration.
  const bool measured = needs_input_range(scheme);
  const auto layout_reason = layout.unsupported(measured ? with_input_range(scheme) : scheme, linear.shape);
  if (has_ragged_groups(linear, args) && !modifier.bypass_divisibility_checks) {
    // The way around the check is no advice where it would end in the layout's refusal.
    const std::string_view advice = layout_reason ? "ignore it, or choose another size or scheme"
                                                  : "ignore it, choose another size, or set bypass_divisibility_checks";
    problems.add(
        fmt::format("{} columns are no multiple of group_size {}; {}", linear.shape.cols, *args.group_size, advice),
        name);
    return;
  }
  if (algorithm != nullptr) {
    if (const auto reason = algorithm->unsupported(args)) problems.add(*reason, name);
    const bool sparse = args.outlier_percent + args.sensitive_percent > 0;
    if (sparse && dynamic_cast<const Quantizer*>(algorithm) == nullptr) {
      problems.add(
          fmt::format("{} makes no sparse part; leave outlier_percent and sensitive_percent out", modifier.type), name);
    }
  }
  if (layout_reason) problems.add(*layout_reason, name);
}

void add_linear(const Module& module, const Assignment& assignment, std::size_t group,
                const std::vector<ModifierAlgorithm>& algorithms, Plan& plan) {
  PlannedLinear linear;
  linear.shape = {module.name, module.weight->shape[0], module.weight->shape[1], module.weight->dtype};
  linear.weight = module.weight;
  const bool coded = assignment.modifier >= 0;
  linear.modifier = coded ? static_cast<std::size_t>(assignment.modifier) : assignment.pruning.back().first;
  linear.scheme = group;
  linear.rule = coded ? assignment.rule : assignment.pruning.back().second;
  plan_detail::add_pruning(plan, assignment, algorithms, linear);
  plan.linears.push_back(std::move(linear));
}

// Runtimes fuse these linears into one matrix product, which has one global scale.
int fused_kind(std::string_view leaf) {
  if (leaf == "q_proj" || leaf == "k_proj" || leaf == "v_proj") return 0;
  if (leaf == "gate_proj" || leaf == "up_proj") return 1;
  if (leaf == "w1" || leaf == "w3") return 2;
  if (leaf == "q_a_proj" || leaf == "kv_a_proj_with_mqa") return 3;
  return -1;
}

void find_fused_sets(Plan& plan) {
  std::map<std::string, int> sets;
  for (PlannedLinear& linear : plan.linears) {
    if (!is_nvfp4(*plan.groups[linear.scheme].scheme.weights)) continue;
    const auto dot = linear.shape.module.rfind('.');
    if (dot == std::string::npos) continue;
    const int kind = fused_kind(std::string_view(linear.shape.module).substr(dot + 1));
    if (kind < 0) continue;
    const std::string key = fmt::format("{}#{}", linear.shape.module.substr(0, dot), kind);
    linear.fused_set = sets.try_emplace(key, static_cast<int>(sets.size())).first->second;
  }
}

void add_modules(const ModelOutline& outline, const std::vector<Assignment>& assignments,
                 const std::vector<std::size_t>& first_group, const std::vector<ModifierAlgorithm>& algorithms,
                 Plan& plan) {
  for (std::size_t i = 0; i < outline.modules.size(); ++i) {
    const Module& module = outline.modules[i];
    const Assignment& assignment = assignments[i];
    if (assignment.modifier >= 0) {
      const auto group =
          first_group[static_cast<std::size_t>(assignment.modifier)] + static_cast<std::size_t>(assignment.scheme);
      add_linear(module, assignment, group, algorithms, plan);
      continue;
    }
    if (!assignment.pruning.empty()) {
      add_linear(module, assignment, plan_detail::plain_group(plan, assignment.pruning.back().first), algorithms, plan);
      continue;
    }
    plan.copies.push_back({module.weight, module.name, assignment.reason});
    if (module.class_name == "Linear" || assignment.class_targeted) plan.ignored_modules.push_back(module.name);
  }
  for (const TensorInfo* tensor : outline.others) {
    const bool bias = tensor->name.ends_with(".bias");
    const std::string reason = bias                        ? "a bias"
                               : tensor->shape.size() == 3 ? "no module's weight (3-D: fused experts?)"
                                                           : "no module's weight";
    plan.copies.push_back({tensor, "", reason});
  }
}

// One line per scheme group; the recipe allowed such groups, or check_linear would have refused them.
void warn_of_ragged_groups(Plan& plan) {
  for (std::size_t i = 0; i < plan.groups.size(); ++i) {
    const auto count = std::count_if(plan.linears.begin(), plan.linears.end(), [&](const PlannedLinear& linear) {
      return linear.scheme == i && has_ragged_groups(linear, *plan.groups[i].scheme.weights);
    });
    if (count == 0) continue;
    plan.warnings.push_back(
        fmt::format("{}: {} linear{} with a last group shorter than {}; other readers of {} refuse groups that do not "
                    "divide the columns",
                    plan.groups[i].name, count, count == 1 ? "" : "s", *plan.groups[i].scheme.weights->group_size,
                    plan.options.layout));
  }
}

void finish_linears(const std::vector<ModifierAlgorithm>& algorithms, Plan& plan) {
  ProblemCollector problems;
  for (PlannedLinear& linear : plan.linears) {
    const Scheme& scheme = plan.groups[linear.scheme].scheme;
    const RecipeModifier& modifier = plan.recipe.modifiers[linear.modifier];
    const QuantArgs args = weight_args(plan, linear);
    const Algorithm* algorithm = is_plain(args) ? nullptr : algorithms[linear.modifier].own.get();
    check_linear(linear, scheme, modifier, args, algorithm, layout_for(plan, linear), problems);
    for (const std::string& reason : plan_detail::pruning_problems(plan, algorithms, linear)) {
      problems.add(reason, linear.shape.module);
    }
  }
  problems.flush(plan.problems);
  if (!plan.problems.empty()) return;
  warn_of_ragged_groups(plan);
  double bits = 0;
  double weights = 0;
  for (PlannedLinear& linear : plan.linears) {
    linear.stored = layout_for(plan, linear).stored(plan.groups[linear.scheme].scheme, linear.shape);
    for (const StoredTensor& tensor : linear.stored) linear.stored_bytes += tensor.bytes();
    const double count = static_cast<double>(linear.shape.rows) * static_cast<double>(linear.shape.cols);
    linear.bits_per_weight = 8.0 * static_cast<double>(linear.stored_bytes) / count;
    bits += 8.0 * static_cast<double>(linear.stored_bytes);
    weights += count;
  }
  plan.bits_per_weight = weights > 0 ? bits / weights : 0;
}

std::string parameters_text(const std::map<std::string, KwValue>& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    text += fmt::format("{}={} ", name, std::visit([](const auto& v) { return fmt::format("{}", v); }, value));
  }
  return text;
}

// Everything that decides codes and scales.
std::string arguments_text(const QuantArgs& args) {
  return fmt::format("{} {} scale {} zero {} observer {} {}", describe(args), args.symmetric,
                     args.scale_dtype ? dtype_name(*args.scale_dtype) : "-",
                     args.zp_dtype ? dtype_name(*args.zp_dtype) : "-", args.observer.value_or("-"),
                     parameters_text(args.observer_kwargs));
}

// What algorithms read beside model and recipe (factors of an earlier search). Where it lies does not matter.
std::string inputs_text(const std::vector<ModifierAlgorithm>& algorithms) {
  std::string text;
  for (std::size_t m = 0; m < algorithms.size(); ++m) {
    for (const std::filesystem::path& file : algorithms[m].own->input_files()) {
      text += fmt::format("\ninput of {} {} {}", m, file.filename().string(), hash_hex(read_text_file(file)));
    }
  }
  return text;
}

std::string identity_of(const Plan& plan, const std::vector<ModifierAlgorithm>& algorithms) {
  std::string text = fmt::format("libquant {}\n{}\n{}\n{}\n", version(), plan.options.layout, plan.options.container,
                                 plan.recipe.text);
  for (const PlannedShard& shard : plan.shards) {
    text += shard.file + "\n";
    for (const StoredTensor& tensor : shard.tensors) {
      text += fmt::format("{} {} {}\n", tensor.name, dtype_name(tensor.dtype), to_string(tensor.shape));
    }
  }
  for (const PlannedLinear& linear : plan.linears) {
    const RecipeModifier& modifier = plan.recipe.modifiers[linear.modifier];
    text += fmt::format("{} {} {} {}{}\n", linear.shape.module, modifier.type,
                        arguments_text(*plan.groups[linear.scheme].scheme.weights),
                        parameters_text(modifier.parameters), plan_detail::pruning_text(plan, linear));
  }
  text += plan.config_json;
  if (plan.calibration) {
    // Another type rounds differently. Gram matrices do not depend on chunks, but a product of other rows may be
    // computed by another kernel: not the same bytes.
    const CalibrationPlan& data = *plan.calibration;
    text += fmt::format("\ncalibration {} chunks {} product {} experts {}", data.hash, data.chunk_tokens,
                        data.product == ProductType::bf16 ? "bf16" : "f32", plan.options.calibration.all_experts);
    if (plan.options.calibration.unquantized_inputs) text += " unquantized inputs";
  }
  if (plan.options.sensitivities != nullptr) {
    text += "\nsensitivities " + model_fingerprint(*plan.options.sensitivities);
  }
  return hash_hex(text + inputs_text(algorithms));
}

// Groups that no linear got would make loaders look for modules that are not there.
std::vector<SchemeGroup> groups_in_use(const Plan& plan) {
  std::vector<bool> used(plan.groups.size(), false);
  for (const PlannedLinear& linear : plan.linears) {
    if (is_described(plan, linear)) used[linear.scheme] = true;
  }
  std::vector<SchemeGroup> groups;
  for (std::size_t i = 0; i < plan.groups.size(); ++i) {
    if (!used[i]) continue;
    groups.push_back(plan.groups[i]);
    for (const PlannedLinear& linear : plan.linears) {
      if (linear.scheme == i && is_described(plan, linear)) {
        groups.back().linears.push_back(linear.shape);
      }
    }
  }
  return groups;
}

void say_caches(Plan& plan) {
  if (plan.caches.empty()) return;
  const auto config = plan.layout->with_kv_cache(plan.config_json, plan.caches.front().args);
  if (config) {
    plan.config_json = *config;
  } else {
    plan.problems.push_back("the layout " + plan.options.layout + " has no place for the scales of a kv_cache_scheme");
  }
}

// "auto": the first layout that holds every linear; else the first that holds the first linear's scheme, whose
// sentences say what is in the way.
void choose_layout(Plan& plan) {
  if (plan.layout != nullptr || plan.options.layout != kAutomaticLayout) return;
  const auto holds = [&](const Layout& layout, const PlannedLinear& linear) {
    const Scheme& scheme = plan.groups[linear.scheme].scheme;
    if (is_plain(*scheme.weights)) return true;
    return !layout.unsupported(needs_input_range(scheme) ? with_input_range(scheme) : scheme, linear.shape);
  };
  const std::vector<SchemeGroup> groups = groups_in_use(plan);
  const Layout* partial = nullptr;
  for (const auto& layout : plan.registry->layouts()) {
    const bool all = std::all_of(plan.linears.begin(), plan.linears.end(),
                                 [&](const PlannedLinear& linear) { return holds(*layout, linear); });
    if (all && layout->contradictions(groups).empty()) {
      plan.layout = layout.get();
      break;
    }
    if (partial == nullptr && holds(*layout, plan.linears.front())) partial = layout.get();
  }
  if (plan.layout == nullptr) plan.layout = partial != nullptr ? partial : plan.registry->layouts().front().get();
  plan.options.layout = plan.layout->name();
}

// What follows once every linear has its scheme.
void finish_plan(const ModelOutline& outline, const std::vector<ModifierAlgorithm>& algorithms,
                 const Container& container, Plan& plan) {
  finish_linears(algorithms, plan);
  if (plan.problems.empty()) plan_detail::find_sensitivities(plan, algorithms);
  const bool sound = std::all_of(algorithms.begin(), algorithms.end(), [](const auto& a) { return a.own != nullptr; });
  std::shared_ptr<CalibrationWork> work;
  if (sound && plan_detail::is_calibrated(plan, algorithms)) {
    work = plan_detail::plan_calibration(plan);
  } else if (sound && !plan.options.calibration.save_statistics.empty()) {
    plan.problems.push_back("no statistics can be saved: " + plan.recipe.name + " needs none, so none are collected");
  }
  if (!plan.problems.empty()) return;
  find_fused_sets(plan);
  const ModelConfig& config = plan.checkpoint->config();
  const std::vector<SchemeGroup> groups = groups_in_use(plan);
  plan.problems = plan.layout->contradictions(groups);
  if (!plan.problems.empty()) return;
  const auto dense = std::count_if(plan.linears.begin(), plan.linears.end(), [](const PlannedLinear& linear) {
    return !linear.pruning.empty() && !linear.shape.sparsity;
  });
  plan_detail::warn_of_idle_pruning(plan);
  if (dense > 0 && plan.layout->omits_zeros()) {
    plan.warnings.push_back(fmt::format(
        "the zeros of {} pruned linear{} are stored: how many there will be is not known "
        "beforehand (zeros that the model has, several patterns, ragged blocks), or they lie in blocks of GGUF",
        dense, dense == 1 ? "" : "s"));
  }
  // Pruned tensors that lie in the output like any other are linears that stay unquantized.
  for (const PlannedLinear& linear : plan.linears) {
    if (!is_described(plan, linear)) plan.ignored_modules.push_back(linear.shape.module);
  }
  // A model that is pruned only is none that a layout would have to describe.
  const bool described = !groups.empty() || !plan.caches.empty();
  plan.config_json = described ? plan.layout->config_json(config, groups, plan.ignored_modules) : config.text;
  say_caches(plan);
  if (config.text.empty() && described) {
    plan.warnings.push_back(
        "the model has no config.json: one that holds only the quantization is written, which this "
        "program reads, but other loaders need the model's own");
  }
  plan_detail::lay_out_shards(plan, container);
  if (!plan.problems.empty()) return;
  if (outline.parameters > 0) {
    plan.model_bits_per_parameter =
        8.0 * static_cast<double>(plan.bytes_after) / static_cast<double>(outline.parameters);
  }
  plan_detail::estimate_resources(plan, algorithms);
  if (work != nullptr && plan.problems.empty()) plan_detail::estimate_calibration(plan, *work);
  plan.identity = identity_of(plan, algorithms);
  plan.work = std::move(work);
}

}  // namespace

Plan make_plan(const Checkpoint& checkpoint, const Recipe& recipe, const Registry& registry,
               const PlanOptions& options) {
  Plan plan;
  plan.recipe = recipe;
  plan.options = options;
  plan.checkpoint = &checkpoint;
  plan.registry = &registry;
  plan.layout = registry.layout(options.layout);
  const Container* container = registry.container(options.container);
  const bool automatic = options.layout == kAutomaticLayout && !registry.layouts().empty();
  if (plan.layout == nullptr && !automatic) {
    plan.problems.push_back("there is no layout named '" + options.layout + "'");
  }
  if (container == nullptr) plan.problems.push_back("there is no container named '" + options.container + "'");
  check_model(checkpoint, plan);
  const auto algorithms = create_or_complain(plan.recipe, registry, plan);
  for (std::size_t m = 0; m < algorithms.size(); ++m) {
    if (algorithms[m].own == nullptr || algorithms[m].own->role() != Role::restructure) continue;
    plan.problems.push_back(recipe.modifiers[m].where.to_string() + ": " + recipe.modifiers[m].type +
                            " changes the model's shapes: quant plan and quant run do that, alone in a recipe");
  }
  const auto first_group = collect_groups(plan.recipe, algorithms, plan);
  const ModelOutline outline = outline_model(checkpoint);
  try {
    add_modules(outline, plan_detail::assign_targets(plan.recipe, outline, plan), first_group, algorithms, plan);
    plan_detail::warn_of_other_linears(plan.recipe, outline, plan);
  } catch (const Error& error) {
    plan.problems.push_back(error.what());
  }
  const bool caches = std::any_of(recipe.modifiers.begin(), recipe.modifiers.end(),
                                  [](const RecipeModifier& modifier) { return modifier.kv_cache.has_value(); });
  if (plan.linears.empty() && !caches && plan.problems.empty()) {
    plan.problems.push_back("the recipe's targets match no weight of this model: nothing would be changed");
  }
  if (automatic) choose_layout(plan);
  if (plan.layout == nullptr || container == nullptr) return plan;
  for (const TensorInfo& tensor : checkpoint.tensors()) plan.bytes_before += tensor.bytes;
  try {
    finish_plan(outline, algorithms, *container, plan);
  } catch (const Error& error) {
    plan.problems.push_back(error.what());
  }
  return plan;
}

}  // namespace quant
