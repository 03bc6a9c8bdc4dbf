#include "plan_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "metrics_text.h"
#include "quant/error.h"
#include "quant/sparsity_profile.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

Json linear_json(const Plan& plan, const PlannedLinear& linear) {
  Json tensors = Json::array();
  for (const StoredTensor& tensor : linear.stored) {
    tensors.push_back(
        {{"name", tensor.name}, {"dtype", std::string(dtype_name(tensor.dtype))}, {"shape", tensor.shape}});
  }
  Json json = {
      {"module", linear.shape.module},
      {"shape", {linear.shape.rows, linear.shape.cols}},
      {"dtype", std::string(dtype_name(linear.shape.dtype))},
      {"scheme", scheme_text(plan, linear)},
      {"group", linear.scheme < plan.groups.size() ? Json(plan.groups[linear.scheme].name) : Json()},
      {"rule", linear.rule},
      {"modifier",
       linear.modifier < plan.recipe.modifiers.size() ? Json(plan.recipe.modifiers[linear.modifier].type) : Json()},
      {"bits_per_weight", linear.bits_per_weight},
      {"stored_bytes", linear.stored_bytes},
      {"tensors", tensors}};
  if (linear.fused_set >= 0) json["fused_set"] = linear.fused_set;
  return json;
}

Json copy_json(const PlannedCopy& copy) {
  Json json = {{"tensor", copy.tensor == nullptr ? Json() : Json(copy.tensor->name)},
               {"module", copy.module},
               {"reason", copy.reason}};
  if (copy.tensor == nullptr) return json;
  json["shape"] = copy.tensor->shape;
  json["dtype"] = std::string(dtype_name(copy.tensor->dtype));
  json["bytes"] = copy.tensor->bytes;
  return json;
}

std::string name_of(const PlannedCopy& copy) { return copy.tensor == nullptr ? copy.module : copy.tensor->name; }

/// False if a problem ended the planning before anything had a size: zeros would be printed as if they were results.
bool is_sized(const Plan& plan) { return !plan.identity.empty(); }

std::string linears_text(const Plan& plan) {
  std::vector<Table::Column> columns = {{"linear"}, {"shape"}, {"scheme"}, {"rule"}};
  if (is_sized(plan)) {
    columns.push_back({"bits/weight", Table::Align::right});
    columns.push_back({"bytes", Table::Align::right});
  }
  Table table(std::move(columns));
  for (const PlannedLinear& linear : plan.linears) {
    std::vector<std::string> row = {linear.shape.module, shape_text({linear.shape.rows, linear.shape.cols}),
                                    scheme_text(plan, linear), linear.rule};
    if (is_sized(plan)) {
      row.push_back(fmt::format("{:.3f}", linear.bits_per_weight));
      row.push_back(human_bytes(linear.stored_bytes));
    }
    table.add(row);
  }
  return table.text();
}

std::string copies_text(const Plan& plan) {
  Table table({{"copied unchanged"}, {"shape"}, {"type"}, {"bytes", Table::Align::right}, {"reason"}});
  for (const PlannedCopy& copy : plan.copies) {
    const bool stored = copy.tensor != nullptr;
    table.add({name_of(copy), stored ? shape_text(copy.tensor->shape) : "",
               stored ? std::string(dtype_name(copy.tensor->dtype)) : "", stored ? human_bytes(copy.tensor->bytes) : "",
               copy.reason});
  }
  return table.text();
}

std::string reasons_text(const Plan& plan) {
  struct Reason {
    std::size_t tensors = 0;
    std::uint64_t bytes = 0;
    std::string example;
  };
  std::map<std::string, Reason> reasons;
  for (const PlannedCopy& copy : plan.copies) {
    Reason& reason = reasons[copy.reason];
    if (reason.tensors++ == 0) reason.example = name_of(copy);
    if (copy.tensor != nullptr) reason.bytes += copy.tensor->bytes;
  }
  Table table(
      {{"copied unchanged because"}, {"tensors", Table::Align::right}, {"bytes", Table::Align::right}, {"first"}});
  for (const auto& [text, reason] : reasons) {
    table.add({text, std::to_string(reason.tensors), human_bytes(reason.bytes), reason.example});
  }
  return table.text();
}

