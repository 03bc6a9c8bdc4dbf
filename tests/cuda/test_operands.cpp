// Layouts and conversions one by one: every code of every type, every place of every operand.
#include <bit>
#include <set>

#include "cuda/operands.h"
#include "emulated_warp.h"
#include "quant/dtype.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

// The two rows and four columns that lane `lane` holds of a run, by the fragment tables: sum of A (row r, k) B (k, n).
template <class Operand>
void check_run(const cuda::TileMatrix& m, const std::vector<std::uint32_t>& words, std::uint32_t run,
               const std::function<float(std::uint32_t row, std::uint32_t column)>& expected) {
  for (unsigned lane = 0; lane < 32; ++lane) {
    typename Operand::Strip strip;
    typename Operand::Shared shared;
    Operand::start(shared, m, 0);
    Operand::load(strip, m, lane / 4);
    std::uint32_t a[4];
    Operand::decode(a, words.data() + lane * 64 + run / 2 * (Operand::kBits / 2), run % 2, strip, shared);
    for (unsigned row : {lane / 4, lane / 4 + 8}) {
      for (unsigned j = 0; j < 4; ++j) {  // column 4 t + j of the run is k = 2 t + j, or 8 + 2 t + j - 2
        const unsigned k = j < 2 ? 2 * (lane % 4) + j : 8 + 2 * (lane % 4) + j - 2;
        const FragmentPlace place = place_of_a(row, k, 2);
        REQUIRE(place.lane == lane);
        CHECK(bf16_element(a, place.index) == expected(row, run * 16 + 4 * (lane % 4) + j));
      }
    }
  }
}

std::uint32_t code_at(std::uint32_t row, std::uint32_t column, std::uint32_t bits) {
  return (row * 37 + column * 11 + column / 16) & ((1U << bits) - 1U);
}

// Words [32 lanes][64] of a step with code_at everywhere.
std::vector<std::uint32_t> step_words(cuda::TileKind kind, std::uint32_t bits) {
  std::vector<std::uint32_t> words(32 * 64, 0);
  for (std::uint32_t row = 0; row < 16; ++row) {
    for (std::uint32_t c = 0; c < 128; ++c) {
      const cuda::CodePlace at = cuda::code_place(kind, bits, row, c);
      words[at.lane * 64 + at.word] |= code_at(row, c, bits) << at.shift;
    }
  }
  return words;
}

}  // namespace

TEST_CASE("each code of a step has a place of its own", "[cuda]") {
  const auto check = [](cuda::TileKind kind, std::uint32_t bits) {
    std::set<std::array<std::uint32_t, 3>> places;
    for (std::uint32_t row = 0; row < 16; ++row) {
      for (std::uint32_t c = 0; c < 128; ++c) {
        const cuda::CodePlace at = cuda::code_place(kind, bits, row, c);
        CHECK((at.lane < 32 && at.word < 2 * bits && at.shift <= 32 - bits && at.shift % bits == 0));
        places.insert({at.lane, at.word, at.shift});
      }
    }
    CHECK(places.size() == 16 * 128);
  };
  for (const std::uint32_t bits : {2, 4, 8}) check(cuda::TileKind::integer, bits);
  check(cuda::TileKind::table, 4);
}

TEST_CASE("integers are decoded exactly, less any zero point", "[cuda]") {
  const auto check = [](auto operand, std::uint32_t bits) {
    using Operand = decltype(operand);
    const int half = 1 << (bits - 1);
    for (const int zero : {-half, -1, 0, 1, half - 1}) {
      const std::vector<std::int8_t> zeros(16, static_cast<std::int8_t>(zero));
      cuda::TileMatrix m{};
      m.offset = half;
      m.zeros = zeros.data();
      const auto words = step_words(cuda::TileKind::integer, bits);
      for (std::uint32_t run = 0; run < 8; ++run) {
        check_run<Operand>(m, words, run, [&](std::uint32_t row, std::uint32_t column) {
          return static_cast<float>(static_cast<int>(code_at(row, column, bits)) - half - zero);
        });
      }
    }
  };
  check(cuda::IntegerOperand<2>{}, 2);
  check(cuda::IntegerOperand<4>{}, 4);
  check(cuda::IntegerOperand<8>{}, 8);
}

