// measure_rows and dequantize_row against float64.
#include <cmath>
#include <random>
#include <vector>

#include "quant/error.h"
#include "quant/metrics.h"
#include "support/catch.h"

namespace {

using namespace quant;

struct Made {
  std::vector<float> weights;
  QuantizedTensor quantized;
};

// Random codes and scales: not the nearest codes, as an error-feedback algorithm leaves them.
Made make(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols, bool scattered) {
  std::mt19937 random(31);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  Made made;
  made.quantized.resize(args, rows, cols);
  made.weights.resize(rows * cols);
  for (float& w : made.weights) w = normal(random);
  const unsigned codes = 1U << args.num_bits;
  for (auto& code : made.quantized.codes) {
    const unsigned bits = static_cast<unsigned>(random()) % codes;
    if (args.type == NumberType::integer)
      code = static_cast<std::int8_t>(static_cast<int>(bits) + code_min(args));
    else
      code = static_cast<std::int8_t>((bits & 0x7FU) >= (element_dtype(args) == DType::F8_E5M2 ? 0x7CU : 0x7FU) ? 0
                                                                                                                : bits);
  }
  for (auto& scale : made.quantized.scales) scale = 0.125F * static_cast<float>(1 + random() % 7);
  for (auto& zero : made.quantized.zero_points) zero = static_cast<std::int8_t>(static_cast<int>(random() % 16) - 8);
  if (is_nvfp4(args)) made.quantized.global_scale = 3.0F;
  if (scattered) {
    for (std::uint64_t c = 0; c < cols; ++c) {
      made.quantized.group_index.push_back(static_cast<std::int32_t>((c * 7) % made.quantized.grid.cols));
    }
  }
  return made;
}

double value_at(const QuantizedTensor& q, std::uint64_t r, std::uint64_t c, std::uint64_t& group) {
  group = q.group_index.empty() ? c / q.grid.col_extent : static_cast<std::uint64_t>(q.group_index[c]);
  const std::size_t at = r / q.grid.row_extent * q.grid.cols + group;
  const std::int8_t code = q.codes[r * q.cols + c];
  double element = code - (q.zero_points.empty() ? 0 : q.zero_points[at]);
  const auto bits = static_cast<std::uint8_t>(code);
  if (q.args.type == NumberType::floating) {
    const DType type = element_dtype(q.args);
    element = type == DType::F4 ? e2m1_to_f32(bits) : type == DType::F8_E4M3 ? e4m3_to_f32(bits) : e5m2_to_f32(bits);
  }
  return element * q.scales[at] / (is_nvfp4(q.args) ? q.global_scale : 1.0F);
}

void check(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols, bool scattered) {
  INFO(describe(args) << " " << rows << "x" << cols << (scattered ? " scattered" : ""));
  const Made made = make(args, rows, cols, scattered);
  const QuantizedTensor& q = made.quantized;
  std::vector<ErrorSums> sums(rows);
  std::vector<double> signal(q.grid.cols, 0.5), noise(q.grid.cols, 0.5), expected_signal(signal), expected_noise(noise);
  measure_rows(f32_view(made.weights, rows, cols), q, {sums, signal, noise});
  std::vector<float> values(cols);
  for (std::uint64_t r = 0; r < rows; ++r) {
    ErrorSums e;
    dequantize_row(q, r, values);
    std::size_t wrong = 0;
    for (std::uint64_t c = 0; c < cols; ++c) {
      std::uint64_t group = 0;
      const double w = made.weights[r * cols + c], v = value_at(q, r, c, group);
      wrong += std::fabs(values[c] - v) > 1e-6 * std::fabs(v) ? 1 : 0;
      e.signal += w * w;
      e.noise += (w - v) * (w - v);
      e.dot += w * v;
      e.recon += v * v;
      e.max_abs_error = std::max(e.max_abs_error, std::fabs(w - v));
      e.zeros += v == 0 ? 1 : 0;
      const int code = q.codes[r * cols + c];
      if (args.type == NumberType::integer && (code == code_min(args) || code == code_max(args))) {
        const std::size_t at = r / q.grid.row_extent * q.grid.cols + group;
        e.clipped += std::fabs(w - v) > 0.50006 * q.scales[at] ? 1 : 0;
      }
      expected_signal[group] += w * w;
      expected_noise[group] += (w - v) * (w - v);
    }
    CHECK(wrong == 0);
    CHECK(sums[r].count == cols);
    CHECK(sums[r].signal == Approx(e.signal).epsilon(1e-6));
    CHECK(sums[r].noise == Approx(e.noise).epsilon(1e-6));
    CHECK(sums[r].dot == Approx(e.dot).epsilon(1e-6).margin(1e-6 * std::sqrt(e.signal * e.recon)));
    CHECK(sums[r].recon == Approx(e.recon).epsilon(1e-6));
    CHECK(sums[r].max_abs_error == Approx(e.max_abs_error).epsilon(1e-6));
    CHECK(sums[r].zeros == e.zeros);
    if (args.type == NumberType::integer) CHECK(sums[r].clipped == e.clipped);
  }
  for (std::size_t g = 0; g < signal.size(); ++g) {
    CHECK(signal[g] == Approx(expected_signal[g]).epsilon(1e-6));
    CHECK(noise[g] == Approx(expected_noise[g]).epsilon(1e-6));
  }
}

QuantArgs args_of(NumberType type, int bits, bool symmetric, Strategy strategy) {
  QuantArgs args;
  args.type = type;
  args.num_bits = bits;
  args.symmetric = symmetric;
  args.strategy = strategy;
  if (strategy == Strategy::group) args.group_size = 24;
  if (strategy == Strategy::tensor_group) args.group_size = 16;
  if (strategy == Strategy::block) args.block_structure = {3, 20};
  return args;
}

}  // namespace

