// What a packed matrix takes, known before it is read.
#pragma once

#include <cstdint>
#include <optional>

#include "quant/quantized_tensor.h"

namespace quant::packed {

/// The most bytes that PackedLinear keeps of a matrix [rows, cols] with such a scheme, whose scales are stored as
/// `scale_dtype`, its sparse part included. Nothing if no kernel reads such matrices. Of those that one reads, a matrix
/// may hold numbers that it does not read (NaN, scales below 2^-90), or groups of very different sizes: that cannot be
/// known before.
std::optional<std::uint64_t> packed_bytes(const QuantArgs& args, DType scale_dtype, std::uint64_t rows,
                                          std::uint64_t cols);

/// Bytes of the matrix as QuantizedTensor, on its way there.
std::uint64_t unpacked_codes_bytes(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);

}  // namespace quant::packed
