// Codes under other arguments: every value stays the same float, or the move is refused.
#include <random>

#include "gptq_layout/support.h"
#include "quant/convert.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

QuantizedTensor random_integers(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  QuantizedTensor tensor = random_tensor(layout_named("gptq"), args, rows, cols, 11);
  if (args.actorder == ActOrder::group) {
    std::mt19937 random(5);
    tensor.group_index.resize(cols);
    for (auto& group : tensor.group_index) group = static_cast<std::int32_t>(random() % tensor.grid.cols);
  }
  return tensor;
}

QuantArgs with_strategy(QuantArgs args, Strategy strategy) {
  args.strategy = strategy;
  args.group_size.reset();
  if (strategy == Strategy::block) args.block_structure = {4, 32};
  return args;
}

}  // namespace

TEST_CASE("moves keep every value") {
  QuantArgs ordered = integer_args(4, true, 32);
  ordered.actorder = ActOrder::group;
  QuantArgs ordered_wide = ordered;
  ordered_wide.num_bits = 8;
  const std::vector<std::pair<QuantArgs, QuantArgs>> moves = {
      {integer_args(4, true, 32), integer_args(4, true, 32)},
      {integer_args(3, true, 32), integer_args(4, true, 32)},
      {integer_args(4, true, 32), integer_args(4, false, 32)},
      {integer_args(4, false, 64), integer_args(8, false, 32)},
      {integer_args(4, true, -1), integer_args(4, false, 64)},
      {with_strategy(integer_args(8, false, -1), Strategy::tensor), integer_args(8, false, -1)},
      {with_strategy(integer_args(8, true, -1), Strategy::tensor), integer_args(8, true, 32)},
      {with_strategy(integer_args(4, true, -1), Strategy::block), integer_args(4, true, 32)},
      {ordered, ordered_wide}};
  for (const auto& [from, to] : moves) {
    INFO(describe(from) << " -> " << describe(to));
    const QuantizedTensor tensor = random_integers(from, 12, 128);
    QuantizedTensor moved;
    move_codes(tensor, to, DType::F16, moved);
    CHECK_NOTHROW(check_sizes(moved));
    CHECK(moved.args == to);
    CHECK(moved.codes == tensor.codes);
    CHECK(values_of(moved) == values_of(tensor));
  }
}

TEST_CASE("moves that would change a value are refused") {
  QuantArgs ordered = integer_args(4, true, 32);
  ordered.actorder = ActOrder::group;
  const std::vector<std::pair<QuantArgs, QuantArgs>> moves = {
      {integer_args(4, true, 32), integer_args(3, true, 32)},
      {integer_args(4, true, 32), integer_args(4, true, 64)},
      {integer_args(4, true, 32), integer_args(4, true, -1)},
      {integer_args(4, false, 32), integer_args(4, true, 32)},  // zero points that are not 0
      {ordered, integer_args(4, true, 32)},
      {ordered, integer_args(4, true, 16)},
      {codebook_args(Codebook::nf4, 4, Strategy::group, 32), integer_args(4, true, 32)}};
  for (const auto& [from, to] : moves) {
    INFO(describe(from) << " -> " << describe(to));
    const QuantizedTensor tensor = from.type == NumberType::codebook
                                       ? random_tensor(layout_named("libquant"), from, 12, 128, 3)
                                       : random_integers(from, 12, 128);
    QuantizedTensor moved;
    try {
      move_codes(tensor, to, DType::F16, moved);
      FAIL("moved");
    } catch (const Error& error) {
      CHECK(error.kind() == "NotExact");
    }
  }
}

TEST_CASE("scales move into a narrower type only where they are values of it") {
  QuantizedTensor tensor = random_integers(integer_args(4, true, 32), 4, 64);
  tensor.scale_dtype = DType::F32;
  QuantizedTensor moved;
  move_codes(tensor, tensor.args, DType::BF16, moved);  // random_tensor makes sixteenths
  CHECK(moved.scale_dtype == DType::BF16);
  tensor.scales[3] = 1.0F / 3;
  for (const DType type : {DType::F16, DType::BF16})
    CHECK_THROWS_AS(move_codes(tensor, tensor.args, type, moved), Error);
  move_codes(tensor, tensor.args, DType::F32, moved);
  CHECK(moved.scales == tensor.scales);
  CHECK((is_exact_in(DType::F16, 0.5F) && !is_exact_in(DType::F16, 1e-9F) && !is_exact_in(DType::BF16, 1.001F)));
}
