#include "structured/channel_map.h"

#include <limits>
#include <numeric>

#include "quant/error.h"

namespace quant::structured {
namespace {

// Union-find over columns; the smallest number of a set stands for it, so that results do not depend on the order.
class Sets {
 public:
  explicit Sets(std::size_t count) : parent_(count) { std::iota(parent_.begin(), parent_.end(), 0U); }
  std::uint32_t find(std::uint32_t at) {
    while (parent_[at] != at) at = parent_[at] = parent_[parent_[at]];
    return at;
  }
  void join(std::size_t a, std::size_t b) {
    const std::uint32_t x = find(static_cast<std::uint32_t>(a));
    const std::uint32_t y = find(static_cast<std::uint32_t>(b));
    parent_[std::max(x, y)] = std::min(x, y);
  }

 private:
  std::vector<std::uint32_t> parent_;
};

class Builder {
 public:
  Builder(const Program& program, const std::vector<std::size_t>& first, std::size_t count)
      : program_(program), first_(first), sets_(count) {}

  void add(const Op& op) {
    std::visit([this](const auto& one) { join(one); }, op);
  }
  std::uint32_t find(std::size_t at) { return sets_.find(static_cast<std::uint32_t>(at)); }

 private:
  std::size_t at(ValueId value) const { return first_[static_cast<std::size_t>(value)]; }
  std::uint64_t width(ValueId value) const { return program_.values[static_cast<std::size_t>(value)].width; }
  void same(ValueId a, ValueId b) {
    if (width(a) != width(b)) return;  // one factor per row
    for (std::uint64_t c = 0; c < width(a); ++c) sets_.join(at(a) + c, at(b) + c);
  }

  void join(const NormOp& op) { same(op.in, op.out); }
  void join(const SliceOp& op) {
    for (std::uint64_t i = 0; i < op.repeat; ++i) {
      for (std::uint64_t c = 0; c < op.width; ++c) {
        sets_.join(at(op.out) + i * op.width + c, at(op.in) + op.first + i * op.stride + c);
      }
    }
  }
  void join(const RotaryOp& op) { same(op.in, op.out); }
  void join(const ActivationOp& op) { same(op.in, op.out); }
  void join(const ScaleOp& op) { same(op.in, op.out); }
  void join(const SoftcapOp& op) { same(op.in, op.out); }
  void join(const GatherOp& op) { same(op.in, op.out); }
  void join(const CombineOp& op) { same(op.in, op.out); }
  void join(const MultiplyOp& op) { same(op.a, op.out), same(op.b, op.out); }
  void join(const AddOp& op) { same(op.a, op.out), same(op.b, op.out); }
  // Heads of attention and experts of a router belong together in ways that are no equality of columns.
  void join(const AttentionOp& /*op*/) {}
  void join(const RouteOp& /*op*/) {}
  void join(const LinearOp& /*op*/) {}
  void join(const EmbeddingOp& /*op*/) {}

  const Program& program_;
  const std::vector<std::size_t>& first_;
  Sets sets_;
};

}  // namespace

ChannelMap::ChannelMap(const Program& program) {
  std::size_t count = 0;
  for (const ProgramValue& value : program.values) {
    first_.push_back(count);
    count += value.width;
  }
  if (count > std::numeric_limits<std::uint32_t>::max()) {
    throw Error(ErrorCode::unsupported, "'" + program.name + "' has more than 2^32 columns of values");
  }
  Builder builder(program, first_, count);
  for (const Op& op : program.ops) builder.add(op);
  roots_.resize(count);
  for (std::size_t i = 0; i < count; ++i) roots_[i] = builder.find(i);
}

}  // namespace quant::structured
