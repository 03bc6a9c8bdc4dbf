#include "packing/pack_bits.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "quant/error.h"
#include "quant/kernels.h"

namespace quant::packing {
namespace {

static_assert(std::endian::native == std::endian::little, "packing loads and stores words in the machine's byte order");

constexpr std::uint64_t repeat_byte(unsigned value) { return value * 0x0101010101010101ULL; }

// Eight codes of B bits are exactly B bytes, so whole rows are packed eight codes at a time: three steps join
// neighbours of 8, 16 and 32 bits within one 64-bit register. GCC turns the loops over registers into vector code.
template <unsigned B>
constexpr std::uint64_t join_eight(std::uint64_t x) {
  if constexpr (B < 8) {
    x = (x & 0x00FF00FF00FF00FFULL) | ((x & 0xFF00FF00FF00FF00ULL) >> (8 - B));
    x = (x & 0x0000FFFF0000FFFFULL) | ((x & 0xFFFF0000FFFF0000ULL) >> (16 - 2 * B));
    x = (x & 0x00000000FFFFFFFFULL) | ((x & 0xFFFFFFFF00000000ULL) >> (32 - 4 * B));
  }
  return x;
}

template <unsigned B>
constexpr std::uint64_t split_eight(std::uint64_t x) {
  if constexpr (B < 8) {
    constexpr std::uint64_t kMask4 = (1ULL << (4 * B)) - 1;
    constexpr std::uint64_t kMask2 = ((1ULL << (2 * B)) - 1) * 0x0000000100000001ULL;
    constexpr std::uint64_t kMask1 = ((1ULL << B) - 1) * 0x0001000100010001ULL;
    x = (x & kMask4) | ((x >> (4 * B) & kMask4) << 32);
    x = (x & kMask2) | ((x >> (2 * B) & kMask2) << 16);
    x = (x & kMask1) | ((x >> B & kMask1) << 8);
  }
  return x;
}

// Adding 2^(b-1) modulo 2^b flips the top bit of the field.
template <unsigned B>
constexpr std::uint64_t encode_eight(std::uint64_t codes, std::uint64_t flip) {
  return join_eight<B>((codes ^ flip) & repeat_byte((1U << B) - 1));
}

// Subtracts 2^(b-1) from each byte without borrows between bytes: fields are below 2^b, so adding 2^7 - 2^(b-1) stays
// within a byte, and flipping the top bit takes 2^7 away.
template <unsigned B>
constexpr std::uint64_t decode_eight(std::uint64_t bits, bool offset) {
  const std::uint64_t fields = split_eight<B>(bits);
  return offset ? (fields + repeat_byte(128U - (1U << (B - 1)))) ^ repeat_byte(128U) : fields;
}

template <unsigned B>
void pack_bits(const std::int8_t* codes, std::size_t count, bool offset, std::byte* out) {
  const std::uint64_t flip = offset ? repeat_byte(1U << (B - 1)) : 0;
  const std::size_t eights = count / 8;
  for (std::size_t i = 0; i < eights; ++i) {
    std::uint64_t x = 0;
    std::memcpy(&x, codes + 8 * i, 8);
    x = encode_eight<B>(x, flip);
    std::memcpy(out + B * i, &x, B);
  }
  if (const std::size_t rest = count % 8; rest != 0) {
    std::uint64_t x = 0;
    std::memcpy(&x, codes + 8 * eights, rest);
    const std::uint64_t used = (1ULL << (8 * rest)) - 1;
    x = encode_eight<B>(x, flip & used);
    std::memcpy(out + B * eights, &x, (rest * B + 7) / 8);
  }
}

template <unsigned B>
void unpack_bits(const std::byte* packed, std::size_t count, bool offset, std::int8_t* codes) {
  const std::size_t eights = count / 8;
  // Loads of whole registers are several times faster than loads of 3, 5, 6 or 7 bytes, but may not pass the row's end.
  const std::size_t bytes = eights * B;
  const std::size_t whole_loads = bytes < 8 ? 0 : (bytes - 8) / B + 1;
  for (std::size_t i = 0; i < whole_loads; ++i) {
    std::uint64_t x = 0;
    std::memcpy(&x, packed + B * i, 8);
    x = decode_eight<B>(x, offset);
    std::memcpy(codes + 8 * i, &x, 8);
  }
  for (std::size_t i = whole_loads; i < eights; ++i) {
    std::uint64_t x = 0;
    std::memcpy(&x, packed + B * i, B);
    x = decode_eight<B>(x, offset);
    std::memcpy(codes + 8 * i, &x, 8);
  }
  if (const std::size_t rest = count % 8; rest != 0) {
    std::uint64_t x = 0;
    std::memcpy(&x, packed + B * eights, (rest * B + 7) / 8);
    x = decode_eight<B>(x, offset);
    std::memcpy(codes + 8 * eights, &x, rest);
  }
}

// The width that most models use has a kernel for each instruction set.
template <>
void pack_bits<4>(const std::int8_t* codes, std::size_t count, bool offset, std::byte* out) {
  const std::uint8_t flip = offset ? 8 : 0;
  kernels().pack_nibbles(codes, count / 2, flip, reinterpret_cast<std::uint8_t*>(out));
  if (count % 2 != 0) out[count / 2] = static_cast<std::byte>((codes[count - 1] ^ flip) & 15);
}

using PackFunction = void (*)(const std::int8_t*, std::size_t, bool, std::byte*);
using UnpackFunction = void (*)(const std::byte*, std::size_t, bool, std::int8_t*);
constexpr std::array<PackFunction, 8> kPack = {pack_bits<1>, pack_bits<2>, pack_bits<3>, pack_bits<4>,
                                               pack_bits<5>, pack_bits<6>, pack_bits<7>, pack_bits<8>};
constexpr std::array<UnpackFunction, 8> kUnpack = {unpack_bits<1>, unpack_bits<2>, unpack_bits<3>, unpack_bits<4>,
                                                   unpack_bits<5>, unpack_bits<6>, unpack_bits<7>, unpack_bits<8>};

void check(bool ok, const char* what) {
  if (!ok) throw Error(ErrorCode::internal, std::string("bit packing was called with ") + what);
}

std::uint64_t packed_bytes(std::uint64_t count, unsigned bits) {
  return checked_add(checked_mul(count, bits, "packed bits"), 7, "packed bits") / 8;
}

void check_bits(unsigned bits) { check(bits >= 1 && bits <= 8, "a width outside 1..8"); }

std::uint32_t load_word(const std::byte* bytes) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

std::uint64_t dense_words(std::uint64_t count, unsigned bits) {
  return checked_add(checked_mul(count, bits, "packed bits"), 31, "packed bits") / 32;
}

std::uint64_t whole_element_words(std::uint64_t count, unsigned bits) {
  const std::uint64_t per_word = 32 / bits;
  return count / per_word + (count % per_word != 0 ? 1 : 0);
}

void pack_row(std::span<const std::int8_t> codes, unsigned bits, Coding coding, std::span<std::byte> out) {
  check_bits(bits);
  const std::uint64_t used = packed_bytes(codes.size(), bits);
  check(out.size() >= used, "too little room for a row");
  kPack[bits - 1](codes.data(), codes.size(), coding == Coding::offset, out.data());
  std::fill(out.begin() + static_cast<std::ptrdiff_t>(used), out.end(), std::byte{0});
}

void unpack_row(std::span<const std::byte> packed, unsigned bits, Coding coding, std::span<std::int8_t> codes) {
  check_bits(bits);
  check(packed.size() >= packed_bytes(codes.size(), bits), "too few bytes for a row");
  kUnpack[bits - 1](packed.data(), codes.size(), coding == Coding::offset, codes.data());
}

void unpack_row_whole_elements(std::span<const std::byte> packed, unsigned bits, Coding coding,
                               std::span<std::int8_t> codes) {
  check_bits(bits);
  check(packed.size() / 4 >= whole_element_words(codes.size(), bits), "too few words for a row");
  const std::size_t per_word = 32 / bits;
  const std::uint32_t mask = (1U << bits) - 1;
  const int offset = coding == Coding::offset ? 1 << (bits - 1) : 0;
  for (std::size_t first = 0, word = 0; first < codes.size(); first += per_word, ++word) {
    std::uint32_t value = load_word(packed.data() + 4 * word);
    for (std::size_t i = first; i < std::min(first + per_word, codes.size()); ++i, value >>= bits) {
      codes[i] = static_cast<std::int8_t>(static_cast<int>(value & mask) - offset);
    }
  }
}

void pack_along_rows(std::span<const std::int8_t> values, std::uint64_t rows, std::uint64_t cols, unsigned bits,
                     Coding coding, std::span<std::byte> out) {
  check_bits(bits);
  check(values.size() == checked_mul(rows, cols, "zero points"), "a matrix of another size");
  check(out.size() == checked_mul(dense_words(rows, bits) * 4, cols, "packed zero points"), "room of another size");
  // 32 rows are exactly `bits` words of a column.
  std::array<std::int8_t, 32> column{};
  std::array<std::byte, 32> words{};
  for (std::uint64_t first = 0, word_row = 0; first < rows; first += 32, word_row += bits) {
    const std::uint64_t count = std::min<std::uint64_t>(32, rows - first);
    const std::uint64_t word_count = dense_words(count, bits);
    for (std::uint64_t c = 0; c < cols; ++c) {
      for (std::uint64_t r = 0; r < count; ++r) column[r] = values[(first + r) * cols + c];
      pack_row(std::span(column).first(count), bits, coding, words);
      for (std::uint64_t w = 0; w < word_count; ++w) {
        std::memcpy(out.data() + ((word_row + w) * cols + c) * 4, words.data() + 4 * w, 4);
      }
    }
  }
}

void unpack_along_rows(std::span<const std::byte> packed, std::uint64_t rows, std::uint64_t cols, unsigned bits,
                       Coding coding, bool whole_elements, std::span<std::int8_t> values) {
  check_bits(bits);
  check(values.size() == checked_mul(rows, cols, "zero points"), "a matrix of another size");
  const std::uint64_t word_rows = whole_elements ? whole_element_words(rows, bits) : dense_words(rows, bits);
  check(packed.size() >= checked_mul(word_rows * 4, cols, "packed zero points"), "too few words");
  const std::uint64_t run = whole_elements ? 32 / bits : 32;  // rows that start at a word's first bit
  const std::uint64_t run_words = whole_elements ? 1 : bits;
  std::array<std::int8_t, 32> column{};
  std::array<std::byte, 32> words{};
  for (std::uint64_t first = 0, word_row = 0; first < rows; first += run, word_row += run_words) {
    const std::uint64_t count = std::min(run, rows - first);
    const std::uint64_t word_count = std::min(run_words, word_rows - word_row);
    for (std::uint64_t c = 0; c < cols; ++c) {
      for (std::uint64_t w = 0; w < word_count; ++w) {
        std::memcpy(words.data() + 4 * w, packed.data() + ((word_row + w) * cols + c) * 4, 4);
      }
      unpack_row(words, bits, coding, std::span(column).first(count));
      for (std::uint64_t r = 0; r < count; ++r) values[(first + r) * cols + c] = column[r];
    }
  }
}

}  // namespace quant::packing
