#include "forward/execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "forward/attention.h"
#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant::forward {

RunnerState::RunnerState(const Program& its_program, const ModelWeights& its_weights, const ForwardOptions& its_options)
    : program(its_program),
      weights(its_weights),
      options(its_options),
      last_reader(program.values.size(), 0),
      prepared(program.ops.size()) {
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    for (const ValueId id : inputs_of(program.ops[i])) last_reader.at(static_cast<std::size_t>(id)) = i + 1;
  }
}

const PreparedOp& RunnerState::prepare(std::size_t op) {
  if (!prepared[op].ready) prepared[op] = prepare_op(program.ops[op], weights, options);
  return prepared[op];
}

std::vector<float> BufferPool::take(std::uint64_t size) {
  auto best = free_.end();
  for (auto at = free_.begin(); at != free_.end(); ++at) {
    const bool fits = at->capacity() >= size && at->capacity() - size <= size / 4;
    if (fits && (best == free_.end() || at->capacity() < best->capacity())) best = at;
  }
  if (best == free_.end()) {
    free_.clear();  // memory stays that of the values in use
    return std::vector<float>(size);
  }
  std::vector<float> buffer = std::move(*best);
  free_.erase(best);
  buffer.resize(size);
  return buffer;
}

void BufferPool::give(std::vector<float> buffer) {
  if (buffer.capacity() > 0) free_.push_back(std::move(buffer));
}

Execution::Execution(RunnerState& state, const Batch& batch, Values& values, std::span<const ValueId> keep,
                     KvLayers* cache)
    : state_(state),
      batch_(batch),
      values_(values),
      cache_(cache),
      threads_(state.options.threads),
      kept_(state.program.values.size(), 0) {
  for (const ValueId id : keep) kept_.at(static_cast<std::size_t>(id)) = 1;
  if (state.program.output >= 0) kept_.at(static_cast<std::size_t>(state.program.output)) = 1;
  locate_sequences(batch);
}

// Where the first new token of the cached sequence lies for this program.
std::uint64_t Execution::cached_position() const {
  for (const Op& op : state_.program.ops) {
    const auto* attention = std::get_if<AttentionOp>(&op);
    if (attention == nullptr) continue;
    const auto found = cache_->find(attention->module);
    return found == cache_->end() ? 0 : found->second.tokens;
  }
  return cached_tokens(*cache_);
}

void Execution::locate_sequences(const Batch& batch) {
  if (!batch.first_position.empty() && batch.first_position.size() != batch.lengths.size()) {
    throw Error(ErrorCode::usage, fmt::format("a batch of {} sequences has {} first positions", batch.lengths.size(),
                                              batch.first_position.size()));
  }
  if (cache_ != nullptr && batch.lengths.size() != 1) {
    throw Error(ErrorCode::usage, fmt::format("{} sequences cannot share a cache", batch.lengths.size()),
                "decode one sequence at a time");
  }
  const std::uint64_t start = cache_ == nullptr ? 0 : cached_position();
  for (std::size_t i = 0; i < batch.lengths.size(); ++i) {
    const std::uint64_t position = batch.first_position.empty() ? start : batch.first_position[i];
    if (batch.lengths[i] > 0) sequences_.push_back({tokens_, batch.lengths[i], position});
    tokens_ = checked_add(tokens_, batch.lengths[i], "tokens of a batch");
  }
  if (tokens_ == 0) throw Error(ErrorCode::usage, "a batch without tokens");
}

void Execution::run(std::size_t first, std::size_t last) {
  for (current_ = first; current_ < last; ++current_) {
    const Op& op = state_.program.ops[current_];
    std::visit([&](const auto& one) { execute(one); }, op);
    release_inputs(op);
  }
  for (std::size_t id = 0; id < kept_.size(); ++id) {
    if (kept_[id] == 0 && state_.last_reader[id] <= last) std::vector<float>().swap(values_.at(static_cast<int>(id)));
  }
}

