// The layout "libquant": what was written is read back, slice by slice and at once; the bytes are those of the docs.
#include "quant/error.h"
#include "support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const Layout& layout() { return layout_named("libquant"); }

std::vector<QuantArgs> all_args() {
  std::vector<QuantArgs> list;
  for (const int bits : {1, 3, 4, 5, 8}) {
    for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
      list.push_back(codebook_args(Codebook::learned, bits, strategy, strategy == Strategy::group ? 24 : 0));
      QuantArgs integer;
      integer.num_bits = bits;
      integer.symmetric = strategy != Strategy::group;
      integer.strategy = strategy;
      if (strategy == Strategy::group) integer.group_size = 24;
      if (strategy == Strategy::block) integer.block_structure = {3, 20};
      list.push_back(integer);
      integer.symmetric = false;
      integer.zp_dtype = DType::F16;
      list.push_back(integer);
    }
  }
  for (const Codebook codebook : {Codebook::nf4, Codebook::fp4}) {
    list.push_back(codebook_args(codebook, 4, Strategy::channel));
    for (const Strategy strategy : {Strategy::group, Strategy::flat}) {
      QuantArgs args = codebook_args(codebook, 4, strategy, 20);
      list.push_back(args);
      args.double_quant = true;
      list.push_back(args);
    }
  }
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
    list.push_back(codebook_args(Codebook::sign, 1, strategy, strategy == Strategy::group ? 24 : 0));
    QuantArgs ternary = list.back();
    ternary.type = NumberType::integer;
    ternary.codebook = Codebook::learned;
    ternary.num_bits = 2;
    ternary.observer_kwargs["symmetric_range"] = std::string("restricted");
    list.push_back(ternary);
  }
  for (const char* range : {"restricted", "full"}) {
    QuantArgs integer;
    integer.num_bits = 4;
    integer.strategy = Strategy::channel;
    integer.observer_kwargs["symmetric_range"] = std::string(range);
    list.push_back(integer);
  }
  for (std::size_t i = 0, plain = list.size(); i < plain; ++i) {
    QuantArgs args = list[i];
    args.outlier_percent = 3;
    args.sensitive_percent = 0.5;
    list.push_back(args);
  }
  return list;
}

}  // namespace

TEST_CASE("what is written is read back, at once and in slices, every byte written once") {
  for (const QuantArgs& args : all_args()) {
    for (const auto& [rows, cols] : {std::pair<std::uint64_t, std::uint64_t>{1, 1}, {7, 50}, {12, 64}, {33, 20}}) {
      INFO(describe(args) << " " << rows << "x" << cols);
      Scheme scheme;
      scheme.weights = args;
      const LinearShape linear{"m", rows, cols, DType::F16};
      REQUIRE(!layout().unsupported(scheme, linear));
      const QuantizedTensor tensor = random_tensor(layout(), args, rows, cols, 11);
      const CountingSink whole = store(layout(), scheme, linear, tensor);
      const std::uint64_t unit = std::min(scale_row_alignment(args, cols), rows);
      const CountingSink sliced = store(layout(), scheme, linear, tensor, unit);
      CHECK(whole.complete());
      CHECK(sliced.complete());
      CHECK(sliced.bytes == whole.bytes);
      const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), args, tensor);
      REQUIRE(layout().recognizes(checkpoint.config()));
      const auto linears = layout().find_linears(checkpoint);
      REQUIRE(linears.size() == 1);
      CHECK(linears[0].args == args);
      CHECK(linears[0].tensors.size() == checkpoint.tensors().size());
      QuantizedTensor back;
      layout().read_rows(checkpoint, linears[0], 0, rows, back);
      CHECK(same_tensor(back, tensor));
      for (std::uint64_t first = 0; first < rows; first += layout().read_alignment(linears[0])) {
        const std::uint64_t count = std::min(layout().read_alignment(linears[0]), rows - first);
        layout().read_rows(checkpoint, linears[0], first, count, back);
        CHECK(same_tensor(back, slice_of(tensor, first, count)));
      }
    }
  }
}

