#include "forward/attention.h"

#include <algorithm>
#include <vector>

#include "linalg/onednn.h"
#include "linalg/parallel.h"
#include "quant/kernels.h"

namespace quant::forward {
namespace {

using linalg::Sgemm;

constexpr std::uint64_t kQueries = 64;  // of a block

// Keys [begin, end).
struct Range {
  std::uint64_t begin = 0, end = 0;
  std::uint64_t size() const { return end - begin; }
};

struct Task {
  const AttentionSequence* sequence = nullptr;
  std::uint64_t head = 0;
  std::uint64_t first = 0;  // query within the sequence
  std::uint64_t count = 0;
};

struct Scratch {
  std::vector<float> scores, other;
};

// Keys that the query at position t sees.
Range visible(const AttentionOp& op, std::uint64_t t, std::uint64_t keys) {
  const bool windowed = op.window > 0;
  const std::uint64_t begin = windowed && t + 1 > op.window ? t + 1 - op.window : 0;
  if (op.causal) return {begin, t + 1};
  return {begin, windowed ? std::min(keys, t + op.window) : keys};
}

// One block of queries of one head.
class Block {
 public:
  Block(const AttentionOp& op, const Task& task, const float* q, float* out, Scratch& scratch)
      : op_(op),
        sequence_(*task.sequence),
        count_(task.count),
        position_(sequence_.keys - sequence_.tokens + task.first),
        kv_head_(task.head / (op.heads / op.kv_heads)),
        q_(q + (sequence_.first + task.first) * op.heads * op.head_dim + task.head * op.head_dim),
        out_(out + (sequence_.first + task.first) * op.heads * op.value_dim + task.head * op.value_dim),
        scratch_(scratch) {
    range_ = {visible(op, position_, sequence_.keys).begin, visible(op, position_ + count_ - 1, sequence_.keys).end};
  }

  void run() {
    scratch_.scores.resize(count_ * range_.size());
    score();
    double sums[kQueries];
    for (std::uint64_t i = 0; i < count_; ++i) sums[i] = weigh(i);
    mix();
    for (std::uint64_t i = 0; i < count_; ++i) {
      const auto factor = static_cast<float>(1.0 / sums[i]);
      float* row = out_ + i * op_.heads * op_.value_dim;
      for (std::uint64_t c = 0; c < op_.value_dim; ++c) row[c] *= factor;
    }
  }

 private:
  // Of the block's keys, those that some query reads quantized, and those that some query reads as they are.
  struct Split {
    Range quantized, plain;
  };
  Split split(const KvView& view) const {
    if (view.quantized == nullptr) return {{range_.begin, range_.begin}, range_};
    const auto inside = [&](std::uint64_t key) { return std::clamp(key, range_.begin, range_.end); };
    return {{range_.begin, inside(view.prefix.tokens(position_ + count_ - 1))},
            {inside(view.prefix.tokens(position_)), range_.end}};
  }
  // The first key that query i reads as it is.
  std::uint64_t first_plain(const KvView& view, std::uint64_t i) const {
    return std::clamp(view.prefix.tokens(position_ + i), range_.begin, range_.end);
  }

  float* scores(std::uint64_t i, std::uint64_t key) const {
    return scratch_.scores.data() + i * range_.size() + (key - range_.begin);
  }

  // to [queries, range] = scale q k^T.
  void products(const float* keys, const Range& range, float* to, std::uint64_t ld) const {
    if (range.size() == 0) return;
    const std::uint64_t width = op_.kv_heads * op_.head_dim;
    const Sgemm product{.transpose_b = true, .alpha = op_.scale};
    product(count_, range.size(), op_.head_dim, q_, op_.heads * op_.head_dim,
            keys + range.begin * width + kv_head_ * op_.head_dim, width, to, ld);
  }

