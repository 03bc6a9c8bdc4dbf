// The options that `plan` and `run` share, and the plan that they ask for.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "quant/plan.h"
#include "quant/recipe_yaml.h"
#include "session.h"

namespace quant::cli {

struct PlanRequest {
  std::string recipe;
  std::string model;
  std::vector<std::string> set;
  std::string layout = std::string(kAutomaticLayout);
  std::string shard_size = "5G";
  std::string memory;
  int threads = 0;
  std::string calibration;
  std::uint64_t samples = 0;
  std::uint64_t seq_len = 512;
  std::uint64_t seed = 0;
  bool shuffle = false;
  bool no_pack = false;
  bool no_special = false;
  std::string chat_template;
  std::string evaluation;  ///< text of --eval, which the chat template is for as well
  bool all_experts = false;
  std::string product;
  std::string activation_memory;
  std::string statistics;
  std::string sensitivities;
  bool unquantized_inputs = false;
  bool block_errors = false;    ///< of `run` only
  std::string save_statistics;  ///< of `run` only
  bool strict = false;
};

void add_plan_options(CLI::App& command, PlanRequest& request);

/// --chat-template, for commands that read conversations.
CLI::Option* add_chat_template_option(CLI::App& command, std::string& file);
/// The template in `file`, or the default one if it is empty. Throws Error{usage} unless one of `data` is a file of
/// conversations (.jsonl, .json, with "messages" in it; empty names do not count), and as ChatTemplate::read.
ChatTemplate read_chat_template(const std::string& file, const std::vector<std::string>& data);

/// The options that do not depend on recipe and model.
PlanOptions plan_options(const PlanRequest& request);

/// A plan and the checkpoint that it points into.
struct PreparedPlan {
  std::filesystem::path recipe_file;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Checkpoint> sensitivities;  ///< null without --sensitivities
  Plan plan;
};
/// Problems of the plan are left in it; with `strict` its warnings are problems too. Throws for a recipe that cannot be
/// read and a model that cannot be opened.
PreparedPlan prepare_plan(const PlanRequest& request, const Registry& registry, const std::string& command);

/// "name=value" pairs. Throws Error{usage}.
RecipeVariables parse_variables(const std::vector<std::string>& assignments);

}  // namespace quant::cli
