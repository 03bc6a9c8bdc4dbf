// Of several results for the same rows, the best ones.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/quantized_tensor.h"

namespace quant::gptq {

/// Rows [first, first + count) of a tensor that is coded again and again. Rows that share scales are chosen together.
class BestRows {
 public:
  BestRows(QuantizedTensor& out, std::uint64_t first, std::uint64_t count);

  /// Keeps what the tensor now holds where its losses [count] are less than the best so far (always the first time).
  void keep(std::span<const double> losses);
  /// Writes the best to the tensor.
  void restore() const;

 private:
  QuantizedTensor& out_;
  std::uint64_t count_, height_, groups_;
  std::span<std::int8_t> codes_, zero_points_;
  std::span<float> scales_;
  std::vector<std::int8_t> best_codes_, best_zero_points_;
  std::vector<float> best_scales_;
  std::vector<double> best_losses_;  // per row of scales
};

}  // namespace quant::gptq