std::uint64_t Execution::width(ValueId id) const {
  return state_.program.values.at(static_cast<std::size_t>(id)).width;
}
const std::string& Execution::name(ValueId id) const {
  return state_.program.values.at(static_cast<std::size_t>(id)).name;
}

ConstFloats Execution::input(ValueId id) const {
  const std::vector<float>& value = values_.at(id);
  if (!value.empty() && value.size() % width(id) == 0) return value;
  throw Error(ErrorCode::internal, fmt::format("operation {} of {} reads '{}', which has {} values for rows of {}",
                                               current_, state_.program.name, name(id), value.size(), width(id)));
}

ConstFloats Execution::token_input(ValueId id) const {
  const ConstFloats value = input(id);
  if (value.size() == tokens_ * width(id)) return value;
  throw Error(ErrorCode::internal,
              fmt::format("operation {} of {} reads '{}', which has {} rows for {} tokens", current_,
                          state_.program.name, name(id), value.size() / width(id), tokens_));
}

Floats Execution::output(ValueId id, std::uint64_t rows) {
  values_.at(id) = pool_.take(checked_mul(rows, width(id), name(id)));
  return values_.at(id);
}

Floats Execution::output_over(ValueId id, ValueId in) {
  if (width(id) != width(in)) {
    throw Error(ErrorCode::internal,
                fmt::format("'{}' has {} columns and '{}' {}", name(in), width(in), name(id), width(id)));
  }
  if (!dies(in)) return output(id, values_.at(in).size() / width(in));
  values_.at(id) = std::exchange(values_.at(in), {});
  return values_.at(id);
}

void Execution::same_size(ValueId a, ValueId b) const {
  if (values_.at(a).size() == values_.at(b).size()) return;
  throw Error(ErrorCode::internal, fmt::format("'{}' has {} values and '{}' {}", name(a), values_.at(a).size(), name(b),
                                               values_.at(b).size()));
}

bool Execution::dies(ValueId id) const {
  const auto at = static_cast<std::size_t>(id);
  return kept_[at] == 0 && state_.last_reader[at] == current_ + 1;
}

void Execution::release_inputs(const Op& op) {
  for (const ValueId id : inputs_of(op)) {
    if (!dies(id)) continue;
    pool_.give(std::exchange(values_.at(id), {}));
    if (id == quantized_.id) {
      pool_.give(std::exchange(quantized_.values, {}));
      quantized_.id = -1;
    }
  }
}

void Execution::execute(const NormOp& op) {
  const PreparedOp& prepared = state_.prepare(current_);
  const ConstFloats in = input(op.in);
  normalize(op, prepared.weight, prepared.bias, in, width(op.in), output_over(op.out, op.in), threads_);
}

void Execution::execute(const SliceOp& op) {
  const ConstFloats in = input(op.in);
  const bool fits = op.repeat > 0 && op.first + (op.repeat - 1) * op.stride + op.width <= width(op.in) &&
                    op.width * op.repeat == width(op.out);
  if (!fits) {
    throw Error(ErrorCode::internal, fmt::format("'{}' is no slice of '{}'", name(op.out), name(op.in)));
  }
  slice(op, in, width(op.in), output(op.out, in.size() / width(op.in)), threads_);
}

void Execution::execute(const RotaryOp& op) {
  const ConstFloats in = token_input(op.in);
  if (op.heads * op.head_dim != width(op.in)) {
    throw Error(ErrorCode::internal, fmt::format("'{}' has {} columns for {} heads of {}", name(op.in), width(op.in),
                                                 op.heads, op.head_dim));
  }
  state_.rotary.rotate(op, sequences_, in, output_over(op.out, op.in), threads_);
}

void Execution::execute(const ActivationOp& op) {
  const ConstFloats in = input(op.in);
  activate(op.function, in, output_over(op.out, op.in), threads_);
}

