// Which weights of a pruned linear are stored: masks, and where the kept codes of a row begin (docs/native-layout.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "quant/layout.h"

namespace quant::native {

/// Bits of one group of an N:M pattern: the rank of its kept places among all choices of N of M, for M up to 16.
/// 0: the mask has a bit per weight instead.
unsigned pattern_bits(const StoredSparsity& sparsity);
/// Bytes of one row of the mask.
std::uint64_t mask_row_bytes(const StoredSparsity& sparsity, std::uint64_t cols);
/// Every row keeps the same number of weights, so that no starts of rows are stored.
bool has_equal_rows(const StoredSparsity& sparsity);
/// Why a linear of that shape cannot keep its weights so, or nothing.
std::optional<std::string> contradiction(const StoredSparsity& sparsity, std::uint64_t rows, std::uint64_t cols);

/// `mask` [cols] of 0 and 1. False if it does not have the pattern.
bool pack_mask(const StoredSparsity& sparsity, std::span<const std::uint8_t> mask, std::span<std::byte> out);
/// The inverse. False if the bytes are no such mask: a rank that is too large, or bits past the end.
bool unpack_mask(const StoredSparsity& sparsity, std::span<const std::byte> packed, std::span<std::uint8_t> mask);

/// First byte of the kept codes of a row before which `kept` weights are kept: rows begin at whole bytes, and the whole
/// size follows from the number of rows and of kept weights.
std::uint64_t code_row_begin(std::uint64_t kept, std::uint64_t row, int bits);

}  // namespace quant::native
