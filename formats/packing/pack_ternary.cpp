#include "packing/pack_ternary.h"

#include <algorithm>
#include <array>

namespace quant::packing {
namespace {

constexpr std::size_t kDigits = 5;
constexpr unsigned kValues = 243;  // 3^5

constexpr std::array<std::array<std::int8_t, kDigits>, kValues> make_table() {
  std::array<std::array<std::int8_t, kDigits>, kValues> table{};
  for (unsigned byte = 0; byte < kValues; ++byte) {
    unsigned rest = byte;
    for (std::int8_t& code : table[byte]) {
      code = static_cast<std::int8_t>(static_cast<int>(rest % 3) - 1);
      rest /= 3;
    }
  }
  return table;
}

}  // namespace

void pack_ternary(std::span<const std::int8_t> codes, std::span<std::byte> out) {
  for (std::size_t first = 0, i = 0; first < codes.size(); first += kDigits, ++i) {
    unsigned byte = 0, place = 1;
    for (const std::int8_t code : codes.subspan(first, std::min(kDigits, codes.size() - first))) {
      byte += static_cast<unsigned>(code + 1) * place;
      place *= 3;
    }
    out[i] = static_cast<std::byte>(byte);
  }
}

std::optional<std::size_t> unpack_ternary(std::span<const std::byte> packed, std::span<std::int8_t> codes) {
  static constexpr auto kTable = make_table();
  for (std::size_t first = 0, i = 0; first < codes.size(); first += kDigits, ++i) {
    const auto byte = static_cast<unsigned>(packed[i]);
    if (byte >= kValues) return i;
    std::copy_n(kTable[byte].begin(), std::min(kDigits, codes.size() - first),
                codes.begin() + static_cast<std::ptrdiff_t>(first));
  }
  return std::nullopt;
}

}  // namespace quant::packing
