#include "sensitivity/profile_memory.h"

#include <algorithm>
#include <variant>
#include <vector>

#include "evaluate/eval_loop.h"
#include "evaluate/memory_plan.h"
#include "plan/pruning.h"

namespace quant::sensitivity {
namespace {

// Heap of the program, its libraries and the text.
constexpr std::uint64_t kBaseMemory = 9U << 20U;

// Sequences that pass a part together.
constexpr std::uint64_t kChunkTokens = 1024;

// The most floats of a token that are alive before a linear: values that it or later operations read.
std::uint64_t width_before_linears(const Program& program) {
  std::vector<std::size_t> last_read(program.values.size(), 0);
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    for (const ValueId id : inputs_of(program.ops[i])) last_read[static_cast<std::size_t>(id)] = i;
  }
  std::vector<ValueId> made;
  if (program.input >= 0) made.push_back(program.input);
  std::uint64_t most = 0;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    if (std::holds_alternative<LinearOp>(program.ops[i])) {
      std::uint64_t width = 0;
      for (const ValueId id : made) {
        const ProgramValue& value = program.values[static_cast<std::size_t>(id)];
        if (last_read[static_cast<std::size_t>(id)] >= i) width += value.width * value.rows_per_token;
      }
      most = std::max(most, width);
    }
    made.push_back(output_of(program.ops[i]));
  }
  return most;
}

// One part of the model at a time, beside the one where the original's values are.
std::uint64_t memory_of_model(const ModelProgram& program, const ProfileWork& work) {
  std::uint64_t weights = 0, loading = 0, per_token = 0, waiting = 0;
  for (const Program& block : program.blocks) {
    const evaluate::PartMemory memory = evaluate::memory_of(block, work.product);
    weights = std::max(weights, memory.weights);
    loading = std::max(loading, memory.loading);
    per_token = std::max(per_token, memory.per_token);
    waiting = std::max(waiting, width_before_linears(block) * sizeof(float));
  }
  const std::uint64_t values = work.tokens * waiting, chunk = std::min(work.tokens, kChunkTokens) * per_token;
  if (!work.errors) return weights + loading + values + chunk;
  const evaluate::PartMemory head = evaluate::memory_of(program.head, work.product);
  const std::uint64_t rows = std::min(work.tokens, evaluate::logit_rows(program.vocabulary));
  // The original's head and the changed model's; values and logits of both; the original's last states.
  return 2 * weights + 2 * head.weights + std::max(loading, head.loading) + 2 * values + chunk +
         2 * rows * program.vocabulary * sizeof(float) + work.tokens * program.hidden * sizeof(float);
}

// Statistics of one linear's inputs, and its weight as it was, pruned, and as it differs.
std::uint64_t memory_of_linear(const PlannedLinear& linear, const ProfileWork& work,
                               const std::vector<ModifierAlgorithm>& algorithms) {
  const std::uint64_t cols = linear.shape.cols, weights = linear.shape.rows * cols;
  std::uint64_t waiting = GramAccumulator::waiting_bytes(cols, work.product, false, 0);
  const std::uint64_t gram = cols * cols * sizeof(float);
  const std::uint64_t pruning =
      2 * sizeof(float) * weights + weights + pruning_scratch(linear, algorithms, work.threads);
  return gram + std::max({waiting, pruning, 3 * sizeof(float) * weights});
}

}  // namespace

std::uint64_t profile_memory(const Plan& plan, const ModelProgram& program, const ProfileWork& work) {
  const auto algorithms = create_algorithms(plan.recipe, *plan.registry);
  std::uint64_t linears = 0;
  std::uint64_t layer = 0;  // scores of one layer, as many as its weights
  std::size_t part = 0;
  for (const Item& item : work.items) {
    if (item.part != part) layer = 0;
    part = item.part;
    for (const std::size_t i : item.linears) {
      const PlannedLinear& linear = plan.linears[i];
      layer += linear.shape.rows * linear.shape.cols * sizeof(float);
      linears = std::max(linears, work.errors ? memory_of_linear(linear, work, algorithms) : layer);
    }
  }
  return kBaseMemory + memory_of_model(program, work) + linears;
}

}  // namespace quant::sensitivity
