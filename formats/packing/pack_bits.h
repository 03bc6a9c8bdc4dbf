// Bit packing of quantized codes. Private to the library quant::formats.
//
// "Dense": element i of a row occupies bits [i*b, i*b + b) of a little-endian bit stream that is cut into 32-bit words;
// elements may straddle words (compressed-tensors >= 0.18). "Whole elements": floor(32 / b) elements per word, the rest
// of the word unused (compressed-tensors <= 0.17). Both are the same for 1, 2, 4 and 8 bits. Unused bits are zero.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quant::packing {

/// How a code becomes b unsigned bits.
enum class Coding {
  offset,  ///< signed codes -2^(b-1)..2^(b-1)-1, stored as code + 2^(b-1)
  raw      ///< the low b bits; unpacked as 0..2^b-1
};

/// 32-bit words that hold `count` elements of `bits` bits. Both throw Error{corrupt_file} for counts past 64 bits.
std::uint64_t dense_words(std::uint64_t count, unsigned bits);
std::uint64_t whole_element_words(std::uint64_t count, unsigned bits);

/// Packs one row densely, bits in 1..8. `out` has room for the elements' bits rounded up to whole bytes at least; bytes
/// beyond them are set to zero. The bytes of a word are in little-endian order on every machine.
void pack_row(std::span<const std::int8_t> codes, unsigned bits, Coding coding, std::span<std::byte> out);
/// The inverse; `packed` holds at least the elements' bits.
void unpack_row(std::span<const std::byte> packed, unsigned bits, Coding coding, std::span<std::int8_t> codes);
/// Reads a row of whole-element words; packed.size() >= 4 * whole_element_words(codes.size(), bits).
void unpack_row_whole_elements(std::span<const std::byte> packed, unsigned bits, Coding coding,
                               std::span<std::int8_t> codes);

/// Packs a matrix [rows, cols] along its rows: word [w, c] holds rows 32*w/b.. of column c. `out` is row-major
/// [dense_words(rows, bits), cols] words.
void pack_along_rows(std::span<const std::int8_t> values, std::uint64_t rows, std::uint64_t cols, unsigned bits,
                     Coding coding, std::span<std::byte> out);
/// The inverse, for either packing: fills `values` [rows, cols] from words that start with row 0's.
void unpack_along_rows(std::span<const std::byte> packed, std::uint64_t rows, std::uint64_t cols, unsigned bits,
                       Coding coding, bool whole_elements, std::span<std::int8_t> values);

}  // namespace quant::packing
