#include "plan_request.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <string_view>

#include "quant/error.h"
#include "quant/kernels.h"
#include "quant/names.h"
#include "quant/open.h"
#include "quant/sparsity_profile.h"
#include "ready_recipes.h"
#include "units.h"

namespace quant::cli {

namespace {

void add_calibration_options(CLI::App& command, PlanRequest& request);

}  // namespace

void add_plan_options(CLI::App& command, PlanRequest& request) {
  command.add_option("RECIPE", request.recipe, "Recipe file, or the name of a ready recipe ('quant recipes')")
      ->required();
  command.add_option("--model", request.model, "Checkpoint to compress: directory, .safetensors or .h5 file")
      ->type_name("DIR");
  command.add_option("--set", request.set, "Value of a variable of the recipe; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  command
      .add_option("--layout", request.layout,
                  "Layout of the output; auto: the first that can hold the recipe's schemes")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_option("--shard-size", request.shard_size, "Largest size of an output file")
      ->type_name("SIZE")
      ->capture_default_str();
  command.add_option("--memory", request.memory, "Memory that may be used, as in 8G; no limit by default")
      ->type_name("SIZE");
  command
      .add_option("--sensitivities", request.sensitivities,
                  "How much the error of each weight counts: safetensors with the names of the weights")
      ->type_name("FILE");
  add_threads_option(command, request.threads);
  command.add_flag("--strict", request.strict, "Treat warnings, such as a target that matches nothing, as errors");
  add_calibration_options(command, request);
}

namespace {

void add_calibration_options(CLI::App& command, PlanRequest& request) {
  const char* group = "Calibration";
  CLI::Option* text = command
                          .add_option("--calibration", request.calibration,
                                      "Text that the model is run on: .txt, .jsonl, or token ids in .npy or .h5")
                          ->type_name("FILE")
                          ->group(group);
  command
      .add_option("--statistics", request.statistics,
                  "Statistics of an earlier run's --save-statistics, instead of text; the model is not run")
      ->type_name("FILE")
      ->excludes(text)
      ->group(group);
  command.add_option("--samples", request.samples, "Sequences to take; 0: all")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  command.add_option("--seq-len", request.seq_len, "Tokens per sequence")
      ->type_name("N")
      ->capture_default_str()
      ->check(CLI::Range(2, 10'000'000))
      ->group(group);
  command.add_flag("--shuffle", request.shuffle, "Take sequences at random instead of the first ones")->group(group);
  command.add_option("--seed", request.seed, "Seed of --shuffle")->type_name("N")->capture_default_str()->group(group);
  command.add_flag("--no-pack", request.no_pack, "One sequence per document instead of joining and cutting them")
      ->group(group);
  command.add_flag("--no-special", request.no_special, "Do not begin documents with the tokenizer's special tokens")
      ->group(group);
  add_chat_template_option(command, request.chat_template)->group(group);
  command.add_flag("--all-experts", request.all_experts, "Let every expert see every token")->group(group);
  command
      .add_flag("--unquantized-inputs", request.unquantized_inputs,
                "Linears learn from the inputs of the unquantized model, not of what was coded before them")
      ->group(group);
  command.add_option("--product", request.product, "Operands of matrix products; by default the fastest here")
      ->check(CLI::IsMember({"f32", "bf16"}))
      ->group(group);
  command
      .add_option("--activation-memory", request.activation_memory,
                  "Activations held in memory, as in 2G; the rest goes to disk")
      ->type_name("SIZE")
      ->group(group);
}

CalibrationRequest calibration_request(const PlanRequest& request) {
  CalibrationRequest calibration;
  calibration.file = request.calibration;
  calibration.statistics = request.statistics;
  calibration.save_statistics = request.save_statistics;
  calibration.unquantized_inputs = request.unquantized_inputs;
  calibration.block_errors = request.block_errors;
  calibration.data.samples = request.samples;
  calibration.data.seq_len = request.seq_len;
  calibration.data.pack = !request.no_pack;
  calibration.data.special = !request.no_special;
  calibration.data.shuffle = request.shuffle;
  calibration.data.seed = request.seed;
  calibration.data.chat = read_chat_template(request.chat_template, {request.calibration, request.evaluation});
  calibration.all_experts = request.all_experts;
  if (!request.product.empty()) {
    calibration.product = request.product == "bf16" ? ProductType::bf16 : ProductType::f32;
  }
  if (!request.activation_memory.empty()) {
    calibration.activation_bytes = parse_size(request.activation_memory, "--activation-memory");
  }
  return calibration;
}

}  // namespace

CLI::Option* add_chat_template_option(CLI::App& command, std::string& file) {
  return command
      .add_option("--chat-template", file, "JSON file that says how \"messages\" become text (docs/calibration.md)")
      ->type_name("FILE");
}

namespace {

/// Whether the bytes `"messages"` are anywhere in the file: within a string the second quote would be escaped. What
/// cannot be read is left to whoever reads it in full.
bool may_have_messages(const std::string& file) {
  constexpr std::string_view kKey = "\"messages\"";
  std::ifstream in(file, std::ios::binary);
  if (!in) return true;
  std::string window;
  std::vector<char> buffer(1U << 20U);
  while (in.read(buffer.data(), static_cast<std::streamsize>(buffer.size())) || in.gcount() > 0) {
    window.append(buffer.data(), static_cast<std::size_t>(in.gcount()));
    if (window.find(kKey) != std::string::npos) return true;
    window.erase(0, window.size() - std::min(window.size(), kKey.size() - 1));
  }
  return in.bad();
}

}  // namespace

ChatTemplate read_chat_template(const std::string& file, const std::vector<std::string>& data) {
  if (file.empty()) return {};
  const auto holds_conversations = [](const std::string& name) {
    std::string extension = std::filesystem::path(name).extension().string();
    std::transform(extension.begin(), extension.end(), extension.begin(),
                   [](unsigned char c) { return std::tolower(c); });
    return extension == ".jsonl" || extension == ".json";
  };
  const auto refuse = [](const std::string& what) {
    throw Error(ErrorCode::usage, "--chat-template is for conversations: " + what,
                "leave it out, or give JSON lines with \"messages\"", "NoConversations");
  };
  std::vector<std::string> files;
  std::copy_if(data.begin(), data.end(), std::back_inserter(files), holds_conversations);
  if (files.empty()) refuse("no .jsonl or .json file of them was given");
  if (std::none_of(files.begin(), files.end(), may_have_messages)) {
    refuse(fmt::format("no object in {} has \"messages\"", fmt::join(files, " or ")));
  }
  return ChatTemplate::read(file);
}

RecipeVariables parse_variables(const std::vector<std::string>& assignments) {
  RecipeVariables variables;
  for (const std::string& assignment : assignments) {
    const std::size_t equals = assignment.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorCode::usage, fmt::format("--set: '{}' is not NAME=VALUE", assignment),
                  "as in --set group_size=64");
    }
    variables[assignment.substr(0, equals)] = assignment.substr(equals + 1);
  }
  return variables;
}

