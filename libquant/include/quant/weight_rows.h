// Rows of a weight as the kernels read them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "quant/kernel_table.h"
#include "quant/tensor.h"

namespace quant {

/// Gives the rows of a matrix to kernels: in place for F32, F16 and BF16, converted to float32 for every other type
/// that read_f32 reads. Refers to the view's bytes. Safe for use by several threads with a scratch each.
class WeightRows {
 public:
  explicit WeightRows(const TensorView& view);

  std::uint64_t rows() const { return rows_; }
  std::uint64_t cols() const { return cols_; }
  WeightType type() const { return type_; }
  /// Row `row` of `type()`; may be unaligned; valid until `scratch` changes.
  const void* row(std::uint64_t row, std::vector<float>& scratch) const;
  /// Columns [first, first + out.size()) of row `row` as float32.
  void read(std::uint64_t row, std::uint64_t first, std::span<float> out) const;

 private:
  TensorView view_;
  WeightType type_;
  bool direct_;
  std::uint64_t rows_;
  std::uint64_t cols_;
};

struct ElementPlace {
  std::uint64_t row = 0;
  std::uint64_t col = 0;
  float value = 0;
};

/// The first NaN or infinity of a matrix in row-major order, or nothing.
std::optional<ElementPlace> find_non_finite(const TensorView& view);

}  // namespace quant
