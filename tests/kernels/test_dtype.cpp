// Conversions of single values against brute force over all codes.
#include <bit>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "quant/dtype.h"
#include "support/catch.h"

namespace {

using namespace quant;

struct SmallFloat {
  const char* name;
  unsigned codes;  // magnitude codes that are finite: 0 .. codes - 1
  unsigned sign_bit;
  std::function<float(unsigned)> decode;
  std::function<unsigned(float)> encode;
};

const std::vector<SmallFloat>& small_floats() {
  static const std::vector<SmallFloat> list{
      {"E2M1", 8, 8, [](unsigned c) { return e2m1_to_f32(static_cast<std::uint8_t>(c)); },
       [](float x) { return f32_to_e2m1(x); }},
      {"E4M3", 0x7F, 0x80, [](unsigned c) { return e4m3_to_f32(static_cast<std::uint8_t>(c)); },
       [](float x) { return f32_to_e4m3(x); }},
      {"E5M2", 0x7C, 0x80, [](unsigned c) { return e5m2_to_f32(static_cast<std::uint8_t>(c)); },
       [](float x) { return f32_to_e5m2(x); }},
      {"F16", 0x7C00, 0x8000, [](unsigned c) { return f16_to_f32(static_cast<std::uint16_t>(c)); },
       [](float x) { return f32_to_f16(x); }},
      {"BF16", 0x7F80, 0x8000, [](unsigned c) { return bf16_to_f32(static_cast<std::uint16_t>(c)); },
       [](float x) { return f32_to_bf16(x); }}};
  return list;
}

// The two neighbours of x >= 0 decide: the nearer, or the even code of two equally near.
unsigned nearest_code(const SmallFloat& type, float x) {
  unsigned low = 0, high = type.codes - 1;
  if (x >= type.decode(high)) return high;
  while (high - low > 1) (type.decode((low + high) / 2) <= x ? low : high) = (low + high) / 2;
  const double below = static_cast<double>(x) - type.decode(low), above = static_cast<double>(type.decode(high)) - x;
  if (below != above) return below < above ? low : high;
  return low % 2 == 0 ? low : high;
}

}  // namespace

TEST_CASE("every code of every small float comes back from its value, with its sign") {
  for (const SmallFloat& type : small_floats()) {
    INFO(type.name);
    std::size_t wrong = 0;
    for (unsigned code = 0; code < type.codes; ++code) {
      wrong += type.encode(type.decode(code)) != code ? 1 : 0;
      wrong += type.encode(-type.decode(code)) != (code | type.sign_bit) ? 1 : 0;
      wrong += type.decode(code | type.sign_bit) != -type.decode(code) ? 1 : 0;
      if (code > 0) wrong += type.decode(code) <= type.decode(code - 1) ? 1 : 0;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("values go to the nearest code, ties to the even one") {
  std::mt19937 random(9);
  for (const SmallFloat& type : small_floats()) {
    INFO(type.name);
    std::size_t wrong = 0;
    for (int i = 0; i < 20000; ++i) {
      const unsigned code = static_cast<unsigned>(random()) % (type.codes - 1);
      const float low = type.decode(code), high = type.decode(code + 1);
      const float middle = low + (high - low) / 2;
      const float between = low + (high - low) * (static_cast<float>(random() % 1000) / 1000.0F);
      for (const float x : {middle, std::nextafter(middle, 0.0F), std::nextafter(middle, high), between}) {
        wrong += type.encode(x) != nearest_code(type, x) ? 1 : 0;
      }
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("what is too large saturates in 4 and 8 bits and overflows in 16") {
  CHECK(f32_to_e2m1(1e30F) == 7);
  CHECK(f32_to_e2m1(-1e30F) == 15);
  CHECK(f32_to_e4m3(1e30F) == 0x7E);
  CHECK(f32_to_e4m3(-std::numeric_limits<float>::infinity()) == 0xFE);
  CHECK(f32_to_e5m2(1e30F) == 0x7B);
  CHECK(f32_to_f16(65519.99F) == 0x7BFF);
  CHECK(f32_to_f16(65520.0F) == 0x7C00);
  CHECK(f32_to_bf16(std::numeric_limits<float>::max()) == 0x7F80);
}

TEST_CASE("NaN stays NaN and is quieted") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(f32_to_e4m3(nan) == 0x7F);
  CHECK(f32_to_e5m2(-nan) == 0xFF);
  CHECK(std::isnan(e4m3_to_f32(0x7F)));
  CHECK(std::isnan(e4m3_to_f32(0xFF)));
  CHECK(std::isnan(e5m2_to_f32(0x7D)));
  CHECK(std::isinf(e5m2_to_f32(0x7C)));
  CHECK(std::isnan(f16_to_f32(f32_to_f16(nan))));
  CHECK(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7F800001U)))));
  CHECK(std::bit_cast<std::uint32_t>(f16_to_f32(0x7C01)) == 0x7FC02000U);
  CHECK(std::isnan(e8m0_to_f32(255)));
}

TEST_CASE("published limits of the types") {
  CHECK(e4m3_to_f32(0x7E) == 448.0F);
  CHECK(e4m3_to_f32(0x08) == 0x1p-6F);
  CHECK(e4m3_to_f32(0x01) == 0x1p-9F);
  CHECK(e5m2_to_f32(0x7B) == 57344.0F);
  CHECK(e5m2_to_f32(0x01) == 0x1p-16F);
  CHECK(e8m0_to_f32(0) == 0x1p-127F);
  CHECK(e8m0_to_f32(127) == 1.0F);
  CHECK(e8m0_to_f32(254) == 0x1p127F);
  CHECK(round_to_dtype(DType::F8_E4M3, 84.0F) == 80.0F);
  CHECK(round_to_dtype(DType::F32, 0.1F) == 0.1F);
}

TEST_CASE("names of types read back, and only exact ones") {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto type = static_cast<DType>(i);
    CHECK(parse_dtype(dtype_name(type)) == type);
    if (torch_dtype_name(type).empty()) continue;
    CHECK(parse_torch_dtype(torch_dtype_name(type)) == type);
    CHECK(parse_torch_dtype("torch." + std::string(torch_dtype_name(type))) == type);
  }
  CHECK(!parse_dtype("bf16"));
  CHECK(!parse_dtype(""));
  CHECK(!parse_torch_dtype(""));
  CHECK(!parse_torch_dtype("torch."));
  CHECK(dtype_bits(DType::F4) == 4);
  CHECK(dtype_bits(DType::C64) == 64);
  CHECK(dtype_epsilon(DType::F16) == 0x1p-10F);
}
