// Random tensors of every kind that the layout "libquant" holds, and checkpoints of them in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "quant/scale_codes.h"
#include "support/stored_layout.h"

namespace quant::test {

inline QuantArgs codebook_args(Codebook codebook, int bits, Strategy strategy, std::int64_t group = 0) {
  QuantArgs args;
  args.type = NumberType::codebook;
  args.codebook = codebook;
  args.num_bits = bits;
  args.strategy = strategy;
  if (group > 0) args.group_size = group;
  if (strategy == Strategy::block) args.block_structure = {3, 20};
  return args;
}

inline void random_sparse(QuantizedTensor& tensor, DType type, std::mt19937& random) {
  const std::uint64_t count = sparse_count(tensor.args, tensor.rows, tensor.cols);
  std::vector<std::uint64_t> places(tensor.rows * tensor.cols);
  for (std::size_t i = 0; i < places.size(); ++i) places[i] = i;
  std::shuffle(places.begin(), places.end(), random);
  std::sort(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(count));
  tensor.sparse.dtype = type;
  tensor.sparse.starts.assign(tensor.rows + 1, 0);
  for (std::uint64_t i = 0; i < count; ++i) {
    for (std::uint64_t r = places[i] / tensor.cols; r < tensor.rows; ++r) ++tensor.sparse.starts[r + 1];
    tensor.sparse.columns.push_back(static_cast<std::uint32_t>(places[i] % tensor.cols));
    tensor.sparse.values.push_back(static_cast<float>(static_cast<int>(random() % 64) - 32) / 8);
  }
}

/// Random codes with scales, codebooks and residuals that every type of scales holds exactly.
inline QuantizedTensor random_tensor(const Layout& layout, const QuantArgs& args, std::uint64_t rows,
                                     std::uint64_t cols, unsigned seed) {
  std::mt19937 random(seed);
  QuantizedTensor tensor;
  tensor.resize(args, rows, cols);
  tensor.scale_dtype = layout.scale_dtype(args, DType::F16);
  const int low = code_min(args), count = code_max(args) - low + 1;
  const auto code = [&] {
    return static_cast<std::int8_t>(low + static_cast<int>(random() % static_cast<unsigned>(count)));
  };
  const auto number = [&] { return static_cast<float>(1 + random() % 31) / 16; };
  for (auto& c : tensor.codes) c = code();
  for (auto& z : tensor.zero_points) z = code();
  for (auto& z : tensor.real_zero_points) z = number();
  for (auto& s : tensor.scales) s = number();
  if (has_learned_codebook(args)) {
    for (auto& entry : tensor.codebook) entry = number() - 1;
  }
  if (args.double_quant) {
    const std::vector<float> scales = tensor.scales;
    code_scales(scales, 0.75F, tensor.coded_scales);
    decode_scales(tensor);
  }
  if (args.outlier_percent + args.sensitive_percent > 0) random_sparse(tensor, tensor.scale_dtype, random);
  return tensor;
}

/// A checkpoint of one linear "m" of F16 weights.
inline MemoryCheckpoint stored_checkpoint(const Layout& layout, const QuantArgs& args, const QuantizedTensor& tensor) {
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  return stored_checkpoint(layout, scheme, {"m", tensor.rows, tensor.cols, DType::F16}, tensor, {"lm_head"});
}

inline bool same_tensor(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.rows == b.rows && a.cols == b.cols && a.codes == b.codes && a.scales == b.scales &&
         a.zero_points == b.zero_points && a.real_zero_points == b.real_zero_points && a.codebook == b.codebook &&
         a.coded_scales.codes == b.coded_scales.codes && a.coded_scales.scales == b.coded_scales.scales &&
         a.coded_scales.map == b.coded_scales.map && a.coded_scales.offset == b.coded_scales.offset &&
         a.sparse.starts == b.sparse.starts && a.sparse.columns == b.sparse.columns &&
         a.sparse.values == b.sparse.values && a.sparse.first == b.sparse.first;
}

}  // namespace quant::test
