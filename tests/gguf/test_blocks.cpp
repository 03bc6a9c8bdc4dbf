// Block formats against ggml's own bytes and values (made by make_golden.py), and the laws of the searches.
#include <cmath>
#include <random>

#include "quant/block_encode.h"
#include "quant/error.h"
#include "quant/gguf_quantizer.h"
#include "quant/kernels.h"
#include "support/catch.h"
#include "support/golden.h"

using namespace quant;
using namespace quant::test;

namespace {

const GoldenFile& golden() {
  static const GoldenFile file(QUANT_SOURCE_DIR "/tests/gguf/golden/blocks.safetensors");
  return file;
}

// As ggml's functions spell it: "q4_0", "q4_K".
std::string golden_name(const BlockFormat& format) {
  std::string name(format.name);
  for (char& c : name) c = c == 'K' ? 'K' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return name;
}

std::vector<std::byte> bytes_of(const std::string& name) {
  const auto values = golden().values<std::uint8_t>(name);
  std::vector<std::byte> bytes(values.size());
  std::memcpy(bytes.data(), values.data(), values.size());
  return bytes;
}

bool is_small(const BlockFormat& format) { return format.weights > 1; }

std::vector<std::byte> encode(BlockType type, const std::vector<float>& weights, std::uint64_t cols,
                              const std::vector<float>& importance, BlockEncoder encoder) {
  std::vector<std::byte> out(block_bytes(type, weights.size()));
  encode_blocks(type, weights, cols, importance, encoder, out);
  return out;
}

// Sum of importance * squared error in float64, and of importance * weight^2.
double relative_error(BlockType type, const std::vector<float>& weights, std::uint64_t cols,
                      const std::vector<float>& importance, const std::vector<std::byte>& bytes) {
  std::vector<float> values(weights.size());
  decode_blocks(type, bytes, values);
  double error = 0, total = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double w = importance.empty() ? 1.0 : static_cast<double>(importance[i % cols]);
    const double x = static_cast<double>(weights[i]), e = x - static_cast<double>(values[i]);
    error += w * e * e;
    total += w * x * x;
  }
  return std::sqrt(error / total);
}

struct Sample {
  std::vector<float> weights, importance;
};
Sample sample(std::uint64_t rows, std::uint64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 0.02F);
  std::lognormal_distribution<float> spread(0, 1.2F);
  Sample made{std::vector<float>(rows * cols), std::vector<float>(cols)};
  for (float& w : made.weights) w = normal(random);
  for (float& i : made.importance) i = spread(random);
  return made;
}

}  // namespace

TEST_CASE("any bytes decode to the values that ggml reads, bit by bit") {
  for (const BlockFormat& format : block_formats()) {
    if (!is_small(format)) continue;
    CAPTURE(format.name);
    const auto expected = golden().values<float>(golden_name(format) + ".values");
    std::vector<float> values(expected.size());
    decode_blocks(format.type, bytes_of(golden_name(format) + ".random"), values);
    std::size_t different = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const bool both_nan = std::isnan(values[i]) && std::isnan(expected[i]);
      different += both_nan || values[i] == expected[i] ? 0 : 1;
    }
    CHECK(different == 0);
  }
}

TEST_CASE("the reference encoder gives ggml's bytes, with and without importance") {
  const auto weights = golden().values<float>("weights");
  const auto importance = golden().values<float>("importance");
  for (const BlockFormat& format : block_formats()) {
    if (!is_small(format) || !can_encode(format.type)) continue;
    CAPTURE(format.name);
    CHECK(encode(format.type, weights, 512, {}, BlockEncoder::reference) == bytes_of(golden_name(format) + ".plain"));
    CHECK(encode(format.type, weights, 512, importance, BlockEncoder::reference) ==
          bytes_of(golden_name(format) + ".weighted"));
  }
}

TEST_CASE("every instruction set gives the same bytes, and any division into rows") {
  const Sample made = sample(7, 768, 3);
  for (const BlockFormat& format : block_formats()) {
    if (!is_small(format) || !can_encode(format.type)) continue;
    for (const BlockEncoder encoder : {BlockEncoder::search, BlockEncoder::reference}) {
      CAPTURE(format.name, static_cast<int>(encoder));
      const auto expected = encode(format.type, made.weights, 768, made.importance, encoder);
      for (const KernelTable* table : available_kernels()) {
        CAPTURE(table->isa);
        std::vector<std::byte> bytes(expected.size());
        encode_blocks(format.type, made.weights, 768, made.importance, encoder, bytes, table->isa);
        CHECK(bytes == expected);
      }
      const std::vector<float> rows(made.weights.begin() + 768, made.weights.begin() + 3 * 768);
      const auto part = encode(format.type, rows, 768, made.importance, encoder);
      const std::size_t row = block_bytes(format.type, 768);
      CHECK(std::equal(part.begin(), part.end(), expected.begin() + static_cast<std::ptrdiff_t>(row)));
    }
  }
}