  void score() const {
    const Split parts = split(sequence_.key);
    if (parts.quantized.size() == 0)
      return products(sequence_.key.plain, range_, scores(0, range_.begin), range_.size());
    products(sequence_.key.quantized, parts.quantized, scores(0, range_.begin), range_.size());
    const std::uint64_t n = parts.plain.size();
    scratch_.other.resize(count_ * n);
    products(sequence_.key.plain, parts.plain, scratch_.other.data(), n);
    for (std::uint64_t i = 0; i < count_; ++i) {
      const std::uint64_t from = first_plain(sequence_.key, i);
      std::copy_n(scratch_.other.data() + i * n + (from - parts.plain.begin), range_.end - from, scores(i, from));
    }
  }

  // Scores of query i become weights that are not normalized; returns their sum.
  double weigh(std::uint64_t i) const {
    const Range seen = visible(op_, position_ + i, sequence_.keys);
    float* row = scores(i, seen.begin);
    if (op_.softcap > 0) kernels().math.softcap(op_.softcap, row, row, seen.size());
    std::fill(scores(i, range_.begin), row, 0.0F);
    std::fill(row + seen.size(), scores(i, range_.end), 0.0F);
    return kernels().math.softmax(row, seen.size());
  }

  // out (+)= weights v over a range of keys.
  void add_values(const float* values, const Range& range, const float* weights, std::uint64_t ld, bool add) const {
    const std::uint64_t width = op_.kv_heads * op_.value_dim;
    const Sgemm product{.beta = add ? 1.0F : 0.0F};
    product(count_, op_.value_dim, range.size(), weights, ld, values + range.begin * width + kv_head_ * op_.value_dim,
            width, out_, op_.heads * op_.value_dim);
  }

  void mix() const {
    const Split parts = split(sequence_.value);
    if (parts.quantized.size() == 0) {
      return add_values(sequence_.value.plain, range_, scores(0, range_.begin), range_.size(), false);
    }
    const std::uint64_t n = parts.plain.size();
    scratch_.other.assign(count_ * n, 0.0F);
    for (std::uint64_t i = 0; i < count_; ++i) {  // each weight goes to one of the two products
      const std::uint64_t from = first_plain(sequence_.value, i);
      float* row = scores(i, from);
      std::copy_n(row, range_.end - from, scratch_.other.data() + i * n + (from - parts.plain.begin));
      std::fill_n(row, range_.end - from, 0.0F);
    }
    add_values(sequence_.value.quantized, parts.quantized, scores(0, range_.begin), range_.size(), false);
    if (n > 0) add_values(sequence_.value.plain, parts.plain, scratch_.other.data(), n, true);
  }

  const AttentionOp& op_;
  const AttentionSequence& sequence_;
  std::uint64_t count_;
  std::uint64_t position_;  // of the first query
  std::uint64_t kv_head_;
  const float* q_;
  float* out_;
  Scratch& scratch_;
  Range range_;
};

std::vector<Task> tasks_of(const AttentionOp& op, std::span<const AttentionSequence> sequences) {
  std::vector<Task> tasks;
  for (const AttentionSequence& sequence : sequences) {
    for (std::uint64_t head = 0; head < op.heads; ++head) {
      for (std::uint64_t first = 0; first < sequence.tokens; first += kQueries) {
        tasks.push_back({&sequence, head, first, std::min(kQueries, sequence.tokens - first)});
      }
    }
  }
  return tasks;
}

}  // namespace

void attend(const AttentionOp& op, std::span<const AttentionSequence> sequences, ConstFloats q, Floats out,
            int threads) {
  const std::vector<Task> tasks = tasks_of(op, sequences);
  std::vector<Scratch> scratches(static_cast<std::size_t>(linalg::team_size(threads, tasks.size())));
  linalg::for_tasks(threads, tasks.size(), [&](std::size_t i) {
    Scratch& scratch = scratches[static_cast<std::size_t>(omp_get_thread_num())];
    Block(op, tasks[i], q.data(), out.data(), scratch).run();
  });
}

}  // namespace quant::forward