Json calibration_json(const CalibrationPlan& plan) {
  return {{"family", plan.family},
          {"blocks", plan.blocks},
          {"source", plan.source},
          {"hash", plan.hash},
          {"sequences", plan.sequences},
          {"tokens", plan.tokens},
          {"longest", plan.longest},
          {"product", plan.imported                       ? "none"
                      : plan.product == ProductType::bf16 ? "bf16"
                                                          : "f32"},
          {"imported", plan.imported},
          {"second_stream", plan.second_stream},
          {"chunk_tokens", plan.chunk_tokens},
          {"activation_bytes", plan.activation_bytes},
          {"disk_bytes", plan.disk_bytes},
          {"product_operations", plan.product_operations},
          {"gram_operations", plan.gram_operations},
          {"solve_operations", plan.solve_operations}};
}

std::string calibration_text(const CalibrationPlan& plan) {
  const auto tera = [](double operations) { return fmt::format("{:.3g} TFLOP", operations / 1e12); };
  if (plan.imported) {
    return "\n" +
           field_list({{"statistics", fmt::format("{}: of {}{}", printable(plan.source), counted(plan.tokens, "token"),
                                                  plan.data.empty() ? "" : " of " + printable(plan.data))},
                       {"work", fmt::format("{} of solving", tera(plan.solve_operations))}});
  }
  return "\n" +
         field_list(
             {{"calibration",
               fmt::format("{}: {} in {} of at most {}", printable(plan.source), counted(plan.tokens, "token"),
                           counted(plan.sequences, "sequence"), plan.longest)},
              {"work", fmt::format("{} of products in {}, {} of statistics, {} of solving",
                                   tera(plan.product_operations), plan.product == ProductType::bf16 ? "bf16" : "f32",
                                   tera(plan.gram_operations), tera(plan.solve_operations))},
              {"activations", fmt::format("{} in memory, temporary files of at most {}",
                                          human_bytes(plan.activation_bytes), human_bytes(plan.disk_bytes))}});
}

std::string totals_text(const Plan& plan) {
  const std::string ratio =
      plan.bytes_after == 0
          ? std::string("?")
          : fmt::format("{:.2f}x", static_cast<double>(plan.bytes_before) / static_cast<double>(plan.bytes_after));
  return field_list(
      {{"quantized",
        fmt::format("{}, {:.3f} bits per weight", counted(plan.linears.size(), "linear"), plan.bits_per_weight)},
       {"tensors", fmt::format("{} -> {} ({} smaller), {:.3f} bits per parameter", human_bytes(plan.bytes_before),
                               human_bytes(plan.bytes_after), ratio, plan.model_bits_per_parameter)},
       {"output",
        fmt::format("{} with {} of tensors", human_bytes(plan.output_bytes), counted(plan.shards.size(), "file"))},
       {"peak memory", human_bytes(plan.peak_memory)},
       {"time", fmt::format("about {}", human_seconds(plan.seconds_estimate))}});
}

Json groups_json(const Plan& plan) {
  Json groups = Json::array();
  for (std::size_t i = 0; i < plan.groups.size(); ++i) {
    const SchemeGroup& group = plan.groups[i];
    const auto linears = std::count_if(plan.linears.begin(), plan.linears.end(),
                                       [&](const PlannedLinear& linear) { return linear.scheme == i; });
    groups.push_back({{"name", group.name},
                      {"weights", group.scheme.weights ? Json(describe(*group.scheme.weights)) : Json()},
                      {"input_activations",
                       group.scheme.input_activations ? Json(describe(*group.scheme.input_activations)) : Json()},
                      {"targets", group.scheme.targets},
                      {"linears", linears}});
  }
  return groups;
}

}  // namespace