TEST_CASE("the search leaves less error than ggml's encoder") {
  const Sample made = sample(16, 1024, 5);
  for (const BlockFormat& format : block_formats()) {
    if (!is_small(format) || !can_encode(format.type)) continue;
    for (const bool weighted : {false, true}) {
      CAPTURE(format.name, weighted);
      const std::vector<float> importance = weighted ? made.importance : std::vector<float>{};
      const auto error = [&](BlockEncoder encoder) {
        return relative_error(format.type, made.weights, 1024, importance,
                              encode(format.type, made.weights, 1024, importance, encoder));
      };
      CHECK(error(BlockEncoder::search) < error(BlockEncoder::reference));
    }
  }
}

TEST_CASE("what blocks can hold exactly is kept") {
  // Weights that are a block's own values, scales well inside half precision.
  std::mt19937 random(11);
  for (const BlockFormat& format : block_formats()) {
    const bool one_scale = format.type == BlockType::q4_0 || format.type == BlockType::q8_0 ||
                           format.type == BlockType::iq4_nl || format.type == BlockType::mxfp4 ||
                           format.type == BlockType::tq1_0 || format.type == BlockType::tq2_0;
    if (!one_scale) continue;
    CAPTURE(format.name);
    std::vector<std::byte> bytes(block_bytes(format.type, 512));
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    std::vector<float> codes(512);
    decode_blocks(format.type, bytes, codes);
    const Sample made = sample(1, 512, 17);
    const auto first = encode(format.type, made.weights, 512, {}, BlockEncoder::search);
    std::vector<float> values(512), again(512);
    decode_blocks(format.type, first, values);
    decode_blocks(format.type, encode(format.type, values, 512, {}, BlockEncoder::search), again);
    CHECK(again == values);
  }
}

TEST_CASE("blocks of zeros become zeros, and blocks without importance are coded all the same") {
  for (const BlockFormat& format : block_formats()) {
    if (!is_small(format) || !can_encode(format.type)) continue;
    CAPTURE(format.name);
    std::vector<float> weights(512, 0.0F), values(512, 1.0F);
    for (const BlockEncoder encoder : {BlockEncoder::search, BlockEncoder::reference}) {
      decode_blocks(format.type, encode(format.type, weights, 512, {}, encoder), values);
      CHECK(values == weights);
    }
    const Sample made = sample(1, 512, 23);
    const std::vector<float> nothing(512, 0.0F);
    CHECK(encode(format.type, made.weights, 512, nothing, BlockEncoder::search) ==
          encode(format.type, made.weights, 512, {}, BlockEncoder::search));
  }
}

TEST_CASE("sizes that do not fit are refused") {
  std::vector<float> weights(96);
  std::vector<std::byte> out(54);
  const auto refusal = [&](BlockType type, std::span<std::byte> to, std::span<const float> importance) {
    try {
      encode_blocks(type, weights, 96, importance, BlockEncoder::search, to);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const auto says = [](const std::string& text, const char* part) { return text.find(part) != std::string::npos; };
  CHECK(says(refusal(BlockType::q4_k, out, {}), "no whole blocks of Q4_K"));
  CHECK(says(refusal(BlockType::nvfp4, out, {}), "read but not made"));
  CHECK(says(refusal(BlockType::q4_0, std::span(out).first(18), {}), "54 bytes"));
  CHECK(says(refusal(BlockType::q4_0, out, std::span(weights).first(5)), "5 numbers"));
  CHECK(refusal(BlockType::q4_0, out, {}) == "nothing");
  CHECK_THROWS_AS(decode_blocks(BlockType::q4_0, std::span(out).first(17), weights), Error);
}

TEST_CASE("a quantized tensor of blocks has the values of its blocks, slice by slice") {
  const Sample made = sample(9, 512, 29);
  const QuantizedTensor whole =
      gguf_quantize(f32_view(made.weights, 9, 512), block_args(BlockType::q4_k), made.importance);
  CHECK(whole.blocks == encode(BlockType::q4_k, made.weights, 512, made.importance, BlockEncoder::search));
  check_sizes(whole);
  std::vector<float> values(9 * 512), row(512);
  decode_blocks(BlockType::q4_k, whole.blocks, values);
  QuantizedTensor joined;
  for (const std::uint64_t first : {0U, 4U, 8U}) {
    const std::uint64_t count = std::min<std::uint64_t>(4, 9 - first);
    const QuantizedTensor slice = slice_of(whole, first, count);
    dequantize_row(slice, count - 1, row);
    const auto expected = values.begin() + static_cast<std::ptrdiff_t>((first + count - 1) * 512);
    CHECK(std::equal(row.begin(), row.end(), expected));
    put_slice(slice, first, 9, joined);
  }
  CHECK(joined.blocks == whole.blocks);
  CHECK(describe(whole.args) == "gguf Q4_K");
}
