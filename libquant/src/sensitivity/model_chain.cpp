#include "sensitivity/model_chain.h"

#include <omp.h>

#include <algorithm>

#include "evaluate/eval_loop.h"
#include "linalg/parallel.h"
#include "quant/evaluate.h"

namespace quant::sensitivity {
namespace {

using States = std::vector<std::vector<float>>;

constexpr std::uint64_t kChunkTokens = 1024;

}  // namespace

ModelChain::ModelChain(const ModelProgram& program, const ModelWeights& weights,
                       std::span<const std::vector<std::int32_t>> sequences, ChainOptions options)
    : program_(program),
      options_(std::move(options)),
      embeddings_(program.embeddings, weights, options_.forward),
      original_head_(program.head, weights, options_.forward) {
  runners_.reserve(program.blocks.size() + 1);
  for (const Program& block : program.blocks) runners_.emplace_back(block, weights, options_.forward);
  runners_.emplace_back(program.head, weights, options_.forward);
  divide(sequences);
}

void ModelChain::divide(std::span<const std::vector<std::int32_t>> sequences) {
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const auto& sequence = sequences[s];
    if (chunks_.empty() || chunks_.back().ids.size() + sequence.size() > kChunkTokens) {
      chunks_.push_back({{}, {}, Values(program_.embeddings)});
    }
    Chunk& chunk = chunks_.back();
    for (std::uint64_t t = 0; t + 1 < sequence.size(); ++t) {
      rows_.push_back({chunks_.size() - 1, chunk.ids.size() + t, s});
    }
    predictions_.push_back(sequence.size() - 1);
    chunk.batch.lengths.push_back(sequence.size());
    chunk.ids.insert(chunk.ids.end(), sequence.begin(), sequence.end());
  }
  for (Chunk& chunk : chunks_) chunk.batch.ids = chunk.ids;
}

void ModelChain::release(std::size_t part) {
  if (!options_.resident) runners_[part].release(0, this->part(part).ops.size());
}

void ModelChain::embed() {
  States states;
  for (Chunk& chunk : chunks_) {
    options_.check_stop();
    Values values(program_.embeddings);
    embeddings_.run(0, program_.embeddings.ops.size(), chunk.batch, values);
    states.push_back(std::move(values.at(program_.embeddings.output)));
  }
  enter(0, std::move(states));
}

void ModelChain::enter(std::size_t part, States states) {
  part_ = part;
  op_ = 0;
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    chunks_[c].values = Values(this->part(part));
    chunks_[c].values.at(this->part(part).input) = std::move(states[c]);
  }
}

States ModelChain::run_part(std::size_t part, States states) {
  const Program& program = this->part(part);
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    options_.check_stop();
    Values values(program);
    values.at(program.input) = std::move(states[c]);
    runners_[part].run(0, program.ops.size(), chunks_[c].batch, values);
    states[c] = std::move(values.at(program.output));
  }
  release(part);
  return states;
}

/// From where `values` stand, through the rest of their block and all later ones.
States ModelChain::to_head(std::vector<Values> values) {
  States states;
  const Program& program = part(part_);
  for (std::size_t c = 0; c < chunks_.size(); ++c) {
    options_.check_stop();
    if (part_ + 1 < parts()) {
      runners_[part_].run(op_, program.ops.size(), chunks_[c].batch, values[c]);
      states.push_back(std::move(values[c].at(program.output)));
    }
  }
  for (std::size_t next = part_ + 1; next + 1 < parts(); ++next) states = run_part(next, std::move(states));
  return states;
}

void ModelChain::start() {
  embed();
  if (!options_.logits) return;
  std::vector<Values> values;
  for (const Chunk& chunk : chunks_) values.push_back(chunk.values);
  final_states_ = to_head(std::move(values));
  release(0);
  if (rows_.size() * program_.vocabulary * sizeof(float) > options_.logit_memory) return;
  logits_.reserve(rows_.size() * program_.vocabulary);
  for (std::size_t first = 0; first < rows_.size(); first = next_slice(first)) {
    options_.check_stop();
    const auto slice = head_rows(original_head_, final_states_, first, next_slice(first) - first);
    logits_.insert(logits_.end(), slice.begin(), slice.end());
  }
}

