// Storing a quantized tensor through the layout into a checkpoint in memory.
#pragma once

#include <algorithm>
#include <random>
#include <stdexcept>
#include <vector>

#include "layouts/compressed_tensors/compressed_tensors.h"
#include "support/golden.h"
#include "support/memory_checkpoint.h"

namespace quant::test {

/// Collects the bytes of the stored tensors and counts how often each byte was written.
class MemorySink final : public StoredBytesSink {
 public:
  explicit MemorySink(const std::vector<StoredTensor>& tensors) {
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
  /// Every byte of every tensor exactly once.
  bool complete() const {
    return std::all_of(written.begin(), written.end(), [](const auto& counts) {
      return std::all_of(counts.begin(), counts.end(), [](int n) { return n == 1; });
    });
  }
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::vector<int>> written;
};

/// Rows [first, first + count) of a whole quantized tensor.
inline QuantizedTensor slice_rows(const QuantizedTensor& whole, std::uint64_t first, std::uint64_t count) {
  QuantizedTensor slice;
  slice.resize(whole.args, count, whole.cols);
  slice.scale_dtype = whole.scale_dtype;
  slice.global_scale = whole.global_scale;
  slice.group_index = whole.group_index;
  slice.input_scale = whole.input_scale;
  slice.input_zero_point = whole.input_zero_point;
  slice.input_global_scale = whole.input_global_scale;
  std::copy_n(whole.codes.begin() + static_cast<std::ptrdiff_t>(first * whole.cols), slice.codes.size(),
              slice.codes.begin());
  const std::uint64_t scale_row = whole.args.strategy == Strategy::tensor ? 0 : first / whole.grid.row_extent;
  const auto begin = static_cast<std::ptrdiff_t>(scale_row * whole.grid.cols);
  std::copy_n(whole.scales.begin() + begin, slice.scales.size(), slice.scales.begin());
  if (!whole.zero_points.empty()) {
    std::copy_n(whole.zero_points.begin() + begin, slice.zero_points.size(), slice.zero_points.begin());
  }
  return slice;
}

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

/// Writes the tensor in slices of `step` rows (0: at once) and returns what was stored.
inline MemorySink store(const Layout& layout, const Scheme& scheme, const LinearShape& linear,
                        const QuantizedTensor& tensor, std::uint64_t step = 0) {
  MemorySink sink(layout.stored(scheme, linear));
  if (step == 0) step = tensor.rows;
  for (std::uint64_t first = 0; first < tensor.rows; first += step) {
    layout.write_rows(scheme, linear, first, slice_rows(tensor, first, std::min(step, tensor.rows - first)), sink);
  }
  return sink;
}

/// A checkpoint with one linear, and the config.json that goes with it.
inline MemoryCheckpoint stored_checkpoint(const Layout& layout, const Scheme& scheme, const LinearShape& linear,
                                          const QuantizedTensor& tensor) {
  MemoryCheckpoint checkpoint;
  const auto list = layout.stored(scheme, linear);
  const MemorySink sink = store(layout, scheme, linear, tensor);
  for (std::size_t i = 0; i < list.size(); ++i)
    checkpoint.set(list[i].name, list[i].dtype, list[i].shape, sink.bytes[i]);
  const std::string text = layout.config_json({}, {{"group_0", scheme}}, {});
  checkpoint.mutable_config().quantization_config = nlohmann::json::parse(text).at("quantization_config").dump();
  return checkpoint;
}

inline bool same_values(const QuantizedTensor& a, const QuantizedTensor& b) {
  return a.rows == b.rows && a.cols == b.cols && a.codes == b.codes && a.scales == b.scales &&
         a.zero_points == b.zero_points && a.group_index == b.group_index && a.global_scale == b.global_scale;
}

}  // namespace quant::test
