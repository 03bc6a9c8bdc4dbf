// Quantized matrices of every kind, with random contents, and their products in float64.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "quant/packed_linear.h"

namespace quant::test {

struct PackedCase {
  std::string name;
  QuantArgs args;
  bool act_order = false;
  double sparse_percent = 0;
};

inline PackedCase integer_case(int bits, Strategy strategy, std::int64_t group, bool symmetric) {
  PackedCase item;
  item.args.num_bits = bits;
  item.args.strategy = strategy;
  if (group > 0) item.args.group_size = group;
  if (strategy == Strategy::block) item.args.block_structure = {16, 32};
  item.args.symmetric = symmetric;
  item.name = describe(item.args);
  return item;
}

inline PackedCase float_case(int bits, Strategy strategy, std::int64_t group) {
  PackedCase item = integer_case(bits, strategy, group, true);
  item.args.type = NumberType::floating;
  if (strategy == Strategy::group && group == 32) item.args.scale_dtype = DType::F8_E8M0;
  item.name = describe(item.args);
  return item;
}

inline PackedCase codebook_case(int bits, Strategy strategy, std::int64_t group, Codebook codebook) {
  PackedCase item = integer_case(bits, strategy, group, true);
  item.args.type = NumberType::codebook;
  item.args.codebook = codebook;
  item.name = describe(item.args);
  return item;
}

inline std::vector<PackedCase> packed_cases() {
  std::vector<PackedCase> cases;
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool symmetric : {true, false}) {
      cases.push_back(integer_case(bits, Strategy::group, 32, symmetric));
      cases.push_back(integer_case(bits, Strategy::channel, 0, symmetric));
    }
  }
  for (const std::int64_t group : {1, 7, 16, 24, 48, 64, 128}) {
    cases.push_back(integer_case(4, Strategy::group, group, group % 3 != 0));
  }
  cases.push_back(integer_case(8, Strategy::tensor, 0, true));
  cases.push_back(integer_case(8, Strategy::block, 0, true));
  cases.push_back(integer_case(4, Strategy::group, 64, false));
  cases.back().args.zp_dtype = DType::F32;
  cases.back().name += " real zero points";
  for (const bool symmetric : {true, false}) {
    for (const std::int64_t group : {32, 20}) {
      cases.push_back(integer_case(4, Strategy::group, group, symmetric));
      cases.back().act_order = true;
      cases.back().name += " act-order";
    }
  }
  cases.push_back(float_case(8, Strategy::channel, 0));
  cases.push_back(float_case(8, Strategy::block, 0));
  cases.push_back(float_case(8, Strategy::group, 32));
  cases.push_back(float_case(8, Strategy::tensor, 0));
  cases.back().args.observer_kwargs["float8_format"] = std::string("e5m2");
  cases.back().name += " e5m2";
  cases.push_back(float_case(4, Strategy::group, 32));
  cases.push_back(float_case(4, Strategy::tensor_group, 16));
  cases.push_back(codebook_case(4, Strategy::flat, 64, Codebook::nf4));
  cases.push_back(codebook_case(4, Strategy::flat, 32, Codebook::fp4));
  for (int bits = 1; bits <= 8; ++bits) cases.push_back(codebook_case(bits, Strategy::channel, 0, Codebook::learned));
  for (const int bits : {3, 5, 6, 7, 8}) cases.push_back(codebook_case(bits, Strategy::tensor, 0, Codebook::learned));
  for (const int bits : {5, 6, 7, 8}) {
    cases.push_back(codebook_case(bits, Strategy::group, 64, Codebook::learned));
    cases.push_back(codebook_case(bits, Strategy::block, 0, Codebook::learned));
    cases.back().args.block_structure = {4, 128};
  }
  for (const std::int64_t group : {64, 128, 192, 512}) {
    cases.push_back(codebook_case(4, Strategy::group, group, Codebook::learned));
    cases.push_back(codebook_case(3, Strategy::group, group, Codebook::learned));
  }
  cases.push_back(codebook_case(4, Strategy::block, 0, Codebook::learned));
  cases.back().args.block_structure = {16, 64};
  cases.push_back(codebook_case(4, Strategy::group, 16, Codebook::learned));
  for (const PackedCase& dense : std::vector<PackedCase>{cases[8], cases.back()}) {
    cases.push_back(dense);
    cases.back().sparse_percent = 3;
    cases.back().name += " sparse";
  }
  return cases;
}

class Randomizer {
 public:
  explicit Randomizer(unsigned seed) : generator_(seed) {}
  float normal() { return std::normal_distribution<float>()(generator_); }
  int between(int least, int most) { return std::uniform_int_distribution<int>(least, most)(generator_); }
  std::vector<float> normals(std::uint64_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal();
    return values;
  }

 private:
  std::mt19937 generator_;
};

inline void fill_codes(QuantizedTensor& tensor, Randomizer& random) {
  const QuantArgs& args = tensor.args;
  for (std::int8_t& code : tensor.codes) {
    if (args.type == NumberType::integer) {
      code = static_cast<std::int8_t>(random.between(code_min(args), code_max(args)));
    } else if (args.type == NumberType::codebook || args.num_bits == 4) {
      code = static_cast<std::int8_t>(random.between(0, (1 << args.num_bits) - 1));
    } else {
      int bits = random.between(0, 255);
      while ((bits & 0x7F) >= (element_dtype(args) == DType::F8_E5M2 ? 0x7C : 0x7F)) bits = random.between(0, 255);
      code = static_cast<std::int8_t>(bits);
    }
  }
}

