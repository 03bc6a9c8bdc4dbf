// Every table of kernels against plain code, and against the scalar table bit by bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "kernels/random_rows.h"
#include "quant/error.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::test;

struct Sizes {
  std::size_t cols, group;
};
// Whole blocks of 16, tails of every kind, groups of one column, tiles of 128 with a remainder.
constexpr Sizes kSizes[] = {{1, 1},    {7, 3},     {15, 16},   {16, 16},   {33, 8},    {48, 16},   {64, 32},
                            {100, 32}, {128, 128}, {129, 128}, {257, 128}, {300, 300}, {311, 144}, {1000, 1000}};

std::size_t groups_of(const Sizes& sizes) { return (sizes.cols + sizes.group - 1) / sizes.group; }

struct Outcome {
  std::vector<std::int8_t> codes;
  RowSums sums{};
  std::vector<double> signal, noise;
};

bool same(const Outcome& a, const Outcome& b) {
  return same_bits(a.codes, b.codes) && same_bits(a.signal, b.signal) && same_bits(a.noise, b.noise) &&
         a.sums.signal == b.sums.signal && a.sums.noise == b.sums.noise && a.sums.recon == b.sums.recon &&
         a.sums.max_abs_error == b.sums.max_abs_error && a.sums.clipped == b.sums.clipped &&
         a.sums.zeros == b.sums.zeros;
}

struct Coding {
  Element element = Element::integer;
  float code_min = -8, code_max = 7;
  std::vector<float> scales, zero_points;
};

Outcome run(const KernelTable& table, const StoredRow& row, const Sizes& sizes, const Coding& coding, bool encode,
            const std::vector<std::int8_t>& codes = {}) {
  Outcome out{codes, {}, std::vector<double>(groups_of(sizes), 1.0), std::vector<double>(groups_of(sizes), 2.0)};
  out.codes.resize(sizes.cols);
  const EncodeRow args{row.data(),
                       row.type(),
                       coding.element,
                       sizes.cols,
                       sizes.group,
                       coding.scales.data(),
                       coding.zero_points.empty() ? nullptr : coding.zero_points.data(),
                       coding.code_min,
                       coding.code_max,
                       out.codes.data(),
                       &out.sums,
                       out.signal.data(),
                       out.noise.data()};
  (encode ? table.encode : table.measure)(args);
  return out;
}

// Scales that clip some weights and zero points in range; `kind` 0: symmetric, 1: asymmetric, 2: negative scales.
Coding make_coding(Element element, int kind, const StoredRow& row, const Sizes& sizes) {
  Coding coding;
  coding.element = element;
  for (std::size_t g = 0; g < groups_of(sizes); ++g) {
    float absmax = 0;
    for (std::size_t c = g * sizes.group; c < std::min(sizes.cols, (g + 1) * sizes.group); ++c) {
      absmax = std::max(absmax, std::fabs(row.values()[c]));
    }
    const float largest = element == Element::integer ? 8.5F
                          : element == Element::e2m1  ? 6.5F
                          : element == Element::e4m3  ? 460.0F
                                                      : 58000.0F;
    const float scale = absmax == 0 ? 0.125F : absmax / largest;
    coding.scales.push_back(kind == 2 ? -scale : scale);
    if (kind == 1) coding.zero_points.push_back(static_cast<float>(static_cast<int>(g * 5 % 16) - 8));
  }
  return coding;
}

float reference_value(Element element, std::int8_t code, float zero_point) {
  const auto bits = static_cast<std::uint8_t>(code);
  if (element == Element::e2m1) return e2m1_to_f32(bits);
  if (element == Element::e4m3) return e4m3_to_f32(bits);
  if (element == Element::e5m2) return e5m2_to_f32(bits);
  return static_cast<float>(code) - zero_point;
}

std::int8_t reference_code(const Coding& coding, float w, float scale, float zero_point) {
  const float t = w / scale;
  if (coding.element == Element::integer) {
    return static_cast<std::int8_t>(std::nearbyint(std::clamp(t + zero_point, coding.code_min, coding.code_max)));
  }
  const float x = t == 0 ? 0.0F : t;  // -0 becomes 0
  if (coding.element == Element::e2m1) return static_cast<std::int8_t>(f32_to_e2m1(x));
  return static_cast<std::int8_t>(coding.element == Element::e4m3 ? f32_to_e4m3(x) : f32_to_e5m2(x));
}

