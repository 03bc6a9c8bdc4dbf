#include "layouts/native/kept.h"

#include <algorithm>
#include <array>
#include <bit>
#include <string>

#include "quant/error.h"

namespace quant::native {
namespace {

constexpr std::uint32_t kLargestGroup = 16;

// binomial[n][k]
using Binomials = std::array<std::array<std::uint32_t, kLargestGroup + 1>, kLargestGroup + 1>;
constexpr Binomials make_binomials() {
  Binomials table{};
  for (std::size_t n = 0; n <= kLargestGroup; ++n) {
    table[n][0] = 1;
    for (std::size_t k = 1; k <= n; ++k) table[n][k] = table[n - 1][k - 1] + (k < n ? table[n - 1][k] : 0);
  }
  return table;
}
constexpr Binomials kBinomials = make_binomials();

// The place of a choice in the combinatorial number system: sum of C(place of the i-th kept weight, i).
std::optional<std::uint32_t> rank_of(std::span<const std::uint8_t> group, std::uint32_t keep) {
  std::uint32_t rank = 0;
  std::uint32_t found = 0;
  for (std::uint32_t place = 0; place < group.size(); ++place) {
    if (group[place] == 0) continue;
    if (++found > keep) return std::nullopt;
    rank += kBinomials[place][found];
  }
  if (found != keep) return std::nullopt;
  return rank;
}

void choose(std::uint32_t rank, std::uint32_t keep, std::span<std::uint8_t> group) {
  std::fill(group.begin(), group.end(), std::uint8_t{0});
  auto place = static_cast<std::uint32_t>(group.size());
  for (std::uint32_t left = keep; left > 0; --left) {
    do --place;
    while (kBinomials[place][left] > rank);
    group[place] = 1;
    rank -= kBinomials[place][left];
  }
}

// A stream of bits, lowest first.
class BitStream {
 public:
  static void put(std::span<std::byte> bytes, std::uint64_t at, unsigned bits, std::uint32_t value) {
    for (unsigned b = 0; b < bits; ++b) {
      if ((value >> b & 1U) != 0) bytes[(at + b) / 8] |= std::byte{1} << ((at + b) % 8);
    }
  }
  static std::uint32_t get(std::span<const std::byte> bytes, std::uint64_t at, unsigned bits) {
    std::uint32_t value = 0;
    for (unsigned b = 0; b < bits; ++b) {
      value |= (std::to_integer<std::uint32_t>(bytes[(at + b) / 8]) >> ((at + b) % 8) & 1U) << b;
    }
    return value;
  }
};

std::uint64_t mask_row_bits(const StoredSparsity& sparsity, std::uint64_t cols) {
  const unsigned bits = pattern_bits(sparsity);
  return bits == 0 ? cols : cols / sparsity.of * bits;
}

bool has_pattern(const StoredSparsity& sparsity, std::span<const std::uint8_t> mask) {
  for (std::size_t first = 0; sparsity.of > 0 && first < mask.size(); first += sparsity.of) {
    const auto group = mask.subspan(first, sparsity.of);
    if (std::count(group.begin(), group.end(), 1) != static_cast<std::ptrdiff_t>(sparsity.keep)) return false;
  }
  return true;
}

}  // namespace

unsigned pattern_bits(const StoredSparsity& sparsity) {
  if (sparsity.of == 0 || sparsity.of > kLargestGroup) return 0;
  // One choice alone needs no bits; a mask of nothing would be read as one with a bit per weight.
  return std::max(1U, static_cast<unsigned>(std::bit_width(kBinomials[sparsity.of][sparsity.keep] - 1)));
}

std::uint64_t mask_row_bytes(const StoredSparsity& sparsity, std::uint64_t cols) {
  return checked_add(mask_row_bits(sparsity, cols), 7, "a mask") / 8;
}

bool has_equal_rows(const StoredSparsity& sparsity) { return sparsity.of > 0; }

std::optional<std::string> contradiction(const StoredSparsity& sparsity, std::uint64_t rows, std::uint64_t cols) {
  const std::uint64_t weights = checked_mul(rows, cols, "a pruned linear");
  if (sparsity.kept > weights) return "keeps more weights than there are";
  if (sparsity.of == 0) {
    if (sparsity.keep != 0) return "keeps a number of weights of each 0";
    return sparsity.kept > UINT32_MAX ? std::optional<std::string>("keeps more than 2^32 weights") : std::nullopt;
  }
  if (sparsity.keep > sparsity.of) return "keeps more of a group than there are";
  if (cols % sparsity.of != 0) return "has columns that its pattern does not divide";
  if (sparsity.kept != weights / sparsity.of * sparsity.keep)
    return "keeps a number of weights that is not its pattern's";
  return std::nullopt;
}

bool pack_mask(const StoredSparsity& sparsity, std::span<const std::uint8_t> mask, std::span<std::byte> out) {
  std::fill(out.begin(), out.end(), std::byte{0});
  const unsigned bits = pattern_bits(sparsity);
  if (bits == 0) {
    if (!has_pattern(sparsity, mask)) return false;
    for (std::size_t c = 0; c < mask.size(); ++c) {
      if (mask[c] != 0) out[c / 8] |= std::byte{1} << (c % 8);
    }
    return true;
  }
  for (std::size_t g = 0; g < mask.size() / sparsity.of; ++g) {
    const auto rank = rank_of(mask.subspan(g * sparsity.of, sparsity.of), sparsity.keep);
    if (!rank) return false;
    BitStream::put(out, g * bits, bits, *rank);
  }
  return true;
}

bool unpack_mask(const StoredSparsity& sparsity, std::span<const std::byte> packed, std::span<std::uint8_t> mask) {
  const unsigned bits = pattern_bits(sparsity);
  for (std::uint64_t b = mask_row_bits(sparsity, mask.size()); b < packed.size() * 8; ++b) {
    if (BitStream::get(packed, b, 1) != 0) return false;
  }
  if (bits == 0) {
    for (std::size_t c = 0; c < mask.size(); ++c) mask[c] = static_cast<std::uint8_t>(BitStream::get(packed, c, 1));
    return has_pattern(sparsity, mask);
  }
  for (std::size_t g = 0; g < mask.size() / sparsity.of; ++g) {
    const std::uint32_t rank = BitStream::get(packed, g * bits, bits);
    if (rank >= kBinomials[sparsity.of][sparsity.keep]) return false;
    choose(rank, sparsity.keep, mask.subspan(g * sparsity.of, sparsity.of));
  }
  return true;
}

// floor(a) + ceil(b) <= floor(a + b) + 1: a row's own bytes end before the next row's begin.
std::uint64_t code_row_begin(std::uint64_t kept, std::uint64_t row, int bits) {
  return checked_add(checked_mul(kept, static_cast<std::uint64_t>(bits), "kept codes") / 8, row, "kept codes");
}

}  // namespace quant::native
