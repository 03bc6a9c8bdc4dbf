// The example model, plans of it, and a few of its tokens.
#pragma once

#include <memory>
#include <string>

#include "quant/open.h"
#include "quant/pipeline.h"
#include "quant/recipe_yaml.h"
#include "quant/sensitivity.h"
#include "quant/statistics_file.h"
#include "support/temp_dir.h"

namespace quant::test {

inline std::string example() { return std::string(QUANT_SOURCE_DIR) + "/examples/tiny-llama-novels"; }

inline const Registry& full_registry() {
  static const Registry filled = [] {
    Registry r;
    register_builtin_algorithms(r);
    register_builtin_formats(r);
    return r;
  }();
  return filled;
}

/// Symmetric integers in groups for some targets of the example model.
inline std::string recipe_text(const std::string& targets, int bits, int group) {
  return "quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      ignore: [lm_head]\n"
         "      config_groups:\n        group_0:\n          targets: [" +
         targets + "]\n          weights: {num_bits: " + std::to_string(bits) +
         ", type: int, symmetric: true, strategy: group, observer: minmax, group_size: " + std::to_string(group) +
         "}\n";
}

struct ExamplePlan {
  explicit ExamplePlan(const std::string& recipe)
      : checkpoint(open_checkpoint(example())),
        plan(make_plan(*checkpoint, parse_recipe(recipe, "test.yaml", {}, full_registry()), full_registry(), {})) {}
  std::unique_ptr<Checkpoint> checkpoint;
  Plan plan;
};

/// Every `step`-th window of `length` tokens of the evaluation text.
inline TokenSequences some_tokens(std::size_t count, std::uint64_t length) {
  static const Tokenizer tokenizer = Tokenizer::open(example());
  const EvalWindows read =
      read_windows(example() + "/evaluation.txt", &tokenizer, {.length = length, .count = count, .first = {}});
  TokenSequences sequences;
  sequences.sequences = read.windows;
  sequences.source = read.source;
  sequences.hash = read.hash;
  return sequences;
}

}  // namespace quant::test
