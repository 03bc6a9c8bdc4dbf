#include "quant/compare.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "parallel_tasks.h"
#include "quant/error.h"

namespace quant {
namespace {

struct Pair {
  const LogicalTensor* a;
  const LogicalTensor* b;
};

/// What one block adds to its tensor.
struct Part {
  ErrorSums sums;
  std::uint64_t differing = 0;
  std::uint64_t nonfinite_a = 0;
  std::uint64_t nonfinite_b = 0;
};

bool same_value(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

// Sets positions that are not finite on either side to zero on both, so that they leave the sums alone.
Part compare_floats(std::span<float> a, std::span<float> b) {
  Part part;
  std::uint64_t excluded = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    part.differing += same_value(a[i], b[i]) ? 0 : 1;
    const bool finite_a = std::isfinite(a[i]);
    const bool finite_b = std::isfinite(b[i]);
    if (finite_a && finite_b) continue;
    part.nonfinite_a += finite_a ? 0 : 1;
    part.nonfinite_b += finite_b ? 0 : 1;
    a[i] = b[i] = 0.0F;
    ++excluded;
  }
  part.sums = measure_values(a, b);
  part.sums.count -= excluded;
  part.sums.zeros -= excluded;
  return part;
}

std::uint64_t differing_elements(std::span<const std::byte> a, std::span<const std::byte> b,
                                 std::size_t element_bytes) {
  std::uint64_t differing = 0;
  for (std::size_t at = 0; at < a.size(); at += element_bytes) {
    differing += std::memcmp(a.data() + at, b.data() + at, element_bytes) == 0 ? 0 : 1;
  }
  return differing;
}

class Comparer {
 public:
  Comparer(const Checkpoint& a, const Checkpoint& b, const Registry& registry) : a_(a, registry), b_(b, registry) {}

  Comparison run(const ScanOptions& options) {
    pair_up();
    plan_blocks();
    std::vector<Part> parts(blocks_.size());
    std::vector<std::uint64_t> costs(blocks_.size());
    std::transform(blocks_.begin(), blocks_.end(), costs.begin(),
                   [&](const RowBlock& block) { return block.count * pairs_[block.tensor].a->cols; });
    run_tasks(costs, options, [&](std::size_t i) { parts[i] = compare_block(blocks_[i]); });
    for (std::size_t i = 0; i < blocks_.size(); ++i) add(parts[i], result_.tensors[blocks_[i].tensor]);
    add_totals();
    return std::move(result_);
  }

 private:
  void pair_up() {
    for (const LogicalTensor& a : a_.tensors()) {
      const LogicalTensor* b = b_.find(a.name);
      if (b == nullptr) {
        result_.only_a.push_back(a.name);
      } else if (a.shape != b->shape) {
        result_.mismatches.push_back({a.name, a.shape, b->shape});
      } else {
        add_pair({&a, b});
      }
    }
    for (const LogicalTensor& b : b_.tensors()) {
      if (a_.find(b.name) == nullptr) result_.only_b.push_back(b.name);
    }
  }

  void add_pair(const Pair& pair) {
    TensorComparison tensor;
    tensor.name = pair.a->name;
    tensor.shape = pair.a->shape;
    tensor.storage_a = describe_storage(*pair.a);
    tensor.storage_b = describe_storage(*pair.b);
    tensor.numeric = pair.a->numeric && pair.b->numeric;
    tensor.floating = tensor.numeric && is_floating(pair.a->dtype) && is_floating(pair.b->dtype);
    if (!tensor.numeric) compare_bytes(pair, tensor);
    pairs_.push_back(pair);
    result_.tensors.push_back(std::move(tensor));
  }

  void compare_bytes(const Pair& pair, TensorComparison& tensor) const {
    if (pair.a->plain == nullptr || pair.b->plain == nullptr || pair.a->dtype != pair.b->dtype) {
      tensor.differing = pair.a->count();  // one side has no values that could equal the other's
      return;
    }
    const TensorView a = a_.checkpoint().view(*pair.a->plain);
    const TensorView b = b_.checkpoint().view(*pair.b->plain);
    tensor.differing = differing_elements(a.bytes, b.bytes, 1);
  }

  void plan_blocks() {
    for (std::size_t i = 0; i < pairs_.size(); ++i) {
      if (!result_.tensors[i].numeric) continue;
      const std::uint64_t rows = std::max(a_.block_rows(*pairs_[i].a), b_.block_rows(*pairs_[i].b));
      append_blocks(i, pairs_[i].a->rows, rows, blocks_);
    }
  }

  Part compare_block(const RowBlock& block) const {
    const Pair& pair = pairs_[block.tensor];
    std::vector<float> a(block.count * pair.a->cols);
    std::vector<float> b(a.size());
    a_.read_rows(*pair.a, block.first, block.count, a);
    b_.read_rows(*pair.b, block.first, block.count, b);
    a_.done_reading(*pair.a, block.first, block.count);
    b_.done_reading(*pair.b, block.first, block.count);
    Part part = compare_floats(a, b);
    const bool wide = pair.a->dtype == pair.b->dtype && is_wider_than_f32(pair.a->dtype);
    if (wide && pair.a->plain != nullptr && pair.b->plain != nullptr) part.differing = differing_wide(pair, block);
    return part;
  }

  std::uint64_t differing_wide(const Pair& pair, const RowBlock& block) const {
    const std::size_t size = dtype_bits(pair.a->dtype) / 8;
    const std::uint64_t first = block.first * pair.a->cols * size;
    const std::uint64_t bytes = block.count * pair.a->cols * size;
    return differing_elements(a_.checkpoint().view(*pair.a->plain).bytes.subspan(first, bytes),
                              b_.checkpoint().view(*pair.b->plain).bytes.subspan(first, bytes), size);
  }

  static void add(const Part& part, TensorComparison& tensor) {
    tensor.sums += part.sums;
    tensor.differing += part.differing;
    tensor.nonfinite_a += part.nonfinite_a;
    tensor.nonfinite_b += part.nonfinite_b;
  }

  void add_totals() {
    for (const TensorComparison& tensor : result_.tensors) {
      if (!tensor.floating) continue;
      result_.total += tensor.sums;
      if (!tensor.exact()) result_.changed += tensor.sums;
    }
  }

  LogicalTensors a_;
  LogicalTensors b_;
  std::vector<Pair> pairs_;
  std::vector<RowBlock> blocks_;
  Comparison result_;
};

}  // namespace

bool Comparison::equal() const {
  return mismatches.empty() && only_a.empty() && only_b.empty() &&
         std::all_of(tensors.begin(), tensors.end(), [](const TensorComparison& t) { return t.exact(); });
}

std::string describe_storage(const LogicalTensor& tensor) {
  return tensor.linear != nullptr ? describe(tensor.linear->args) : std::string(dtype_name(tensor.dtype));
}

Comparison compare_checkpoints(const Checkpoint& reference, const Checkpoint& other, const Registry& registry,
                               const ScanOptions& options) {
  return Comparer(reference, other, registry).run(options);
}

}  // namespace quant
