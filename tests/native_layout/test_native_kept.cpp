// Pruned linears in the layout "libquant": what is kept comes back in its place, zeros come back as zeros, and files
// that contradict themselves are refused.
#include <functional>

#include "quant/error.h"
#include "support.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;
using Json = nlohmann::json;

namespace {

const Layout& layout() { return layout_named("libquant"); }

struct Pattern {
  std::uint32_t keep, of;
};

// A mask of the pattern; without one about 40 % of the weights.
std::vector<std::uint8_t> random_mask(std::uint64_t rows, std::uint64_t cols, Pattern pattern, std::mt19937& random) {
  std::vector<std::uint8_t> mask(rows * cols, 0);
  if (pattern.of == 0) {
    for (auto& place : mask) place = random() % 5 < 2 ? 1 : 0;
    return mask;
  }
  for (std::uint64_t first = 0; first < mask.size(); first += pattern.of) {
    const auto begin = mask.begin() + static_cast<std::ptrdiff_t>(first);
    std::fill(begin, begin + pattern.keep, std::uint8_t{1});
    std::shuffle(begin, begin + pattern.of, random);
  }
  return mask;
}

std::int8_t zero_of(const QuantizedTensor& tensor, std::size_t unit) {
  if (!tensor.real_zero_points.empty()) return static_cast<std::int8_t>(tensor.real_zero_points[unit]);
  if (tensor.args.type == NumberType::integer)
    return tensor.zero_points.empty() ? std::int8_t{0} : tensor.zero_points[unit];
  const std::size_t count = std::size_t{1} << static_cast<unsigned>(tensor.args.num_bits);
  const std::size_t first = has_learned_codebook(tensor.args) ? unit * count : 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (tensor.codebook[first + i] == 0) return static_cast<std::int8_t>(i);
  }
  throw std::logic_error("a codebook without 0");
}

QuantizedTensor pruned_tensor(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols, Pattern pattern) {
  std::mt19937 random(7);
  QuantizedTensor tensor;
  if (is_plain(args)) {
    tensor.resize(args, rows, cols);
    tensor.scale_dtype = DType::F16;
    for (auto& value : tensor.plain) value = static_cast<float>(1 + random() % 31) / 16;
  } else {
    tensor = random_tensor(layout(), args, rows, cols, 5);
    const std::size_t values = std::size_t{1} << static_cast<unsigned>(args.num_bits);
    for (float& zero : tensor.real_zero_points) zero = static_cast<float>(static_cast<int>(random() % 8) - 4);
    for (std::size_t first = 0; has_learned_codebook(args) && first < tensor.codebook.size(); first += values) {
      tensor.codebook[first + 1] = 0;
    }
  }
  tensor.mask = random_mask(rows, cols, pattern, random);
  for (std::uint64_t i = 0; i < rows * cols; ++i) {
    if (tensor.mask[i] != 0) continue;
    const std::size_t unit = i / cols / tensor.grid.row_extent * tensor.grid.cols + i % cols / tensor.grid.col_extent;
    if (is_plain(args)) {
      tensor.plain[i] = 0;
    } else {
      tensor.codes[i] = zero_of(tensor, unit);
    }
  }
  return tensor;
}

LinearShape shape_of(const QuantizedTensor& tensor, Pattern pattern) {
  LinearShape shape{"m", tensor.rows, tensor.cols, DType::F16};
  const auto kept = static_cast<std::uint64_t>(std::count(tensor.mask.begin(), tensor.mask.end(), 1));
  shape.sparsity = StoredSparsity{kept, pattern.keep, pattern.of};
  return shape;
}

Scheme scheme_of(const QuantArgs& args) {
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  return scheme;
}

MemoryCheckpoint checkpoint_of(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols, Pattern pattern) {
  const QuantizedTensor tensor = pruned_tensor(args, rows, cols, pattern);
  return stored_checkpoint(layout(), scheme_of(args), shape_of(tensor, pattern), tensor);
}