void Execution::execute(const MultiplyOp& op) {
  const ConstFloats a = input(op.a), b = input(op.b);
  const std::uint64_t columns = width(op.a);
  if (width(op.b) != 1 || b.size() != a.size() / columns) same_size(op.a, op.b);
  const bool over_b = a.size() == b.size() && !dies(op.a);
  multiply(a, b, columns, output_over(op.out, over_b ? op.b : op.a), threads_);
}

void Execution::execute(const AddOp& op) {
  const ConstFloats a = input(op.a), b = input(op.b);
  same_size(op.a, op.b);
  add(a, b, output_over(op.out, dies(op.a) ? op.a : op.b), threads_);
}

void Execution::execute(const ScaleOp& op) {
  const ConstFloats in = input(op.in);
  scale(op.factor, in, output_over(op.out, op.in), threads_);
}

void Execution::execute(const SoftcapOp& op) {
  const ConstFloats in = input(op.in);
  softcap(op.cap, in, output_over(op.out, op.in), threads_);
}

void Execution::execute(const RouteOp& op) {
  const ConstFloats logits = token_input(op.logits);
  if (width(op.logits) != op.experts || width(op.out) != 2 * op.top_k) {
    throw Error(ErrorCode::internal,
                fmt::format("'{}' does not fit {} of {} experts", name(op.out), op.top_k, op.experts));
  }
  route(op, logits, output(op.out, tokens_), threads_);
}

const RouteIndex& Execution::routes(ValueId routing) {
  const auto found = routes_.find(routing);
  if (found != routes_.end()) return found->second;
  for (const Op& op : state_.program.ops) {
    const auto* route = std::get_if<RouteOp>(&op);
    if (route == nullptr || route->out != routing) continue;
    return routes_[routing] = index_routes(token_input(routing), tokens_, route->experts, state_.options.all_experts);
  }
  throw Error(ErrorCode::internal, fmt::format("'{}' is made by no routing operation", name(routing)));
}

void Execution::execute(const GatherOp& op) {
  const ConstFloats in = token_input(op.in);
  const RouteIndex& index = routes(op.routing);
  gather(index, in, width(op.in), output(op.out, index.tokens.size()), threads_);
}

void Execution::execute(const CombineOp& op) {
  const ConstFloats in = input(op.in);
  const RouteIndex& index = routes(op.routing);
  if (in.size() != index.tokens.size() * width(op.in)) {
    throw Error(ErrorCode::internal, fmt::format("'{}' has {} rows for {} choices", name(op.in),
                                                 in.size() / width(op.in), index.tokens.size()));
  }
  combine(index, token_input(op.routing), in, width(op.in), output(op.out, tokens_), threads_);
}

namespace {

// Rows of the table for each token of the batch.
std::vector<std::uint64_t> embedding_rows(const EmbeddingOp& op, const Sequences& sequences,
                                          std::span<const std::int32_t> ids, std::uint64_t tokens, std::uint64_t rows) {
  std::vector<std::uint64_t> out(tokens, 0);
  const bool by_token = op.index == EmbeddingOp::Index::token;
  if (by_token && ids.size() != tokens) {
    throw Error(ErrorCode::usage, fmt::format("{} token ids for {} tokens", ids.size(), tokens));
  }
  for (const Sequence& s : sequences) {
    for (std::uint64_t i = 0; i < s.tokens && op.index != EmbeddingOp::Index::zero; ++i) {
      const std::int64_t row = by_token ? ids[s.first + i] : static_cast<std::int64_t>(s.position + i) + op.offset;
      if (row < 0 || static_cast<std::uint64_t>(row) >= rows) {
        throw Error(ErrorCode::usage,
                    fmt::format("{} {} lies outside '{}', which has {} rows", by_token ? "token id" : "position", row,
                                op.weight, rows),
                    by_token ? "use the model's own tokenizer" : "use shorter sequences");
      }
      out[s.first + i] = static_cast<std::uint64_t>(row);
    }
  }
  return out;
}

}  // namespace

