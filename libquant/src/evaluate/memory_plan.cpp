#include "evaluate/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "evaluate/eval_loop.h"
#include "packed/packed_bytes.h"
#include "quant/error.h"

namespace quant::evaluate {
namespace {

// So many tokens fill the processor in one product; fewer read the weights too often, more take memory for nothing.
constexpr std::uint64_t kChunkTokens = 1024;
// Heap of the program, its libraries (oneDNN's kernels too), tokenizer and text, measured.
constexpr std::uint64_t kBaseMemory = 9U << 20U;

std::uint64_t bytes_per_weight(ProductType product) { return product == ProductType::bf16 ? 2 : 4; }

std::uint64_t width_of(const Program& program, ValueId id) {
  const ProgramValue& value = program.values[static_cast<std::size_t>(id)];
  return value.width * std::max<std::uint64_t>(1, value.rows_per_token);
}

/// Floats per token that are alive at once when values are freed after their last reader.
std::uint64_t widest_moment(const Program& program) {
  std::vector<std::size_t> last_read(program.values.size(), 0);
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    for (const ValueId id : inputs_of(program.ops[i])) last_read[static_cast<std::size_t>(id)] = i;
  }
  std::uint64_t alive = program.input >= 0 ? width_of(program, program.input) : 0;
  std::uint64_t most = alive;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    alive += width_of(program, output_of(program.ops[i]));
    most = std::max(most, alive);
    std::vector<ValueId> inputs = inputs_of(program.ops[i]);
    std::sort(inputs.begin(), inputs.end());
    inputs.erase(std::unique(inputs.begin(), inputs.end()), inputs.end());
    for (const ValueId id : inputs) {
      if (last_read[static_cast<std::size_t>(id)] == i) alive -= std::min(alive, width_of(program, id));
    }
  }
  return most;
}

/// All parts of a model in two sums: everything at once, and the largest part alone.
struct ModelMemory {
  std::uint64_t all_weights = 0;
  std::uint64_t largest_part = 0;
  std::uint64_t loading = 0;
  std::uint64_t per_token = 0;

  void add(const PartMemory& part) {
    all_weights += part.weights;
    largest_part = std::max(largest_part, part.weights);
    loading = std::max(loading, part.loading);
    per_token = std::max(per_token, part.per_token);
  }
};

struct WeightMemory {
  std::uint64_t prepared = 0;
  std::uint64_t loading = 0;
};

WeightMemory memory_of_weight(const LinearWeight& weight, ProductType product, const ModelWeights* packed) {
  const std::uint64_t values = weight.rows * weight.cols;
  const StoredLinear* stored = packed == nullptr ? nullptr : packed->stored_linear(weight);
  if (stored != nullptr) {
    const auto bytes = packed::packed_bytes(stored->args, stored->scale_dtype, weight.rows, weight.cols);
    // Slices that are read in parallel, and the matrix that is joined from them.
    if (bytes) return {*bytes, 2 * packed::unpacked_codes_bytes(stored->args, weight.rows, weight.cols)};
  }
  return {values * bytes_per_weight(product), values * sizeof(float)};
}

}  // namespace

PartMemory memory_of(const Program& program, ProductType product, const ModelWeights* packed) {
  PartMemory part;
  for (const Op& op : program.ops) {
    // Norms are small, and of embeddings only the rows of the batch are read.
    const auto* linear = std::get_if<LinearOp>(&op);
    if (linear == nullptr) continue;
    for (const LinearWeight& weight : linear->weights) {
      const WeightMemory memory = memory_of_weight(weight, product, packed);
      part.weights += memory.prepared;
      part.loading = std::max(part.loading, memory.loading);
    }
  }
  part.per_token = widest_moment(program) * sizeof(float);
  return part;
}

MemoryPlan plan_memory(const ModelProgram& program, const ModelWeights& weights, const LanguageModelOptions& options,
                       std::uint64_t longest, std::uint64_t tokens) {
  const PartMemory head = memory_of(program.head, options.product, &weights);
  ModelMemory memory;
  memory.add(memory_of(program.embeddings, options.product, &weights));
  for (const Program& block : program.blocks) memory.add(memory_of(block, options.product, &weights));
  ModelMemory with_head = memory;
  with_head.add({head.weights, head.loading, 0});

  const std::uint64_t rows = std::min(tokens, logit_rows(program.vocabulary));
  const auto scratch = static_cast<std::uint64_t>(thread_count(options.threads)) * program.vocabulary * sizeof(double);
  const std::uint64_t logits = rows * program.vocabulary * sizeof(float) + rows * head.per_token + scratch;
  MemoryPlan plan;
  plan.chunk_tokens = std::min(tokens, std::max(longest, kChunkTokens));
  const std::uint64_t base = kBaseMemory / static_cast<std::uint64_t>(std::max(1, options.models));
  const auto others = [&] { return base + with_head.loading + std::max(logits, plan.chunk_tokens * memory.per_token); };
  const std::uint64_t state = program.hidden * sizeof(float);
  plan.weight_bytes = with_head.all_weights;
  plan.group_tokens = tokens;
  plan.bytes = plan.weight_bytes + others() + tokens * state;
  if (options.memory == 0 || plan.bytes <= options.memory) return plan;

  // All weights and a part of the states, or one block and as many states as fit.
  for (const bool resident : {true, false}) {
    plan.resident = resident;
    plan.weight_bytes = resident ? with_head.all_weights : with_head.largest_part;
    if (!resident) plan.chunk_tokens = std::min(tokens, longest);
    const std::uint64_t fixed = plan.weight_bytes + others();
    plan.bytes = fixed + longest * state;
    if (plan.bytes > options.memory) continue;
    plan.group_tokens = std::min(tokens, (options.memory - fixed) / state);
    plan.bytes = fixed + plan.group_tokens * state;
    return plan;
  }
  const double shared = std::max(1, options.models);
  throw Error(
      ErrorCode::usage,
      fmt::format("a memory limit of {:.1f} MB{} is too small: at least {:.1f} MB are needed for sequences of {} "
                  "tokens",
                  shared * static_cast<double>(options.memory) / 1e6,
                  options.models > 1 ? fmt::format(" for {} models", options.models) : "",
                  shared * (static_cast<double>(plan.bytes) / 1e6 + 0.1), longest),
      "allow more with --memory, or take shorter windows with --seq-len", "MemoryTooSmall");
}

}  // namespace quant::evaluate