std::vector<QuantArgs> kinds() {
  QuantArgs symmetric;
  symmetric.num_bits = 4;
  symmetric.strategy = Strategy::group;
  symmetric.group_size = 20;
  QuantArgs asymmetric = symmetric;
  asymmetric.num_bits = 3;
  asymmetric.symmetric = false;
  QuantArgs bytes = symmetric;
  bytes.num_bits = 8;
  bytes.strategy = Strategy::channel;
  bytes.group_size.reset();
  return {plain_args(),
          symmetric,
          asymmetric,
          bytes,
          codebook_args(Codebook::nf4, 4, Strategy::group, 20),
          codebook_args(Codebook::learned, 3, Strategy::channel)};
}

bool mentions(const std::string& text, std::string_view part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("kept weights come back in their places, read at once or row by row, every byte written once") {
  for (const QuantArgs& args : kinds()) {
    for (const Pattern pattern : {Pattern{0, 0}, Pattern{2, 4}, Pattern{1, 4}, Pattern{4, 4}, Pattern{7, 20}}) {
      INFO(describe(args) << " " << pattern.keep << ":" << pattern.of);
      const QuantizedTensor tensor = pruned_tensor(args, 13, 60, pattern);
      const LinearShape shape = shape_of(tensor, pattern);
      for (const std::uint64_t step : {0, 1, 5})
        CHECK(store(layout(), scheme_of(args), shape, tensor, step).complete());
      CHECK(store(layout(), scheme_of(args), shape, tensor).bytes ==
            store(layout(), scheme_of(args), shape, tensor, 3).bytes);
      const MemoryCheckpoint checkpoint = stored_checkpoint(layout(), scheme_of(args), shape, tensor);
      const auto linears = layout().find_linears(checkpoint);
      REQUIRE(linears.size() == 1);
      CHECK(linears.front().shape.sparsity == shape.sparsity);
      QuantizedTensor whole, row;
      layout().read_rows(checkpoint, linears.front(), 0, tensor.rows, whole);
      CHECK(whole.mask == tensor.mask);
      CHECK(whole.plain == tensor.plain);
      std::vector<float> expected(tensor.cols), found(tensor.cols), alone(tensor.cols);
      for (std::uint64_t r = 0; r < tensor.rows; ++r) {
        dequantize_row(tensor, r, expected);
        dequantize_row(whole, r, found);
        layout().read_rows(checkpoint, linears.front(), r, 1, row);
        dequantize_row(row, 0, alone);
        CHECK(found == expected);
        CHECK(alone == expected);
      }
    }
  }
}

TEST_CASE("sizes are those of the documents") {
  const auto bytes_of = [](const QuantArgs& args, Pattern pattern, std::string_view suffix) -> std::uint64_t {
    const MemoryCheckpoint checkpoint = checkpoint_of(args, 16, 64, pattern);
    const TensorInfo* found = checkpoint.find("m" + std::string(suffix));
    return found == nullptr ? 0 : found->bytes;
  };
  // 2:4 is one of six choices: 3 bits for each four weights.
  CHECK(bytes_of(plain_args(), {2, 4}, ".weight_mask") == 16 * (64 / 4 * 3) / 8);
  CHECK(bytes_of(plain_args(), {2, 4}, ".weight_values") == 16 * 64 / 2 * 2);
  CHECK(bytes_of(plain_args(), {2, 4}, ".weight_starts") == 0);
  CHECK(bytes_of(plain_args(), {0, 0}, ".weight_mask") == 16 * 64 / 8);
  CHECK(bytes_of(plain_args(), {0, 0}, ".weight_starts") == 17 * 4);
  QuantArgs int4;
  int4.num_bits = 4;
  int4.strategy = Strategy::channel;
  CHECK(bytes_of(int4, {2, 4}, ".weight_codes") == 16 * 64 / 2 / 2 + 16);
}

TEST_CASE("masks and starts that contradict the linear are refused, naming the tensor") {
  const auto changed = [](Pattern pattern, const std::function<void(MemoryCheckpoint&)>& change) {
    MemoryCheckpoint checkpoint = checkpoint_of(plain_args(), 6, 60, pattern);
    change(checkpoint);
    return read_error(layout(), checkpoint);
  };
  CHECK(changed({0, 0}, [](auto&) {}).empty());
  CHECK(changed({2, 4}, [](auto&) {}).empty());
  CHECK(mentions(changed({0, 0}, [](auto& c) { c.bytes("m.weight_mask")[1] ^= std::byte{4}; }), "m.weight_mask"));
  // 60 columns fill seven bytes and a half.
  CHECK(mentions(changed({0, 0}, [](auto& c) { c.bytes("m.weight_mask")[7] |= std::byte{0x80}; }), "m.weight_mask"));
  CHECK(mentions(changed({2, 4}, [](auto& c) { c.bytes("m.weight_mask")[0] = std::byte{0xFF}; }), "m.weight_mask"));
  for (const std::size_t row : {0, 3, 6}) {
    CHECK(mentions(changed({0, 0}, [&](auto& c) { c.bytes("m.weight_starts")[4 * row + 2] = std::byte{9}; }),
                   "m.weight_"));
  }
  const auto infinite = [](auto& c) {
    c.bytes("m.weight_values")[1] = std::byte{0x7C}, c.bytes("m.weight_values")[0] = std::byte{0};
  };
  CHECK(mentions(changed({2, 4}, infinite), "m.weight_values"));
}

TEST_CASE("what config.json says of a pruned linear must be possible") {
  const auto error_of = [](const std::function<void(Json&)>& change) {
    MemoryCheckpoint checkpoint = checkpoint_of(plain_args(), 6, 60, {2, 4});
    Json config = Json::parse(checkpoint.config().quantization_config);
    CHECK(config.at("version") == 2);
    change(config["linears"]["m"]);
    checkpoint.mutable_config().quantization_config = config.dump();
    return read_error(layout(), checkpoint);
  };
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["kept"] = 181; }), "pattern"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["kept"] = -1; }), "kept"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["kept"] = 1e18; }), "kept"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["pattern"] = {5, 4}; }), "pattern"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["pattern"] = {2, 0}; }), "pattern"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["pattern"] = {2, 7}; }), "pattern"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"]["pattern"] = "2:4"; }), "pattern"));
  CHECK(mentions(error_of([](Json& linear) { linear["sparsity"].erase("kept"); }), "kept"));
  CHECK(mentions(error_of([](Json& linear) { linear.erase("sparsity"); }), "plain"));
  CHECK(mentions(error_of([](Json& linear) { linear["dtype"] = "float64"; }), "plain"));
}

