// Codes -1, 0 and 1, five to a byte: 1.6 bits each. Private to the library quant::formats.
//
// byte = d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4, di = code + 1 of the i-th of five codes of a row; digits beyond the end of a
// row are 0. So bytes above 242 mean nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace quant::packing {

/// Bytes of a row of `count` codes.
constexpr std::uint64_t ternary_bytes(std::uint64_t count) { return count / 5 + (count % 5 != 0 ? 1 : 0); }

/// out.size() == ternary_bytes(codes.size()).
void pack_ternary(std::span<const std::int8_t> codes, std::span<std::byte> out);
/// The inverse. Returns the place of the first byte that means nothing, or nothing.
std::optional<std::size_t> unpack_ternary(std::span<const std::byte> packed, std::span<std::int8_t> codes);

}  // namespace quant::packing
