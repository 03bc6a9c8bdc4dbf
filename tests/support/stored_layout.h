// A quantized tensor stored through a layout into a checkpoint in memory, and read back.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <vector>

#include "quant/error.h"
#include "quant/registry.h"
#include "support/catch.h"
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
  /// Every byte of every tensor exactly once.
  bool complete() const {
    return std::all_of(written.begin(), written.end(), [](const auto& counts) {
      return std::all_of(counts.begin(), counts.end(), [](int n) { return n == 1; });
    });
  }
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::vector<int>> written;
};

/// Writes the tensor in slices of `step` rows (0: at once) and returns what was stored.
inline CountingSink store(const Layout& layout, const Scheme& scheme, const LinearShape& linear,
                          const QuantizedTensor& tensor, std::uint64_t step = 0) {
  CountingSink sink(layout.stored(scheme, linear));
  if (step == 0) step = tensor.rows;
  for (std::uint64_t first = 0; first < tensor.rows; first += step) {
    layout.write_rows(scheme, linear, first, slice_of(tensor, first, std::min(step, tensor.rows - first)), sink);
  }
  return sink;
}

/// A checkpoint with one linear, and the config.json that goes with it.
inline MemoryCheckpoint stored_checkpoint(const Layout& layout, const Scheme& scheme, const LinearShape& linear,
                                          const QuantizedTensor& tensor, const std::vector<std::string>& ignored = {}) {
  MemoryCheckpoint checkpoint;
  const auto list = layout.stored(scheme, linear);
  const CountingSink sink = store(layout, scheme, linear, tensor);
  for (std::size_t i = 0; i < list.size(); ++i)
    checkpoint.set(list[i].name, list[i].dtype, list[i].shape, sink.bytes[i]);
  const std::string text = layout.config_json({}, {{"group_0", scheme, {linear}}}, ignored);
  checkpoint.mutable_config().quantization_config = nlohmann::json::parse(text).at("quantization_config").dump();
  return checkpoint;
}

/// All values of a tensor, by its definition.
inline std::vector<float> values_of(const QuantizedTensor& tensor) {
  std::vector<float> values(tensor.rows * tensor.cols);
  for (std::uint64_t r = 0; r < tensor.rows; ++r) {
    dequantize_row(tensor, r, std::span(values).subspan(r * tensor.cols, tensor.cols));
  }
  return values;
}

/// The error of reading every linear of a checkpoint that is not as it should be; empty if there is none.
inline std::string read_error(const Layout& layout, const MemoryCheckpoint& checkpoint) {
  try {
    QuantizedTensor out;
    for (const auto& linear : layout.find_linears(checkpoint)) {
      layout.read_rows(checkpoint, linear, 0, linear.shape.rows, out);
    }
  } catch (const Error& problem) {
    CHECK((problem.code() == ErrorCode::corrupt_file || problem.code() == ErrorCode::unsupported));
    return problem.what();
  }
  return "";
}

}  // namespace quant::test