TEST_CASE("bits of codes, codebooks and sparse rows lie as the documentation says") {
  QuantArgs args = codebook_args(Codebook::learned, 3, Strategy::channel);
  args.outlier_percent = 10;
  QuantizedTensor tensor;
  tensor.resize(args, 2, 5);
  tensor.scale_dtype = DType::F16;
  tensor.codes = {0, 1, 2, 3, 4, 5, 6, 7, 0, 1};
  for (std::size_t i = 0; i < 16; ++i) tensor.codebook[i] = static_cast<float>(i) / 4 - 2;
  tensor.sparse.starts = {0, 0, 1};
  tensor.sparse.columns = {3};
  tensor.sparse.values = {1.5F};
  tensor.sparse.dtype = DType::F16;
  const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), args, tensor);
  const auto bytes = [&](const char* name) {
    std::vector<unsigned> list;
    for (const std::byte b : checkpoint.view(*checkpoint.find(name)).bytes) list.push_back(static_cast<unsigned>(b));
    return list;
  };
  // 0 1 2 3 4 -> 000 | 001 | 010 | 011 | 100 from the lowest bit on: 0x688, 0x46; 5 6 7 0 1 -> 0x1F5, 0x10.
  CHECK(bytes("m.weight_codes") == std::vector<unsigned>{0x88, 0x46, 0xF5, 0x11});
  CHECK(bytes("m.weight_sparse_starts") == std::vector<unsigned>{0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0});
  CHECK(bytes("m.weight_sparse_columns") == std::vector<unsigned>{3, 0});
  CHECK(bytes("m.weight_sparse_values") == std::vector<unsigned>{0x00, 0x3E});
  CHECK(checkpoint.find("m.weight_codebook")->shape == Shape{2, 1, 8});
  std::vector<float> row(5);
  dequantize_row(tensor, 1, row);
  CHECK(row == std::vector<float>{1.25F, 1.5F, 1.75F, 1.5F, 0.25F});  // codebook of row 1 from 0; 0 + 1.5 in column 3
}

TEST_CASE("ternary codes lie five to a byte, signs eight") {
  QuantArgs args;
  args.num_bits = 2;
  args.strategy = Strategy::channel;
  args.observer_kwargs["symmetric_range"] = std::string("restricted");
  QuantizedTensor tensor;
  tensor.resize(args, 2, 7);
  tensor.scale_dtype = DType::F16;
  tensor.scales = {0.5F, 2.0F};
  tensor.codes = {-1, 0, 1, 1, -1, 0, 1, 1, 1, 1, 1, 1, -1, -1};
  const auto bytes = [](const MemoryCheckpoint& checkpoint) {
    std::vector<unsigned> list;
    for (const std::byte b : checkpoint.view(*checkpoint.find("m.weight_codes")).bytes) {
      list.push_back(static_cast<unsigned>(b));
    }
    return list;
  };
  // 0 + 3 * 1 + 9 * 2 + 27 * 2 + 81 * 0 = 75; 1 + 3 * 2 = 7; 242; 0.
  CHECK(bytes(stored_checkpoint(layout(), args, tensor)) == std::vector<unsigned>{75, 7, 242, 0});
  const QuantArgs signs = codebook_args(Codebook::sign, 1, Strategy::channel);
  tensor.resize(signs, 1, 9);
  tensor.scale_dtype = DType::F16;
  tensor.scales = {0.5F};
  tensor.codes = {1, 0, 0, 1, 1, 0, 0, 0, 1};
  CHECK(bytes(stored_checkpoint(layout(), signs, tensor)) == std::vector<unsigned>{0x19, 0x01});
  std::vector<float> row(9);
  dequantize_row(tensor, 0, row);
  CHECK(row == std::vector<float>{0.5F, -0.5F, -0.5F, 0.5F, 0.5F, -0.5F, -0.5F, -0.5F, 0.5F});
}

TEST_CASE("what has no place is refused with a sentence that says what to do") {
  Scheme scheme;
  const LinearShape linear{"m", 8, 32, DType::F16};
  CHECK(layout().unsupported(scheme, linear));
  scheme = *preset_scheme("FP8_DYNAMIC");
  CHECK(layout().unsupported(scheme, linear)->find("compressed-tensors") != std::string::npos);
  scheme = *preset_scheme("W8A8");
  CHECK(layout().unsupported(scheme, linear)->find("input_activations") != std::string::npos);
  scheme = *preset_scheme("W4A16");
  scheme.weights->actorder = ActOrder::group;
  CHECK(layout().unsupported(scheme, linear)->find("actorder") != std::string::npos);
  scheme.weights = codebook_args(Codebook::nf4, 4, Strategy::group, 16);
  CHECK(layout_named("compressed-tensors").unsupported(scheme, linear)->find("libquant") != std::string::npos);
}

TEST_CASE("a slice of other arguments, or in the middle of a block, is a defect that is caught") {
  const QuantArgs args = codebook_args(Codebook::learned, 2, Strategy::block);
  Scheme scheme;
  scheme.weights = args;
  const LinearShape linear{"m", 9, 32, DType::F16};
  const QuantizedTensor tensor = random_tensor(layout(), args, 3, 32, 1);
  CountingSink sink(layout().stored(scheme, linear));
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 2, tensor, sink), Error);
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 9, tensor, sink), Error);
  scheme.weights->num_bits = 3;
  CHECK_THROWS_AS(layout().write_rows(scheme, linear, 0, tensor, sink), Error);
}
