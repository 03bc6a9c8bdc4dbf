// What holds for every registered layout, for every scheme that it accepts and every shape.
#include <algorithm>
#include <numeric>
#include <random>

#include "native_layout/support.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const std::vector<std::unique_ptr<Layout>>& layouts() {
  static const Registry registry = [] {
    Registry filled;
    register_builtin_formats(filled);
    return filled;
  }();
  return registry.layouts();
}

std::vector<QuantArgs> schemes() {
  std::vector<QuantArgs> list;
  const auto add = [&](NumberType type, int bits, bool symmetric, Strategy strategy, std::int64_t group) {
    QuantArgs args;
    args.type = type;
    args.num_bits = bits;
    args.symmetric = symmetric;
    args.strategy = strategy;
    if (group > 0) args.group_size = group;
    if (strategy == Strategy::block) args.block_structure = {16, 32};
    list.push_back(args);
  };
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
        add(NumberType::integer, bits, symmetric, strategy, strategy == Strategy::group ? 32 : 0);
      }
    }
  }
  for (const Codebook codebook : {Codebook::nf4, Codebook::fp4, Codebook::learned}) {
    for (const Strategy strategy : {Strategy::group, Strategy::flat}) {
      list.push_back(codebook_args(codebook, 4, strategy, 32));
      list.push_back(codebook_args(codebook, 4, strategy, 32));
      list.back().double_quant = codebook != Codebook::learned;
    }
  }
  QuantArgs ordered = list.front();
  ordered.num_bits = 4;
  ordered.strategy = Strategy::group;
  ordered.group_size = 32;
  ordered.actorder = ActOrder::group;
  list.push_back(ordered);
  std::erase_if(list, [](QuantArgs args) { return !complete_and_check(args, true).empty(); });
  return list;
}

constexpr std::pair<std::uint64_t, std::uint64_t> kShapes[] = {{32, 32}, {64, 96}, {320, 64}, {7, 50}};

QuantizedTensor sample(const Layout& layout, const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  QuantizedTensor tensor = random_tensor(layout, args, rows, cols, 5);
  if (args.actorder == ActOrder::group) {
    std::mt19937 random(4);
    tensor.group_index.resize(cols);
    for (auto& group : tensor.group_index) group = static_cast<std::int32_t>(random() % tensor.grid.cols);
  }
  return tensor;
}

/// Writes, reads at once and in parts, and compares values.
void round_trip(const Layout& layout, const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  const LinearShape linear{"m", rows, cols, DType::F16};
  const QuantizedTensor tensor = sample(layout, args, rows, cols);
  const CountingSink whole = store(layout, scheme, linear, tensor);
  CHECK(whole.complete());
  const std::uint64_t step = std::min(rows, std::lcm(layout.row_alignment(scheme), scale_row_alignment(args, cols)));
  CHECK(store(layout, scheme, linear, tensor, step).bytes == whole.bytes);
  const MemoryCheckpoint checkpoint = stored_checkpoint(layout, scheme, linear, tensor);
  REQUIRE(layout.recognizes(checkpoint.config()));
  const auto linears = layout.find_linears(checkpoint);
  REQUIRE(linears.size() == 1);
  CHECK((linears[0].shape.rows == rows && linears[0].shape.cols == cols));
  CHECK(linears[0].tensors.size() == checkpoint.tensors().size());
  CHECK(linears[0].format == layout.format_of(scheme));
  CHECK(layout.remarks(checkpoint, linears).empty());
  QuantizedTensor back;
  layout.read_rows(checkpoint, linears[0], 0, rows, back);
  CHECK(back.codes == tensor.codes);
  CHECK(values_of(back) == values_of(tensor));
  const std::uint64_t part =
      std::min(rows, std::lcm(layout.read_alignment(linears[0]), scale_row_alignment(args, cols)));
  std::vector<float> parts;
  for (std::uint64_t first = 0; first < rows; first += part) {
    layout.read_rows(checkpoint, linears[0], first, std::min(part, rows - first), back);
    const auto values = values_of(back);
    parts.insert(parts.end(), values.begin(), values.end());
  }
  CHECK(parts == values_of(tensor));
}

}  // namespace

TEST_CASE("what a layout accepts it gives back, at once and in slices") {
  REQUIRE(layouts().size() >= 5);
  for (const auto& layout : layouts()) {
    if (layout->name() == "gguf") continue;  // files are written whole: tests/gguf
    int accepted = 0;
    for (const QuantArgs& args : schemes()) {
      for (const auto& [rows, cols] : kShapes) {
        Scheme scheme;
        scheme.weights = args;
        if (layout->unsupported(scheme, {"m", rows, cols, DType::F16})) continue;
        INFO(layout->name() << ": " << describe(args) << " " << rows << "x" << cols);
        round_trip(*layout, args, rows, cols);
        ++accepted;
      }
    }
    INFO(layout->name());
    CHECK(accepted > 0);
  }
}

TEST_CASE("no layout takes the checkpoint of another for its own") {
  for (const auto& layout : layouts()) {
    for (const QuantArgs& args : schemes()) {
      Scheme scheme;
      scheme.weights = args;
      const LinearShape linear{"m", 32, 32, DType::F16};
      if (layout->unsupported(scheme, linear)) continue;
      const MemoryCheckpoint checkpoint = stored_checkpoint(*layout, scheme, linear, sample(*layout, args, 32, 32));
      for (const auto& other : layouts()) {
        INFO(layout->name() << " " << other->name());
        CHECK(other->recognizes(checkpoint.config()) == (other == layout));
      }
      break;
    }
  }
}

TEST_CASE("a scheme without weights is refused by all") {
  for (const auto& layout : layouts()) CHECK(layout->unsupported({}, {"m", 32, 32, DType::F16}));
}