void Execution::execute(const EmbeddingOp& op) {
  const LogicalTensor* table = state_.weights.tensors().find(op.weight);
  if (table == nullptr || table->cols != width(op.out)) {
    throw Error(ErrorCode::corrupt_file, fmt::format("'{}' is no table of rows of {}", op.weight, width(op.out)),
                "config.json and the tensors do not fit together", "WeightShape");
  }
  const auto rows = embedding_rows(op, sequences_, batch_.ids, tokens_, table->rows);
  const std::uint64_t columns = table->cols;
  const Floats out = output(op.out, tokens_);
  linalg::for_tasks(threads_, tokens_, [&](std::size_t t) {
    const Floats row = out.subspan(t * columns, columns);
    state_.weights.read_rows(op.weight, rows[t], 1, row);
    if (op.factor != 1.0F) {
      for (float& value : row) value *= op.factor;
    }
  });
  // A page fault brings a row's neighbours too: after some texts that would be the whole table.
  if (tokens_ > 1) state_.weights.tensors().done_reading(*table);
}

std::vector<AttentionSequence> Execution::attention_sequences(const AttentionOp& op, std::vector<KvLayer>& layers) {
  const ConstFloats k = token_input(op.k), v = token_input(op.v);
  const std::uint64_t k_width = width(op.k), v_width = width(op.v);
  const bool quantized = state_.kv_quantizer.has_value();
  layers.resize(quantized && cache_ == nullptr ? sequences_.size() : 0);
  std::vector<AttentionSequence> out;
  for (std::size_t i = 0; i < sequences_.size(); ++i) {
    const Sequence& s = sequences_[i];
    const float* keys = k.data() + s.first * k_width;
    const float* values = v.data() + s.first * v_width;
    if (!quantized && cache_ == nullptr) {
      out.push_back({s.first, s.tokens, s.tokens, {keys}, {values}});
      continue;
    }
    KvLayer& layer = cache_ != nullptr ? (*cache_)[op.module] : layers[i];
    if (cache_ != nullptr && s.position != layer.tokens) {
      throw Error(ErrorCode::usage,
                  fmt::format("position {} does not follow the {} tokens that the cache of '{}' holds", s.position,
                              layer.tokens, op.module));
    }
    append(layer.keys, {keys, s.tokens * k_width}, k_width, op.kv_heads, state_.kv_quantizer, KvSide::keys, threads_);
    append(layer.values, {values, s.tokens * v_width}, v_width, op.kv_heads, state_.kv_quantizer, KvSide::values,
           threads_);
    layer.tokens += s.tokens;
    const auto view = [&](const KvRows& rows, KvSide side) {
      if (!quantized) return KvView{rows.plain.data()};
      return KvView{rows.plain.data(), rows.quantized.data(), quantized_prefix(*state_.kv_quantizer, side)};
    };
    out.push_back(
        {s.first, s.tokens, layer.tokens, view(layer.keys, KvSide::keys), view(layer.values, KvSide::values)});
  }
  return out;
}

void Execution::execute(const AttentionOp& op) {
  const bool fits = op.kv_heads > 0 && op.heads % op.kv_heads == 0 && width(op.q) == op.heads * op.head_dim &&
                    width(op.k) == op.kv_heads * op.head_dim && width(op.v) == op.kv_heads * op.value_dim &&
                    width(op.out) == op.heads * op.value_dim;
  if (!fits) {
    throw Error(ErrorCode::internal,
                fmt::format("'{}': queries, keys and values of {}, {} and {} columns do not fit {} "
                            "heads of {} and {} of {}",
                            op.module, width(op.q), width(op.k), width(op.v), op.heads, op.head_dim, op.kv_heads,
                            op.value_dim));
  }
  const ConstFloats q = token_input(op.q);
  if (state_.kv_observer) state_.kv_observer(token_input(op.k), token_input(op.v));
  std::vector<KvLayer> layers;
  const std::vector<AttentionSequence> sequences = attention_sequences(op, layers);
  attend(op, sequences, q, output(op.out, tokens_), threads_);
}

}  // namespace quant::forward