std::string scheme_text(const Plan& plan, const PlannedLinear& linear) {
  if (linear.scheme >= plan.groups.size()) return "";
  const Scheme& scheme = plan.groups[linear.scheme].scheme;
  std::string text = scheme.weights ? describe(*scheme.weights) : "";
  for (const PlannedPruning& pruning : linear.pruning) text += ", " + describe(pruning.pattern) + " sparse";
  if (scheme.input_activations) text += " + inputs " + describe(*scheme.input_activations);
  return text;
}

Json plan_json(const Plan& plan) {
  Json json = {{"model", plan.checkpoint->location().string()},
               {"recipe", plan.recipe.name},
               {"layout", plan.options.layout},
               {"identity", plan.identity},
               {"problems", plan.problems},
               {"warnings", plan.warnings},
               {"bytes_before", plan.bytes_before},
               {"bytes_after", plan.bytes_after},
               {"output_bytes", plan.output_bytes},
               {"loading_bytes", plan.loading_bytes},
               {"bits_per_weight", plan.bits_per_weight},
               {"model_bits_per_parameter", plan.model_bits_per_parameter},
               {"peak_memory", plan.peak_memory},
               {"seconds_estimate", plan.seconds_estimate},
               {"groups", groups_json(plan)}};
  if (plan.calibration) json["calibration"] = calibration_json(*plan.calibration);
  json["linears"] = Json::array();
  for (const PlannedLinear& linear : plan.linears) json["linears"].push_back(linear_json(plan, linear));
  json["skipped"] = Json::array();
  for (const PlannedCopy& copy : plan.copies) json["skipped"].push_back(copy_json(copy));
  json["shards"] = Json::array();
  for (const PlannedShard& shard : plan.shards) {
    json["shards"].push_back({{"file", shard.file}, {"bytes", shard.file_bytes}, {"tensors", shard.tensors.size()}});
  }
  return json;
}

std::string plan_text(const Plan& plan, bool all) {
  std::string text = field_list(
      {{"model", plan.checkpoint->location().string()}, {"recipe", plan.recipe.name}, {"layout", plan.options.layout}});
  if (!plan.linears.empty()) text += "\n" + linears_text(plan);
  if (!plan.copies.empty()) text += "\n" + (all ? copies_text(plan) : reasons_text(plan));
  if (is_sized(plan)) text += "\n" + totals_text(plan);
  if (is_sized(plan) && plan.calibration) text += calibration_text(*plan.calibration);
  return text;
}

std::string plan_remarks(const Plan& plan) {
  std::string text;
  for (const std::string& warning : plan.warnings) text += "warning: " + printable(warning) + "\n";
  for (const RecipeModifier& modifier : plan.recipe.modifiers) {
    const std::string profile = sparsity_profile(modifier);
    if (profile.empty()) continue;
    text += fmt::format(
        "note: {}: sparsity_profile {} is found by 'quant run'; until then every linear is planned with "
        "the average\n",
        modifier.type, profile);
  }
  for (const std::string& problem : plan.problems) text += "problem: " + printable(problem) + "\n";
  return text;
}

// A file that cannot be read is no mistake of the recipe.
ErrorCode problem_code(const Plan& plan) {
  const bool unreadable = plan.input_error != nullptr && plan.problems.size() == 1;
  return unreadable ? plan.input_error->code() : ErrorCode::recipe;
}

void throw_problems(const Plan& plan) {
  std::string message =
      fmt::format("the recipe cannot run on this model ({})", counted(plan.problems.size(), "problem"));
  for (const std::string& problem : plan.problems) message += "\n  - " + problem;
  if (const ErrorCode code = problem_code(plan); code != ErrorCode::recipe) {
    throw Error(code, plan.problems.front(), {}, plan.input_error->kind());
  }
  // The plan shows nothing of data and memory that the sentences do not say.
  const bool only_inputs = plan.input_problems >= plan.problems.size();
  throw Error(ErrorCode::recipe, message, only_inputs ? "" : "'quant plan' shows what the recipe would do",
              "PlanProblems");
}

}  // namespace quant::cli
