#include "calibration/packer.h"

#include <algorithm>
#include <utility>

#include "hash.h"
#include "quant/error.h"

namespace quant::calibration {

namespace {

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  /// Uniform in [0, bound), bound > 0.
  std::uint64_t below(std::uint64_t bound) {
    const std::uint64_t excess = (0 - bound) % bound;  // 2^64 mod bound: the last, incomplete round is not used
    for (;;) {
      const std::uint64_t value = next();
      if (value <= ~excess) return value % bound;
    }
  }

 private:
  std::uint64_t next() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }

  std::uint64_t state_;
};

}  // namespace

Packer::Packer(const CalibrationOptions& options) : options_(options) {
  if (options.seq_len == 0) {
    throw Error(ErrorCode::usage, "calibration sequences of 0 tokens were asked for", "Give --seq-len of at least 1.");
  }
}

void Packer::add(std::span<const std::int32_t> document) {
  ++documents_;
  tokens_ += document.size();
  if (options_.pack) return add_packed(document);
  if (document.empty() || full()) return;
  const auto used = document.first(std::min<std::uint64_t>(document.size(), options_.seq_len));
  sequences_.emplace_back(used.begin(), used.end());
}

void Packer::add_packed(std::span<const std::int32_t> document) {
  while (!document.empty() && !full()) {
    const auto used = document.first(std::min<std::uint64_t>(document.size(), options_.seq_len - open_.size()));
    open_.insert(open_.end(), used.begin(), used.end());
    document = document.subspan(used.size());
    if (open_.size() < options_.seq_len) return;
    sequences_.push_back(std::exchange(open_, {}));
  }
}

// The first `samples` steps of a Fisher-Yates shuffle.
void Packer::choose() {
  Random random(options_.seed);
  const std::uint64_t count = sequences_.size();
  const std::uint64_t wanted = options_.samples == 0 ? count : std::min(options_.samples, count);
  for (std::uint64_t i = 0; i < wanted; ++i) std::swap(sequences_[i], sequences_[i + random.below(count - i)]);
  sequences_.resize(wanted);
}

TokenSequences Packer::take() {
  if (options_.shuffle) choose();
  TokenSequences result;
  result.sequences = std::move(sequences_);
  result.documents = documents_;
  result.dropped_tokens = tokens_ - result.tokens();
  return result;
}

std::string hash_of(const std::vector<std::vector<std::int32_t>>& sequences) {
  Hash hash;
  const auto add_length = [&](std::uint64_t length) { hash.add(&length, sizeof length); };
  add_length(sequences.size());
  for (const auto& sequence : sequences) {
    add_length(sequence.size());
    hash.add(sequence.data(), sequence.size() * sizeof(std::int32_t));
  }
  return hash.hex();
}

}  // namespace quant::calibration