TEST_CASE("a codebook without a zero cannot leave zeros out") {
  const QuantArgs args = codebook_args(Codebook::learned, 3, Strategy::channel);
  MemoryCheckpoint checkpoint = checkpoint_of(args, 4, 40, {2, 4});
  auto& table = checkpoint.bytes("m.weight_codebook");
  for (std::size_t i = 1; i < table.size(); i += 2) table[i] = std::byte{0x3C};
  CHECK(mentions(read_error(layout(), checkpoint), "codebook has none"));
}

TEST_CASE("zero points that are no codes cannot leave zeros out") {
  QuantArgs args;
  args.num_bits = 4;
  args.symmetric = false;
  args.strategy = Strategy::channel;
  args.zp_dtype = DType::F16;
  MemoryCheckpoint checkpoint = checkpoint_of(args, 4, 40, {2, 4});
  CHECK(read_error(layout(), checkpoint).empty());
  checkpoint.bytes("m.weight_zero_point")[0] = std::byte{1};
  CHECK(mentions(read_error(layout(), checkpoint), "m.weight_zero_point"));
}

TEST_CASE("a mask that is not of the pattern is not written") {
  const Pattern pattern{2, 4};
  QuantizedTensor tensor = pruned_tensor(plain_args(), 4, 40, pattern);
  const LinearShape shape = shape_of(tensor, pattern);
  std::fill(tensor.mask.begin(), tensor.mask.begin() + 4, std::uint8_t{1});
  CHECK_THROWS_AS(store(layout(), scheme_of(plain_args()), shape, tensor), Error);
  tensor.mask.clear();
  CHECK_THROWS_AS(store(layout(), scheme_of(plain_args()), shape, tensor), Error);
}