inline void fill_scales(QuantizedTensor& tensor, Randomizer& random) {
  const QuantArgs& args = tensor.args;
  const int exactness = random.between(0, 2);  // as BF16, F16 or float32
  for (float& scale : tensor.scales) {
    scale = std::exp2(random.normal()) * 0.01F;
    if (is_mx(args)) scale = std::exp2(static_cast<float>(random.between(-9, -3)));
    if (is_nvfp4(args)) scale = static_cast<float>(random.between(1, 15)) * 4.0F;
    if (exactness == 0) scale = bf16_to_f32(f32_to_bf16(scale));
    if (exactness == 1) scale = f16_to_f32(f32_to_f16(scale));
  }
  tensor.global_scale = is_nvfp4(args) ? 777.0F : 1.0F;
  for (std::int8_t& zero : tensor.zero_points) {
    zero = static_cast<std::int8_t>(random.between(code_min(args), code_max(args)));
  }
  for (float& zero : tensor.real_zero_points) zero = random.normal() * 4.0F;
  if (has_learned_codebook(args)) {
    for (float& value : tensor.codebook) {
      value = random.normal() * 0.02F;
      if (exactness == 0) value = bf16_to_f32(f32_to_bf16(value));
      if (exactness == 1) value = f16_to_f32(f32_to_f16(value));
    }
  }
}

inline QuantizedTensor make_tensor(const PackedCase& item, std::uint64_t rows, std::uint64_t cols, unsigned seed) {
  Randomizer random(seed);
  QuantizedTensor tensor;
  tensor.resize(item.args, rows, cols);
  fill_codes(tensor, random);
  fill_scales(tensor, random);
  if (item.act_order) {
    for (std::uint64_t c = 0; c < cols; ++c)
      tensor.group_index.push_back(static_cast<std::int32_t>(c % tensor.grid.cols));
  }
  if (item.sparse_percent > 0) {
    tensor.sparse.starts.push_back(0);
    for (std::uint64_t r = 0; r < rows; ++r) {
      for (std::uint64_t c = 0; c < cols; ++c) {
        if (random.between(0, 9999) >= item.sparse_percent * 100) continue;
        tensor.sparse.columns.push_back(static_cast<std::uint32_t>(c));
        tensor.sparse.values.push_back(random.normal());
      }
      tensor.sparse.starts.push_back(tensor.sparse.values.size());
    }
  }
  return tensor;
}

/// Products in float64, and what bounds the rounding errors: for each result the sum of |x| (|w| + 2 |zero scale|).
/// A zero point may be taken out of the sum, so that code * x and zero * x are rounded apart.
struct Reference {
  std::vector<double> y, magnitude;
};

inline Reference reference(const QuantizedTensor& tensor, std::span<const float> bias, std::span<const float> x,
                           std::uint64_t tokens) {
  Reference result{std::vector<double>(tokens * tensor.rows), std::vector<double>(tokens * tensor.rows)};
  double offset = 0;
  for (std::size_t i = 0; i < tensor.scales.size(); ++i) {
    const double zero = !tensor.zero_points.empty()        ? tensor.zero_points[i]
                        : !tensor.real_zero_points.empty() ? static_cast<double>(tensor.real_zero_points[i])
                                                           : 0.0;
    offset = std::max(offset, std::abs(zero * static_cast<double>(tensor.scales[i])));
  }
  std::vector<float> row(tensor.cols);
  for (std::uint64_t r = 0; r < tensor.rows; ++r) {
    dequantize_row(tensor, r, row);
    std::vector<double> spread(tensor.cols);
    for (std::uint64_t c = 0; c < tensor.cols; ++c) spread[c] = std::abs(static_cast<double>(row[c])) + 2 * offset;
    if (!tensor.sparse.empty()) {  // the dense part and the entry are multiplied apart
      for (std::uint64_t i = tensor.sparse.starts[r]; i < tensor.sparse.starts[r + 1]; ++i) {
        spread[tensor.sparse.columns[i]] += 2 * std::abs(static_cast<double>(tensor.sparse.values[i]));
      }
    }
    for (std::uint64_t t = 0; t < tokens; ++t) {
      double sum = bias.empty() ? 0.0 : static_cast<double>(bias[r]), size = std::abs(sum);
      for (std::uint64_t c = 0; c < tensor.cols; ++c) {
        const auto input = static_cast<double>(x[t * tensor.cols + c]);
        sum += static_cast<double>(row[c]) * input;
        size += spread[c] * std::abs(input);
      }
      result.y[t * tensor.rows + r] = sum;
      result.magnitude[t * tensor.rows + r] = size;
    }
  }
  return result;
}

/// A sum of n products in float32, in any order, with the roundings of weight, scale, sparse part and bias: each term
/// is rounded at most n + 8 times (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
inline double sum_roundings(std::uint64_t n) { return (static_cast<double>(n) + 8.0) * 0x1p-24; }

/// The largest error in units of its bound; NaN counts as endless.
inline double worst_error(const std::vector<float>& y, const Reference& expected, double relative,
                          std::span<const double> absolute = {}) {
  double worst = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double error = std::abs(static_cast<double>(y[i]) - expected.y[i]);
    if (error == 0.0) continue;
    const double bound = relative * expected.magnitude[i] + (absolute.empty() ? 0.0 : absolute[i]);
    if (!(error / bound <= worst)) worst = error / bound;
  }
  return worst;
}

inline std::vector<float> run_packed(const PackedLinear& linear, std::span<const float> x, std::uint64_t tokens,
                                     const PackedOptions& options = {}) {
  std::vector<float> y(tokens * linear.rows(), -1e30F);
  linear.multiply(x, tokens, y, options);
  return y;
}

}  // namespace quant::test
