// Tensors of a checkpoint: views of bytes that something else keeps alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/dtype.h"

namespace quant {

/// Sizes per dimension, outermost first. Empty means a scalar (one element).
using Shape = std::vector<std::uint64_t>;

/// Product of the sizes. Throws Error{corrupt_file, "ValidationOverflow"} past 64 bits.
std::uint64_t element_count(const Shape& shape);
/// Bytes of a tensor, rounded up to whole bytes. Throws Error{corrupt_file, "ValidationOverflow"} past 64 bits.
std::uint64_t byte_count(DType type, const Shape& shape);
/// "[4096, 11008]".
std::string to_string(const Shape& shape);

/// A typed, row-major, little-endian array in memory owned by somebody else. The bytes may be unaligned.
/// Invariant: bytes.size() == byte_count(dtype, shape). Cheap to copy; thread-safe to read.
struct TensorView {
  DType dtype = DType::F32;
  Shape shape;
  std::span<const std::byte> bytes;

  /// Size of the first dimension (1 for a scalar).
  std::uint64_t rows() const;
  /// Elements per index of the first dimension.
  std::uint64_t cols() const;
  /// Rows [first, first + count) of a tensor with at least one dimension whose rows are whole bytes.
  TensorView slice_rows(std::uint64_t first, std::uint64_t count) const;
};

/// Elements [first, first + out.size()) as float32, flattened row-major. Exact for every type but F64, I64, U64, I32
/// and U32, which are rounded to nearest. Throws Error{unsupported} for C64, BOOL and F6.
void read_f32(const TensorView& view, std::uint64_t first, std::span<float> out);

/// A view of `values` as an F32 matrix [rows, cols].
TensorView f32_view(std::span<const float> values, std::uint64_t rows, std::uint64_t cols);

}  // namespace quant
