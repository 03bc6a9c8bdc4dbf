// Storing a quantized tensor through the layout into a checkpoint in memory.
#pragma once

#include <random>
#include <vector>

#include "layouts/compressed_tensors/compressed_tensors.h"
#include "support/golden.h"
#include "support/stored_layout.h"

namespace quant::test {

/// The quantized tensor of a golden case, from its unpacked parts.
inline QuantizedTensor golden_tensor(const GoldenFile& golden, const GoldenCase& item, const Layout& layout) {
  const TensorView& codes = golden.tensor(item.name + "/codes");
  QuantizedTensor tensor;
  tensor.resize(*item.scheme.weights, codes.shape[0], codes.shape[1]);
  tensor.scale_dtype = layout.scale_dtype(*item.scheme.weights, item.weight_dtype);
  tensor.codes = golden.values<std::int8_t>(item.name + "/codes");
  tensor.scales = golden.values<float>(item.name + "/scale_f32");
  if (!item.scheme.weights->symmetric) tensor.zero_points = golden.values<std::int8_t>(item.name + "/zero_point");
  const std::string global = item.name + "/weight_global_scale";
  if (golden.has(global)) tensor.global_scale = golden.values<float>(global)[0];
  return tensor;
}

/// A tensor of random codes, scales and zero points that the layout can store.
inline QuantizedTensor random_tensor(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  QuantizedTensor tensor;
  tensor.resize(args, rows, cols);
  const int low = args.type == NumberType::integer ? -(1 << (args.num_bits - 1)) : 0;
  const int high = args.type == NumberType::integer ? (1 << (args.num_bits - 1)) - 1 : args.num_bits == 4 ? 15 : 126;
  std::uniform_int_distribution<int> code(low, high);
  for (auto& c : tensor.codes) c = static_cast<std::int8_t>(code(random));
  for (auto& z : tensor.zero_points) z = static_cast<std::int8_t>(code(random));
  std::uniform_int_distribution<int> exponent(-6, 3);
  for (auto& s : tensor.scales) s = std::ldexp(1.0F, exponent(random));  // exact in every type of scales
  if (is_nvfp4(args)) tensor.global_scale = 1234.5F;
  return tensor;
}

inline bool same_values(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.rows == b.rows && a.cols == b.cols && a.codes == b.codes && a.scales == b.scales &&
         a.zero_points == b.zero_points && a.group_index == b.group_index && a.global_scale == b.global_scale;
}

}  // namespace quant::test
