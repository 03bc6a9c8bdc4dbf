#include "pipeline/block_stream.h"

#include <algorithm>

#include "quant/error.h"

namespace quant {

void leave_if_stopped(const std::atomic<bool>* stop) {
  if (stop == nullptr || !stop->load(std::memory_order_relaxed)) return;
  throw Error(ErrorCode::interrupted, "stopped while calibrating", "run the same command with --resume to continue");
}

BlockStream::BlockStream(const StreamContext& context, const Program& program, const ModelWeights& weights,
                         ActivationStore input)
    : context_(context),
      program_(program),
      runner_(program, weights, context.forward),
      store_(std::move(input)),
      next_(*context.budget, context.work->chunks.size()),
      sizes_(context.work->chunks.size()),
      next_sizes_(context.work->chunks.size()) {
  if (program.input >= 0) live_.push_back(program.input);
}

Batch BlockStream::batch_of(std::size_t chunk) {
  const TokenChunk& part = context_.work->chunks[chunk];
  Batch batch;
  ids_.clear();
  for (std::size_t s = part.first; s < part.first + part.count; ++s) {
    const auto& sequence = context_.work->data.sequences[s];
    batch.lengths.push_back(sequence.size());
    ids_.insert(ids_.end(), sequence.begin(), sequence.end());
  }
  batch.ids = ids_;
  return batch;
}

// Values of one chunk lie one after another.
void BlockStream::load(std::size_t chunk, bool moves, Values& values) {
  if (live_.empty()) return;
  std::vector<float> packed = moves ? store_.take(chunk) : store_.read(chunk);
  if (live_.size() == 1) {
    values.at(live_.front()) = std::move(packed);
    return;
  }
  auto at = packed.begin();
  for (std::size_t i = 0; i < live_.size(); ++i) {
    const auto end = at + static_cast<std::ptrdiff_t>(sizes_[chunk][i]);
    values.at(live_[i]).assign(at, end);
    at = end;
  }
}

std::vector<float> BlockStream::pack(std::size_t chunk, std::span<const ValueId> live, const Values& values) {
  std::size_t count = 0;
  for (const ValueId id : live) count += values.at(id).size();
  std::vector<float> packed;
  packed.reserve(count);
  next_sizes_[chunk].clear();
  for (const ValueId id : live) {
    packed.insert(packed.end(), values.at(id).begin(), values.at(id).end());
    next_sizes_[chunk].push_back(values.at(id).size());
  }
  return packed;
}

Values BlockStream::advance(std::size_t chunk, std::size_t to, std::span<const ValueId> live, std::size_t until,
                            std::span<const ValueId> wanted) {
  leave_if_stopped(context_.stop);
  const Batch batch = batch_of(chunk);
  Values values(program_);
  const bool moves = to != position_;
  load(chunk, moves, values);
  if (moves) {
    runner_.run(position_, to, batch, values, live);
    next_.put(chunk, pack(chunk, live, values));
  }
  if (until > to) runner_.run(to, until, batch, values, wanted);
  return values;
}

void BlockStream::arrive(std::size_t to, std::span<const ValueId> live) {
  if (to == position_) return;
  runner_.release(position_, to);
  store_ = std::exchange(next_, ActivationStore(*context_.budget, context_.work->chunks.size()));
  sizes_.swap(next_sizes_);
  position_ = to;
  live_.assign(live.begin(), live.end());
}

}  // namespace quant