void ModelChain::advance(std::size_t part, std::size_t op) {
  while (part_ < part) {
    const Program& program = this->part(part_);
    States states;
    for (Chunk& chunk : chunks_) {
      options_.check_stop();
      runners_[part_].run(op_, program.ops.size(), chunk.batch, chunk.values);
      states.push_back(std::move(chunk.values.at(program.output)));
    }
    release(part_);
    enter(part_ + 1, std::move(states));
  }
  if (op_ == op) return;
  for (Chunk& chunk : chunks_) runners_[part_].run(op_, op, chunk.batch, chunk.values);
  op_ = op;
}

std::vector<double> ModelChain::divergence() {
  // The head is run in slices of the rows that are wanted, always from its beginning.
  if (part_ + 1 == parts()) return compare(final_states_);
  std::vector<Values> values;
  for (const Chunk& chunk : chunks_) values.push_back(chunk.values);
  return compare(to_head(std::move(values)));
}

States ModelChain::linear_output() {
  const Program& program = part(part_);
  const ValueId out = output_of(program.ops[op_]);
  States outputs;
  for (const Chunk& chunk : chunks_) {
    options_.check_stop();
    Values values = chunk.values;
    const ValueId keep[] = {out};
    runners_[part_].run(op_, op_ + 1, chunk.batch, values, keep);
    outputs.push_back(std::move(values.at(out)));
  }
  return outputs;
}

/// Slices of some rows; a single row is not left over, since its product may be computed in another order.
std::size_t ModelChain::next_slice(std::size_t first) const {
  const std::size_t step = evaluate::logit_rows(program_.vocabulary);
  return rows_.size() - first <= step + 1 ? rows_.size() : first + step;
}

std::vector<float> ModelChain::head_rows(ProgramRunner& head, const States& states, std::size_t first,
                                         std::size_t count) const {
  const std::uint64_t hidden = program_.hidden;
  const std::size_t padded = std::max<std::size_t>(count, 2);
  Batch batch;
  batch.lengths = {padded};
  Values values(program_.head);
  std::vector<float>& input = values.at(program_.head.input);
  for (std::size_t i = 0; i < padded; ++i) {
    const Row& row = rows_[first + std::min(i, count - 1)];
    const auto from = states[row.chunk].begin() + static_cast<std::ptrdiff_t>(row.token * hidden);
    input.insert(input.end(), from, from + static_cast<std::ptrdiff_t>(hidden));
  }
  head.run(0, program_.head.ops.size(), batch, values);
  std::vector<float> logits = std::move(values.at(program_.head.output));
  logits.resize(count * program_.vocabulary);
  return logits;
}

std::span<const float> ModelChain::original_rows(std::size_t first, std::size_t count, std::vector<float>& buffer) {
  const std::uint64_t width = program_.vocabulary;
  if (!logits_.empty()) return std::span(logits_).subspan(first * width, count * width);
  buffer = head_rows(original_head_, final_states_, first, count);
  return buffer;
}

std::vector<double> ModelChain::compare(const States& states) {
  const std::uint64_t width = program_.vocabulary;
  std::vector<double> divergence(rows_.size());
  const int threads = options_.forward.threads;
  std::vector<float> buffer;
  for (std::size_t first = 0; first < rows_.size(); first = next_slice(first)) {
    options_.check_stop();
    const std::size_t count = next_slice(first) - first;
    const std::vector<float> changed = head_rows(runners_.back(), states, first, count);
    const std::span<const float> original = original_rows(first, count, buffer);
    constexpr std::size_t kRowsPerTask = 8;
    linalg::for_tasks(threads, linalg::pieces(count, kRowsPerTask), [&](std::size_t task) {
      std::vector<double> scratch;
      for (std::size_t r = task * kRowsPerTask; r < std::min(count, (task + 1) * kRowsPerTask); ++r) {
        const auto pair = compare_predictions(original.subspan(r * width, width),
                                              std::span(changed).subspan(r * width, width), 0, scratch);
        divergence[first + r] = pair.divergence;
      }
    });
  }
  release(parts() - 1);
  std::vector<double> totals(predictions_.size(), 0);
  for (std::size_t r = 0; r < rows_.size(); ++r) totals[rows_[r].sequence] += divergence[r];
  return totals;
}

}  // namespace quant::sensitivity