// Codes and sums in float64, by the definitions of ErrorSums.
void check_against_definition(const Outcome& got, const StoredRow& row, const Sizes& sizes, const Coding& coding) {
  double signal = 0, noise = 0, dot = 0, recon = 0, worst = 0;
  std::uint32_t zeros = 0, wrong = 0;
  for (std::size_t c = 0; c < sizes.cols; ++c) {
    const std::size_t g = c / sizes.group;
    const float zero_point = coding.zero_points.empty() ? 0.0F : coding.zero_points[g];
    const float w = row.values()[c];
    wrong += got.codes[c] != reference_code(coding, w, coding.scales[g], zero_point) ? 1 : 0;
    const double v = static_cast<double>(reference_value(coding.element, got.codes[c], zero_point)) *
                     static_cast<double>(coding.scales[g]);
    signal += static_cast<double>(w) * w;
    noise += (w - v) * (w - v);
    dot += w * v;
    recon += v * v;
    worst = std::max(worst, std::fabs(w - v));
    zeros += v == 0 ? 1 : 0;
  }
  CHECK(wrong == 0);
  CHECK(got.sums.zeros == zeros);
  CHECK(got.sums.signal == Approx(signal).epsilon(1e-6));
  CHECK(got.sums.noise == Approx(noise).epsilon(1e-4).margin(1e-9 * signal));
  CHECK(got.sums.dot == Approx(dot).epsilon(2e-6));
  CHECK(got.sums.recon == Approx(recon).epsilon(1e-6));
  CHECK(got.sums.max_abs_error == Approx(worst).epsilon(1e-3).margin(1e-6 * std::sqrt(signal)));
}

float bits_float(std::uint32_t bits) { return std::bit_cast<float>(bits); }

}  // namespace

TEST_CASE("tables: scalar comes first, names select, unknown names are refused") {
  REQUIRE(!available_kernels().empty());
  CHECK(std::string(available_kernels().front()->isa) == "scalar");
  CHECK(&select_kernels("") == available_kernels().back());
  for (const KernelTable* table : available_kernels()) CHECK(&select_kernels(table->isa) == table);
  try {
    select_kernels("avx1024");
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    CHECK(std::string(error.what()).find("avx1024") != std::string::npos);
    CHECK(error.hint().find("scalar") != std::string::npos);
  }
}

