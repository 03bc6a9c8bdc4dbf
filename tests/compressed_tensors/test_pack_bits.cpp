#include <cstring>
#include <random>
#include <vector>

#include "packing/pack_bits.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant::packing;

namespace {

std::vector<std::int8_t> random_codes(std::size_t count, unsigned bits, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> code(-(1 << (bits - 1)), (1 << (bits - 1)) - 1);
  std::vector<std::int8_t> codes(count);
  for (auto& c : codes) c = static_cast<std::int8_t>(code(random));
  return codes;
}

std::vector<std::uint32_t> words_of(const std::vector<std::byte>& bytes) {
  std::vector<std::uint32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

std::vector<std::uint32_t> pack(const std::vector<std::int8_t>& codes, unsigned bits, Coding coding = Coding::offset) {
  std::vector<std::byte> bytes(dense_words(codes.size(), bits) * 4, std::byte{0xAA});
  pack_row(codes, bits, coding, bytes);
  return words_of(bytes);
}

/// One bit at a time, as the format is defined.
std::vector<std::uint32_t> pack_by_definition(const std::vector<std::int8_t>& codes, unsigned bits) {
  std::vector<std::uint32_t> words((codes.size() * bits + 31) / 32);
  for (std::size_t i = 0; i < codes.size(); ++i) {
    const unsigned field = static_cast<unsigned>(codes[i] + (1 << (bits - 1)));
    for (unsigned b = 0; b < bits; ++b) {
      const std::size_t at = i * bits + b;
      words[at / 32] |= (field >> b & 1U) << (at % 32);
    }
  }
  return words;
}

}  // namespace

TEST_CASE("published check values of the 32-bit packing") {
  CHECK(pack({1, 2, 3, 4, 5, 6, 7, 0}, 4) == std::vector<std::uint32_t>{0x8FEDCBA9});
  CHECK(pack({-1, -2, -3, -4, -5, -6, -7, -8}, 4) == std::vector<std::uint32_t>{0x01234567});
  CHECK(pack({1, 2}, 8) == std::vector<std::uint32_t>{0x00008281});
  CHECK(pack({-4, -3, -2, -1, 0, 1, 2, 3, 3, 2, 1, 0}, 3) == std::vector<std::uint32_t>{0x77FAC688, 0x00000009});
}

TEST_CASE("whole-element words of older versions are read") {
  const std::vector<std::uint32_t> words = {0x37FAC688, 0x00000025};
  std::vector<std::int8_t> codes(12);
  unpack_row_whole_elements(std::as_bytes(std::span(words)), 3, Coding::offset, codes);
  CHECK(codes == std::vector<std::int8_t>{-4, -3, -2, -1, 0, 1, 2, 3, 3, 2, 1, 0});
  CHECK(whole_element_words(12, 3) == 2);
  CHECK(whole_element_words(10, 3) == 1);
  CHECK(whole_element_words(11, 7) == 3);
}

TEST_CASE("dense packing follows the definition and comes back for every width and length") {
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const std::size_t count : {1U, 2U, 3U, 7U, 8U, 9U, 15U, 31U, 32U, 33U, 63U, 64U, 65U, 127U, 1000U}) {
      CAPTURE(bits, count);
      const auto codes = random_codes(count, bits, bits * 1000 + static_cast<unsigned>(count));
      const auto words = pack(codes, bits);
      CHECK(words == pack_by_definition(codes, bits));
      std::vector<std::int8_t> back(count);
      unpack_row(std::as_bytes(std::span(words)), bits, Coding::offset, back);
      CHECK(back == codes);
      // No more bytes are needed than the bits fill.
      const auto used = std::as_bytes(std::span(words)).first((count * bits + 7) / 8);
      const std::vector<std::byte> exact(used.begin(), used.end());
      unpack_row(exact, bits, Coding::offset, back);
      CHECK(back == codes);
    }
  }
}

TEST_CASE("raw coding keeps the low bits and gives them back unsigned") {
  CHECK(pack({1, 2, 3, 4, 5, 6, 7, 15}, 4, Coding::raw) == std::vector<std::uint32_t>{0xF7654321});
  CHECK(pack({-1, -8}, 4, Coding::raw) == std::vector<std::uint32_t>{0x0000008F});
  std::vector<std::int8_t> back(8);
  const std::vector<std::uint32_t> words = {0xF7654321};
  unpack_row(std::as_bytes(std::span(words)), 4, Coding::raw, back);
  CHECK(back == std::vector<std::int8_t>{1, 2, 3, 4, 5, 6, 7, 15});
}

TEST_CASE("FP4 nibbles: the even column is the low one") {
  std::vector<std::byte> bytes(2);
  pack_row(std::vector<std::int8_t>{1, 15, 8, 0}, 4, Coding::raw, bytes);
  CHECK(bytes == std::vector<std::byte>{std::byte{0xF1}, std::byte{0x08}});
}

TEST_CASE("packing along rows equals packing each column") {
  for (unsigned bits = 1; bits <= 8; ++bits) {
    for (const std::size_t rows : {1U, 5U, 31U, 32U, 33U, 64U, 70U}) {
      CAPTURE(bits, rows);
      const std::size_t cols = 3;
      const auto values = random_codes(rows * cols, bits, bits + static_cast<unsigned>(rows));
      const std::size_t word_rows = dense_words(rows, bits);
      std::vector<std::byte> bytes(word_rows * cols * 4);
      pack_along_rows(values, rows, cols, bits, Coding::offset, bytes);
      const auto words = words_of(bytes);
      for (std::size_t c = 0; c < cols; ++c) {
        std::vector<std::int8_t> column(rows);
        for (std::size_t r = 0; r < rows; ++r) column[r] = values[r * cols + c];
        const auto expected = pack_by_definition(column, bits);
        for (std::size_t w = 0; w < word_rows; ++w) CHECK(words[w * cols + c] == expected[w]);
      }
      std::vector<std::int8_t> back(values.size());
      unpack_along_rows(bytes, rows, cols, bits, Coding::offset, false, back);
      CHECK(back == values);
    }
  }
}

TEST_CASE("packing refuses wrong sizes") {
  std::vector<std::byte> bytes(4);
  std::vector<std::int8_t> codes(9);
  CHECK_THROWS_AS(pack_row(codes, 4, Coding::offset, bytes), quant::Error);
  CHECK_THROWS_AS(unpack_row(bytes, 4, Coding::offset, codes), quant::Error);
  CHECK_THROWS_AS(unpack_row_whole_elements(bytes, 4, Coding::offset, codes), quant::Error);
  CHECK_THROWS_AS(pack_row(codes, 0, Coding::offset, bytes), quant::Error);
  CHECK_THROWS_AS(pack_row(codes, 9, Coding::offset, bytes), quant::Error);
  CHECK_THROWS_AS(pack_along_rows(codes, 3, 3, 4, Coding::offset, bytes), quant::Error);
  CHECK_THROWS_AS(unpack_along_rows(bytes, 3, 3, 4, Coding::offset, false, codes), quant::Error);
  CHECK_THROWS_AS(dense_words(~0ULL, 8), quant::Error);
}
