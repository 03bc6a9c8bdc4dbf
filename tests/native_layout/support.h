// Random tensors of every kind that the layout "libquant" holds, and checkpoints of them in memory.
#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <stdexcept>
#include <vector>

#include "quant/registry.h"
#include "quant/scale_codes.h"
#include "support/memory_checkpoint.h"

namespace quant::test {

inline const Layout& layout_named(std::string_view name) {
  static const Registry registry = [] {
    Registry filled;
    register_builtin_formats(filled);
    return filled;
  }();
  return *registry.layout(name);
}

/// Collects stored bytes and counts how often each was written.
class CountingSink final : public StoredBytesSink {
 public:
  explicit CountingSink(const std::vector<StoredTensor>& tensors) {
    for (const auto& tensor : tensors) {
      bytes.emplace_back(tensor.bytes());
      written.emplace_back(tensor.bytes());
    }
  }
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset + data.size() > bytes.at(tensor).size()) throw std::out_of_range("written outside the tensor");
    std::copy(data.begin(), data.end(), bytes[tensor].begin() + static_cast<std::ptrdiff_t>(offset));
    for (std::size_t i = 0; i < data.size(); ++i) ++written[tensor][offset + i];
  }
  bool complete() const {
    return std::all_of(written.begin(), written.end(), [](const auto& counts) {
      return std::all_of(counts.begin(), counts.end(), [](int n) { return n == 1; });
    });
  }
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::vector<int>> written;
};

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

inline CountingSink store(const Layout& layout, const Scheme& scheme, const LinearShape& linear,
                          const QuantizedTensor& tensor, std::uint64_t step = 0) {
  CountingSink sink(layout.stored(scheme, linear));
  if (step == 0) step = tensor.rows;
  for (std::uint64_t first = 0; first < tensor.rows; first += step) {
    layout.write_rows(scheme, linear, first, slice_of(tensor, first, std::min(step, tensor.rows - first)), sink);
  }
  return sink;
}

inline MemoryCheckpoint stored_checkpoint(const Layout& layout, const QuantArgs& args, const QuantizedTensor& tensor) {
  Scheme scheme;
  scheme.targets = {"Linear"};
  scheme.weights = args;
  const LinearShape linear{"m", tensor.rows, tensor.cols, DType::F16};
  MemoryCheckpoint checkpoint;
  const auto list = layout.stored(scheme, linear);
  const CountingSink sink = store(layout, scheme, linear, tensor);
  for (std::size_t i = 0; i < list.size(); ++i)
    checkpoint.set(list[i].name, list[i].dtype, list[i].shape, sink.bytes[i]);
  const std::string text = layout.config_json({}, {{"group_0", scheme, {linear}}}, {"lm_head"});
  checkpoint.mutable_config().quantization_config = nlohmann::json::parse(text).at("quantization_config").dump();
  return checkpoint;
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