TEST_CASE("every half and bfloat16 converts exactly on every table") {
  std::vector<std::uint16_t> all(65536 + 5);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  for (const KernelTable* table : available_kernels()) {
    INFO(table->isa);
    std::vector<float> half(all.size()), brain(all.size());
    table->f16_to_f32(all.data(), half.data(), all.size());
    table->bf16_to_f32(all.data(), brain.data(), all.size());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < all.size(); ++i) {
      wrong += std::bit_cast<std::uint32_t>(half[i]) != std::bit_cast<std::uint32_t>(f16_to_f32(all[i])) ? 1 : 0;
      wrong += std::bit_cast<std::uint32_t>(brain[i]) != std::uint32_t{all[i]} << 16 ? 1 : 0;
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("values round to every type as dtype.h rounds them, but stay finite") {
  std::mt19937 random(5);
  std::vector<float> values{0.0F,     1e-8F, 448.0F,  464.0F,  65504.0F,     65519.0F,
                            65520.0F, 1e30F, 3.4e38F, 5.9e-8F, 2.9802322e-8F};
  while (values.size() < 40003) {
    const float value = bits_float(static_cast<std::uint32_t>(random()) & 0x7FFFFFFFU);
    if (std::isfinite(value)) values.push_back(values.size() % 2 == 0 ? value : -value);
    values.push_back(std::ldexp(static_cast<float>(random() % 4096), static_cast<int>(random() % 60) - 40));
  }
  const std::pair<RoundTo, DType> types[] = {{RoundTo::f16, DType::F16},
                                             {RoundTo::bf16, DType::BF16},
                                             {RoundTo::e4m3, DType::F8_E4M3},
                                             {RoundTo::e5m2, DType::F8_E5M2},
                                             {RoundTo::f32, DType::F32}};
  for (const KernelTable* table : available_kernels()) {
    for (const auto& [round, type] : types) {
      INFO(table->isa << " " << dtype_name(type));
      auto rounded = values;
      table->round_values(round, rounded.data(), rounded.size());
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < values.size(); ++i) {
        float expected = round_to_dtype(type, values[i]);
        if (std::isinf(expected))
          expected = std::copysign(type == DType::F16 ? 65504.0F : bits_float(0x7F7F0000), values[i]);
        wrong += rounded[i] != expected ? 1 : 0;
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("ranges and largest magnitudes are exact for every length and type") {
  for (const Pattern pattern : kPatterns) {
    for (const WeightType type : kWeightTypes) {
      for (const Sizes& sizes : kSizes) {
        const StoredRow row(pattern_values(pattern, sizes.cols, 11), type);
        for (const KernelTable* table : available_kernels()) {
          std::vector<float> low(groups_of(sizes)), high(low), absmax(low);
          table->group_range(row.data(), type, sizes.cols, sizes.group, low.data(), high.data());
          table->group_absmax(row.data(), type, sizes.cols, sizes.group, absmax.data());
          std::size_t wrong = 0;
          for (std::size_t g = 0; g < low.size(); ++g) {
            const auto first = row.values().begin() + static_cast<std::ptrdiff_t>(g * sizes.group);
            const auto last =
                row.values().begin() + static_cast<std::ptrdiff_t>(std::min(sizes.cols, (g + 1) * sizes.group));
            const auto [least, most] = std::minmax_element(first, last);
            wrong += low[g] != *least || high[g] != *most || absmax[g] != std::max(-*least, *most) ? 1 : 0;
          }
          INFO(table->isa << " cols " << sizes.cols << " group " << sizes.group);
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("a NaN or infinity shows in its group's range, and only there") {
  for (const WeightType type : kWeightTypes) {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      for (const std::size_t at : {0U, 15U, 16U, 37U, 63U, 99U}) {
        auto values = pattern_values(Pattern::gaussian, 100, 3);
        values[at] = bad;
        const StoredRow row(values, type);
        for (const KernelTable* table : available_kernels()) {
          float low[4], high[4], absmax[4];
          table->group_range(row.data(), type, 100, 32, low, high);
          table->group_absmax(row.data(), type, 100, 32, absmax);
          for (std::size_t g = 0; g < 4; ++g) {
            CHECK(std::isfinite(low[g]) == (g != at / 32));
            CHECK(std::isfinite(high[g]) == (g != at / 32));
            CHECK(std::isfinite(absmax[g]) == (g != at / 32));
          }
        }
      }
    }
  }
}

TEST_CASE("encode equals its definition, and every table the scalar one bit by bit") {
  for (const Element element : {Element::integer, Element::e2m1, Element::e4m3, Element::e5m2}) {
    for (int kind = 0; kind < (element == Element::integer ? 3 : 1); ++kind) {
      for (const Pattern pattern : kPatterns) {
        for (const WeightType type : kWeightTypes) {
          for (const Sizes& sizes : kSizes) {
            const StoredRow row(pattern_values(pattern, sizes.cols, 17), type);
            const Coding coding = make_coding(element, kind, row, sizes);
            const Outcome scalar = run(*available_kernels().front(), row, sizes, coding, true);
            INFO("element " << static_cast<int>(element) << " kind " << kind << " pattern " << static_cast<int>(pattern)
                            << " type " << static_cast<int>(type) << " cols " << sizes.cols << " group "
                            << sizes.group);
            check_against_definition(scalar, row, sizes, coding);
            for (const KernelTable* table : available_kernels()) {
              INFO(table->isa);
              const Outcome coded = run(*table, row, sizes, coding, true);
              const Outcome measured = run(*table, row, sizes, coding, false, scalar.codes);
              CHECK((same(scalar, coded) && coded.sums.dot == scalar.sums.dot));
              CHECK(same(scalar, measured));
              CHECK(measured.sums.dot == Approx(scalar.sums.dot).epsilon(2e-6));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("group sums are added to what is there and make up the row's") {
  const Sizes sizes{300, 128};
  const StoredRow row(pattern_values(Pattern::gaussian, sizes.cols, 4), WeightType::f16);
  const Coding coding = make_coding(Element::integer, 0, row, sizes);
  const Outcome got = run(kernels(), row, sizes, coding, true);
  double signal = 0, noise = 0;
  for (const double s : got.signal) signal += s - 1;
  for (const double n : got.noise) noise += n - 2;
  CHECK(signal == Approx(got.sums.signal).epsilon(1e-9));
  CHECK(noise == Approx(got.sums.noise).epsilon(1e-6));
}

TEST_CASE("clipped counts weights beyond the range by more than half a step, ties excepted") {
  const std::vector<float> values{0, 7.4F, 7.5F, 7.6F, -8.4F, -8.5F, -8.6F, 100, -100, 3.5F, 2.5F};
  const StoredRow row(values, WeightType::f32);
  const Coding coding{Element::integer, -8, 7, {1.0F}, {}};
  const Coding wide{Element::e2m1, 0, 0, {1.0F}, {}};
  for (const KernelTable* table : available_kernels()) {
    INFO(table->isa);
    CHECK(run(*table, row, {values.size(), 16}, coding, true).sums.clipped == 4);
    CHECK(run(*table, row, {values.size(), 16}, wide, true).sums.clipped == 8);
  }
}

TEST_CASE("codes that are not the nearest are measured as they are and not called clipped inside the range") {
  const std::vector<float> values{3.0F, -3.0F, 9.0F, 7.0F};
  const std::vector<std::int8_t> codes{1, -5, 7, 7};
  const StoredRow row(values, WeightType::f32);
  const Coding coding{Element::integer, -8, 7, {1.0F}, {}};
  for (const KernelTable* table : available_kernels()) {
    const Outcome got = run(*table, row, {4, 4}, coding, false, codes);
    CHECK(got.sums.noise == 4.0 + 4.0 + 4.0);
    CHECK(got.sums.clipped == 1);
    CHECK(got.sums.max_abs_error == 2.0F);
    CHECK(got.sums.dot == 3.0 + 15.0 + 63.0 + 49.0);
  }
}

TEST_CASE("sums of very large and very small float32 weights neither overflow nor vanish") {
  for (const float size : {1e30F, 1e-30F}) {
    auto values = pattern_values(Pattern::gaussian, 256, 8);
    for (float& value : values) value = value * 50.0F * size;
    for (const WeightType type : {WeightType::f32, WeightType::bf16}) {
      const StoredRow row(values, type);
      const Coding coding = make_coding(Element::integer, 0, row, {256, 128});
      check_against_definition(run(kernels(), row, {256, 128}, coding, true), row, {256, 128}, coding);
    }
  }
}

TEST_CASE("a pair of rows is measured alike on every table") {
  for (const std::size_t n : {1U, 15U, 128U, 333U}) {
    const auto w = pattern_values(Pattern::gaussian, n, 1), v = pattern_values(Pattern::ties, n, 2);
    double dot = 0, noise = 0;
    for (std::size_t i = 0; i < n; ++i) {
      dot += static_cast<double>(w[i]) * v[i];
      noise += (static_cast<double>(w[i]) - v[i]) * (static_cast<double>(w[i]) - v[i]);
    }
    RowSums first{};
    available_kernels().front()->measure_pair(w.data(), v.data(), n, &first);
    CHECK(first.dot == Approx(dot).epsilon(1e-5).margin(1e-7));
    CHECK(first.noise == Approx(noise).epsilon(1e-6));
    CHECK(first.zeros == static_cast<std::uint32_t>(std::count(v.begin(), v.end(), 0.0F)));
    for (const KernelTable* table : available_kernels()) {
      RowSums sums{};
      table->measure_pair(w.data(), v.data(), n, &sums);
      CHECK((sums.dot == first.dot && sums.noise == first.noise && sums.signal == first.signal &&
             sums.recon == first.recon));
      CHECK((sums.zeros == first.zeros && sums.max_abs_error == first.max_abs_error));
    }
  }
}

TEST_CASE("every table joins pairs of 4-bit codes") {
  std::mt19937 random(3);
  for (const std::size_t bytes : {0, 1, 7, 31, 32, 33, 64, 257}) {
    std::vector<std::int8_t> codes(2 * bytes + 1);
    for (auto& code : codes) code = static_cast<std::int8_t>(random());
    for (const std::uint8_t flip : {std::uint8_t{0}, std::uint8_t{8}}) {
      for (const std::size_t shift : {0, 1}) {  // unaligned too
        const std::int8_t* from = codes.data() + shift;
        for (const KernelTable* table : available_kernels()) {
          std::vector<std::uint8_t> out(bytes + 1, 0xAB);
          table->pack_nibbles(from, bytes, flip, out.data());
          INFO(table->isa << " " << bytes);
          for (std::size_t i = 0; i < bytes; ++i) {
            REQUIRE(out[i] == (((from[2 * i] ^ flip) & 15) | ((from[2 * i + 1] ^ flip) & 15) << 4));
          }
          CHECK(out[bytes] == 0xAB);
        }
      }
    }
  }
}