TEST_CASE("errors of any quantized matrix equal their float64 definition") {
  for (const Strategy strategy : {Strategy::tensor, Strategy::channel, Strategy::group, Strategy::block}) {
    for (const int bits : {1, 4, 8}) {
      check(args_of(NumberType::integer, bits, true, strategy), 7, 50, false);
      check(args_of(NumberType::integer, bits, false, strategy), 7, 50, false);
    }
    check(args_of(NumberType::floating, 8, true, strategy), 7, 50, false);
  }
  check(args_of(NumberType::floating, 4, true, Strategy::tensor_group), 3, 48, false);
  QuantArgs e5m2 = args_of(NumberType::floating, 8, true, Strategy::channel);
  e5m2.observer_kwargs["float8_format"] = std::string("e5m2");
  REQUIRE(element_dtype(e5m2) == DType::F8_E5M2);
  check(e5m2, 7, 50, false);
}

TEST_CASE("columns that belong to groups in another order are measured by their own scale") {
  check(args_of(NumberType::integer, 4, true, Strategy::group), 5, 96, true);
  check(args_of(NumberType::integer, 4, false, Strategy::group), 5, 96, true);
  check(args_of(NumberType::floating, 4, true, Strategy::tensor_group), 5, 96, true);
}

TEST_CASE("an exact result has no noise") {
  QuantArgs args = args_of(NumberType::integer, 8, true, Strategy::channel);
  Made made = make(args, 4, 33, false);
  for (std::uint64_t r = 0; r < 4; ++r) dequantize_row(made.quantized, r, std::span(made.weights).subspan(r * 33, 33));
  std::vector<ErrorSums> sums(4);
  measure_rows(f32_view(made.weights, 4, 33), made.quantized, {sums, {}, {}});
  for (const ErrorSums& row : sums) CHECK((row.noise == 0 && row.max_abs_error == 0 && row.clipped == 0));
}

TEST_CASE("sizes that do not fit together are refused") {
  const Made made = make(args_of(NumberType::integer, 4, true, Strategy::channel), 4, 8, false);
  std::vector<ErrorSums> sums(4), three(3);
  std::vector<float> out(8), seven(7);
  CHECK_THROWS_AS(measure_rows(f32_view(made.weights, 4, 8), made.quantized, {three, {}, {}}), Error);
  CHECK_THROWS_AS(measure_rows(f32_view(made.weights, 8, 4), made.quantized, {sums, {}, {}}), Error);
  CHECK_THROWS_AS(dequantize_row(made.quantized, 4, out), Error);
  CHECK_THROWS_AS(dequantize_row(made.quantized, 0, seven), Error);
}
