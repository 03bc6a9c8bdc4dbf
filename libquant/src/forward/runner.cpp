// The public face of the forward pass.
#include <fmt/format.h>

#include <algorithm>

#include "forward/execution.h"
#include "quant/error.h"
#include "quant/forward.h"

namespace quant {

struct ProgramRunner::State : forward::RunnerState {
  using forward::RunnerState::RunnerState;
};

std::uint64_t Batch::tokens() const {
  std::uint64_t total = 0;
  for (const std::uint64_t length : lengths) total = checked_add(total, length, "tokens of a batch");
  return total;
}

ProgramRunner::ProgramRunner(const Program& program, const ModelWeights& weights, const ForwardOptions& options)
    : state_(std::make_unique<State>(program, weights, options)) {}
ProgramRunner::~ProgramRunner() = default;
ProgramRunner::ProgramRunner(ProgramRunner&&) noexcept = default;

const Program& ProgramRunner::program() const { return state_->program; }

namespace {

void check_range(const Program& program, std::size_t first, std::size_t last) {
  if (first <= last && last <= program.ops.size()) return;
  throw Error(ErrorCode::internal,
              fmt::format("operations {} to {} of {}, which has {}", first, last, program.name, program.ops.size()));
}

}  // namespace

void ProgramRunner::run(std::size_t first, std::size_t last, const Batch& batch, Values& values,
                        std::span<const ValueId> keep, KvCache* cache) {
  check_range(state_->program, first, last);
  forward::KvLayers* layers = cache == nullptr ? nullptr : &cache->state_->layers;
  forward::Execution(*state_, batch, values, keep, layers).run(first, last);
}

std::vector<std::uint64_t> ProgramRunner::expert_rows(const Program&, const LinearOp& op, const Values& values,
                                                      std::uint64_t tokens, bool all_experts) {
  if (op.routing < 0) throw Error(ErrorCode::internal, "rows per expert of a linear without experts");
  return forward::index_routes(values.at(op.routing), tokens, op.weights.size(), all_experts).offsets;
}

void ProgramRunner::prepare(std::size_t first, std::size_t last) {
  check_range(state_->program, first, last);
  for (std::size_t op = first; op < last; ++op) state_->prepare(op);
}

void ProgramRunner::release(std::size_t first, std::size_t last) {
  check_range(state_->program, first, last);
  for (std::size_t op = first; op < last; ++op) state_->prepared[op] = {};
}

std::uint64_t ProgramRunner::prepared_bytes() const {
  std::uint64_t total = 0;
  for (const forward::PreparedOp& op : state_->prepared) total += op.bytes();
  return total;
}

void ProgramRunner::set_input_quantizer(std::string_view module, const InputQuantizer& quantizer) {
  state_->input_quantizers.insert_or_assign(std::string(module), quantizer);
}

void ProgramRunner::set_kv_quantizer(const KvQuantizer& quantizer) {
  forward::check_kv_quantizer(quantizer);
  state_->kv_quantizer = quantizer;
}

void ProgramRunner::observe_kv(
    std::function<void(std::span<const float> keys, std::span<const float> values)> observer) {
  state_->kv_observer = std::move(observer);
}

}  // namespace quant
