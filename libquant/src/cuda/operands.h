// A lane's codes as operands of mma instructions: decoded in registers, four weights of each of its two rows at a time.
#pragma once

#include "cuda/tiles.h"

namespace quant::cuda {

/// Pair `index` of a lane's words: two codes, one in each half. Decoders below get the words from a block of two runs
/// on, and which run of it they are to decode.
template <uint32_t bits>
QUANT_HD uint32_t code_pair(const uint32_t* words, uint32_t index) {
  constexpr uint32_t pairs = 16 / bits, mask = ((1U << bits) - 1U) * 0x00010001U;
  return (words[index / pairs] >> (bits * (index % pairs))) & mask;
}

/// Integers less their zero points, exactly, as BF16: 16 x 16 weights per run.
template <uint32_t bits>
struct IntegerOperand {
  struct Strip {
    uint32_t zeros[2];  // of rows g and g + 8
  };
  struct Shared {};
  static constexpr uint32_t kBits = bits;

  static QUANT_HD void start(Shared&, const TileMatrix&, uint32_t) {}

  static QUANT_HD uint32_t stored_zero(const TileMatrix& m, uint64_t place) {
    const int32_t zero = m.offset + (m.zeros == nullptr ? 0 : m.zeros[place]);
    // 128 + zero is below 256 and so exact; of 8 bits, the float 2^23 + zero is.
    if constexpr (bits == 8) return bits_of(8388608.0F + static_cast<float>(zero));
    return bf16_of(-128.0F - static_cast<float>(zero)) * 0x00010001U;
  }

  static QUANT_HD void load(Strip& strip, const TileMatrix& m, uint64_t place) {
    strip.zeros[0] = stored_zero(m, place);
    strip.zeros[1] = stored_zero(m, place + 8);
  }

  static QUANT_HD uint32_t decode_pair(uint32_t pair, uint32_t zero) {
    if constexpr (bits ==
                  8) {  // as float32: 2^23 + code, less 2^23 + zero; the upper halves hold all of the difference
      const float first = float_of((pair & 0xFFU) | 0x4B000000U) - float_of(zero);
      const float second = float_of((pair >> 16) | 0x4B000000U) - float_of(zero);
      return permute_bytes(bits_of(first), bits_of(second), 0x7632);
    }
    return fused_bf16x2(pair | 0x43004300U, 0x3F803F80U, zero);  // 128 + code, times 1, less 128 + zero
  }

  static QUANT_HD void decode(uint32_t* a, const uint32_t* words, uint32_t run, const Strip& strip, const Shared&) {
    QUANT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) a[i] = decode_pair(code_pair<bits>(words, 4 * run + i), strip.zeros[i % 2]);
  }
};

/// FP8: the bits, moved to their places in BF16, are the number times 2^-120 (E4M3) or 2^-112 (E5M2).
template <uint32_t exponent_bits>
struct Float8Operand {
  struct Strip {};
  struct Shared {};
  static constexpr uint32_t kBits = 8;

  static QUANT_HD void start(Shared&, const TileMatrix&, uint32_t) {}
  static QUANT_HD void load(Strip&, const TileMatrix&, uint64_t) {}

  static QUANT_HD void decode(uint32_t* a, const uint32_t* words, uint32_t run, const Strip&, const Shared&) {
    constexpr uint32_t factor = exponent_bits == 4 ? 0x7B807B80U : 0x77807780U;  // 2^120 or 2^112
    QUANT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t pair = code_pair<8>(words, 4 * run + i);
      const uint32_t moved = ((pair & 0x00800080U) << 8) | ((pair & 0x007F007FU) << (exponent_bits == 4 ? 4 : 5));
      a[i] = fused_bf16x2(moved, factor, 0x80008000U);  // less zero, which keeps the sign of zeros
    }
  }
};

/// Tables of 16 BF16 numbers. Byte permutations look up four codes at once: in the first or in the second half of the
/// table, as the code's highest bit says.
struct TableOperand {
  struct Strip {};
  struct Shared {
    uint32_t table[8];
  };
  static constexpr uint32_t kBits = 4;

  static QUANT_HD void start(Shared& shared, const TileMatrix& m, uint32_t plane) {
    const Words4 low = load_words<false>(m.table + 8 * plane), high = load_words<false>(m.table + 8 * plane + 4);
    QUANT_UNROLL
    for (uint32_t i = 0; i < 4; ++i) {
      shared.table[i] = low.word[i];
      shared.table[4 + i] = high.word[i];
    }
  }
  static QUANT_HD void load(Strip&, const TileMatrix&, uint64_t) {}

  static QUANT_HD void decode(uint32_t* a, const uint32_t* words, uint32_t run, const Strip&, const Shared& shared) {
    QUANT_UNROLL
    for (uint32_t row = 0; row < 2; ++row) {
      const uint32_t codes = words[run] >> (16 * row);
      const uint32_t upper = permute_bytes(0, 0xFFFFFFFFU, (codes >> 1) & 0x4444U);  // bytes of ones where code >= 8
      uint32_t bytes[2];
      QUANT_UNROLL
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t* table = shared.table + 4 * i;
        const uint32_t first = permute_bytes(table[0], table[1], codes & 0x7777U);
        const uint32_t second = permute_bytes(table[2], table[3], codes & 0x7777U);
        bytes[i] = (first & ~upper) | (second & upper);
      }
      a[row] = permute_bytes(bytes[0], bytes[1], 0x5140);
      a[row + 2] = permute_bytes(bytes[0], bytes[1], 0x7362);
    }
  }
};

/// Stored codes as unsigned bytes, 16 x 32 per block of two runs; zero points are taken out of the sums. Bytes have the
/// columns j = 0, 2, 1, 3.
template <uint32_t bits>
struct ByteOperand {
  static constexpr uint32_t kBits = bits;

  static QUANT_HD void decode(uint32_t* a, const uint32_t* words) {
    QUANT_UNROLL
    for (uint32_t s = 0; s < 2; ++s) {
      QUANT_UNROLL
      for (uint32_t row = 0; row < 2; ++row) {
        const uint32_t first = 4 * s + row;
        a[row + 2 * s] = code_pair<bits>(words, first) | (code_pair<bits>(words, first + 2) << 8);
      }
    }
  }
};

}  // namespace quant::cuda