TEST_CASE("FP8 is decoded exactly", "[cuda]") {
  const cuda::TileMatrix m{};
  const auto words = step_words(cuda::TileKind::e4m3, 8);
  for (std::uint32_t code = 0; code < 256; ++code) {  // all numbers, one pair at a time
    const float e4m3 = e4m3_to_f32(static_cast<std::uint8_t>(code)),
                e5m2 = e5m2_to_f32(static_cast<std::uint8_t>(code));
    std::uint32_t a[4];
    const std::uint32_t same[8] = {code * 0x01010101U, code * 0x01010101U, code * 0x01010101U, code * 0x01010101U};
    cuda::Float8Operand<4>::decode(a, same, 0, {}, {});
    if (std::isfinite(e4m3))
      CHECK(std::bit_cast<std::uint32_t>(bf16_element(a, 3)) == std::bit_cast<std::uint32_t>(e4m3));
    if (std::isfinite(e4m3)) CHECK(cuda::small_float(code, 4) == e4m3);
    cuda::Float8Operand<5>::decode(a, same, 0, {}, {});
    if (std::isfinite(e5m2))
      CHECK(std::bit_cast<std::uint32_t>(bf16_element(a, 3)) == std::bit_cast<std::uint32_t>(e5m2));
    if (std::isfinite(e5m2)) CHECK(cuda::small_float(code, 5) == e5m2);
  }
  for (std::uint32_t run = 0; run < 8; ++run) {
    check_run<cuda::Float8Operand<4>>(m, words, run, [&](std::uint32_t row, std::uint32_t column) {
      const std::uint32_t code = code_at(row, column, 8);
      const float value = e4m3_to_f32(static_cast<std::uint8_t>(code));
      return std::isfinite(value) ? value : code < 128 ? 480.0F : -480.0F;  // which no packed matrix has
    });
  }
}

TEST_CASE("tables are looked up", "[cuda]") {
  alignas(16) std::uint32_t table[8] = {};
  const auto value = [](std::uint32_t i) { return bf16_to_f32(f32_to_bf16(0.37F * static_cast<float>(i) - 2.9F)); };
  for (std::uint32_t i = 0; i < 16; ++i) {
    const std::uint32_t bits = f32_to_bf16(value(i));
    table[i / 4] |= (bits & 0xFFU) << (i % 4 * 8);
    table[4 + i / 4] |= (bits >> 8) << (i % 4 * 8);
  }
  cuda::TileMatrix m{};
  m.table = table;
  m.planes = 1;
  for (std::uint32_t i = 0; i < 16; ++i) CHECK(cuda::table_value(m, i) == value(i));
  const auto words = step_words(cuda::TileKind::table, 4);
  for (std::uint32_t run = 0; run < 8; ++run) {
    check_run<cuda::TableOperand>(
        m, words, run, [&](std::uint32_t row, std::uint32_t column) { return value(code_at(row, column, 4)); });
  }
}

TEST_CASE("numbers are cut into parts without loss, and rounded to nearest", "[cuda]") {
  std::uint32_t state = 1;
  for (int i = 0; i < 20000; ++i) {
    state = state * 1664525U + 1013904223U;
    const float value = std::bit_cast<float>(state);
    const std::uint32_t exponent = state >> 23 & 0xFF;
    if (exponent < 20 || exponent == 255) continue;
    float sum = 0;
    for (std::uint32_t part = 3; part-- > 0;) sum += cuda::bf16_to_float(cuda::bf16_part(value, part));
    CHECK(sum == value);
    CHECK(cuda::bf16_of(value) == f32_to_bf16(value));
  }
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float expected = f16_to_f32(static_cast<std::uint16_t>(bits));
    const float found = cuda::f16_to_float(bits);
    if (std::isnan(expected)) {
      if (!std::isnan(found)) FAIL("F16 " << bits);
    } else if (std::bit_cast<std::uint32_t>(expected) != std::bit_cast<std::uint32_t>(found)) {
      FAIL("F16 " << bits);
    }
  }
}

// The fragment tables of the PTX ISA as they are written there: element i of lane l is at ...
TEST_CASE("operands lie where the PTX ISA says", "[cuda]") {
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned group = lane / 4, in_group = lane % 4;
    for (unsigned i = 0; i < 8; ++i) {  // m16n8k16, A
      const unsigned row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const FragmentPlace place = place_of_a(row, in_group * 2 + (i & 1U) + (i >= 4 ? 8 : 0), 2);
      CHECK((place.lane == lane && place.index == i));
    }
    for (unsigned i = 0; i < 4; ++i) {  // m16n8k16, B; and C
      const FragmentPlace b = place_of_b(in_group * 2 + (i & 1U) + (i >= 2 ? 8 : 0), group, 2);
      CHECK((b.lane == lane && b.index == i));
      const FragmentPlace c = place_of_c(i < 2 ? group : group + 8, in_group * 2 + (i & 1U));
      CHECK((c.lane == lane && c.index == i));
    }
    for (unsigned i = 0; i < 16; ++i) {  // m16n8k32, A
      const unsigned row = i < 4 || (i >= 8 && i < 12) ? group : group + 8;
      const FragmentPlace place = place_of_a(row, in_group * 4 + (i & 3U) + (i >= 8 ? 16 : 0), 4);
      CHECK((place.lane == lane && place.index == i));
    }
    for (unsigned i = 0; i < 8; ++i) {  // m16n8k32, B
      const FragmentPlace b = place_of_b(in_group * 4 + (i & 3U) + (i >= 4 ? 16 : 0), group, 4);
      CHECK((b.lane == lane && b.index == i));
    }
  }
}