namespace {

void check_layout(const std::string& name, const Registry& registry) {
  std::vector<std::string> names{std::string(kAutomaticLayout)};
  for (const auto& layout : registry.layouts()) names.emplace_back(layout->name());
  if (std::find(names.begin(), names.end(), name) != names.end()) return;
  const std::string nearest = nearest_name(name, names);
  throw Error(ErrorCode::usage, fmt::format("--layout: there is no layout '{}'", name),
              fmt::format("{}there are {}", nearest.empty() ? "" : fmt::format("did you mean '{}'? ", nearest),
                          fmt::join(names, ", ")),
              "UnknownLayout");
}

}  // namespace

PlanOptions plan_options(const PlanRequest& request) {
  PlanOptions options;
  options.layout = request.layout;
  options.shard_bytes = parse_size(request.shard_size, "--shard-size");
  options.memory_bytes = request.memory.empty() ? 0 : parse_size(request.memory, "--memory");
  options.threads = request.threads;
  options.calibration = calibration_request(request);
  return options;
}

PreparedPlan prepare_plan(const PlanRequest& request, const Registry& registry, const std::string& command) {
  if (request.model.empty()) {
    throw Error(ErrorCode::usage, fmt::format("quant {} needs --model DIR: the checkpoint to compress", command),
                fmt::format("try the example model: quant {} {} --model examples/tiny-llama-novels{}", command,
                            request.recipe, command == "run" ? " --output tiny-quantized" : ""),
                "NoModel");
  }
  check_layout(request.layout, registry);
  kernels();  // refuses a QUANT_ISA that this machine does not have as what it is, not as a problem of the recipe
  PlanOptions options = plan_options(request);
  const RecipeVariables variables = parse_variables(request.set);

  PreparedPlan prepared;
  prepared.recipe_file = find_recipe(request.recipe);
  spdlog::debug("recipe {}", prepared.recipe_file.string());
  const Recipe recipe = load_recipe(prepared.recipe_file, variables, registry);
  prepared.checkpoint = open_checkpoint(request.model);
  spdlog::debug("opened {}: {} tensors", request.model, prepared.checkpoint->tensors().size());
  if (!request.sensitivities.empty()) {
    prepared.sensitivities = open_checkpoint(request.sensitivities);
    options.sensitivities = prepared.sensitivities.get();
  }
  prepared.plan = make_plan(*prepared.checkpoint, recipe, registry, options);
  for (const RecipeModifier& modifier : prepared.plan.recipe.modifiers) {
    const std::string profile = sparsity_profile(modifier);
    if (profile.empty() || !profile_needs_data(profile) || !request.calibration.empty()) continue;
    prepared.plan.problems.push_back(
        fmt::format("{}: sparsity_profile {} is found by running the model on text: give --calibration FILE",
                    modifier.where.to_string(), profile));
  }
  if (request.strict) {
    Plan& plan = prepared.plan;
    plan.problems.insert(plan.problems.end(), plan.warnings.begin(), plan.warnings.end());
    plan.warnings.clear();
  }
  return prepared;
}

}  // namespace quant::cli
