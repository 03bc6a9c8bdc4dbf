// Values of blocks. One function per format; docs/gguf.md shows where each bit lies.
#include <array>
#include <cstring>
#include <string>

#include "quant/block_format.h"
#include "quant/dtype.h"
#include "quant/error.h"

namespace quant {
namespace {

using Bytes = const std::uint8_t*;

constexpr std::array<std::int8_t, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
// Twice the values of E2M1.
constexpr std::array<std::int8_t, 16> kFp4 = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

template <class Number>
Number load(Bytes at) {
  Number value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
float half(Bytes at) { return f16_to_f32(load<std::uint16_t>(at)); }

// Weights 0..15 are the low nibbles of 16 bytes, 16..31 the high ones.
int nibble(Bytes bytes, unsigned i) { return i < 16 ? bytes[i] & 15 : bytes[i - 16] >> 4; }

void q4_0(Bytes b, float* out) {
  const float d = half(b);
  for (unsigned i = 0; i < 32; ++i) out[i] = static_cast<float>(nibble(b + 2, i) - 8) * d;
}

void q4_1(Bytes b, float* out) {
  const float d = half(b), m = half(b + 2);
  for (unsigned i = 0; i < 32; ++i) out[i] = static_cast<float>(nibble(b + 4, i)) * d + m;
}

int five_bits(Bytes nibbles, std::uint32_t high, unsigned i) {
  return nibble(nibbles, i) | static_cast<int>((high >> i & 1U) << 4U);
}

void q5_0(Bytes b, float* out) {
  const float d = half(b);
  const auto high = load<std::uint32_t>(b + 2);
  for (unsigned i = 0; i < 32; ++i) out[i] = static_cast<float>(five_bits(b + 6, high, i) - 16) * d;
}

void q5_1(Bytes b, float* out) {
  const float d = half(b), m = half(b + 2);
  const auto high = load<std::uint32_t>(b + 4);
  for (unsigned i = 0; i < 32; ++i) out[i] = static_cast<float>(five_bits(b + 8, high, i)) * d + m;
}

void q8_0(Bytes b, float* out) {
  const float d = half(b);
  for (unsigned i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<std::int8_t>(b[2 + i])) * d;
}

// Two bits of weight i: halves of 128 weights, in which byte l holds those of l, l + 32, l + 64 and l + 96.
int two_bits(Bytes qs, unsigned i) { return qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3; }

void q2_k(Bytes b, float* out) {
  const float d = half(b + 80), dmin = half(b + 82);
  for (unsigned s = 0; s < 16; ++s) {
    const float scale = d * static_cast<float>(b[s] & 15), low = dmin * static_cast<float>(b[s] >> 4);
    for (unsigned i = 16 * s; i < 16 * s + 16; ++i) out[i] = scale * static_cast<float>(two_bits(b + 16, i)) - low;
  }
}

int q3_k_scale(Bytes scales, unsigned s) {
  const int low = s < 8 ? scales[s] & 15 : scales[s - 8] >> 4;
  return (low | (scales[8 + s % 4] >> (2 * (s / 4)) & 3) << 4) - 32;
}

void q3_k(Bytes b, float* out) {
  const float d = half(b + 108);
  for (unsigned s = 0; s < 16; ++s) {
    const float scale = d * static_cast<float>(q3_k_scale(b + 96, s));
    for (unsigned i = 16 * s; i < 16 * s + 16; ++i) {
      const int high = b[i % 32] >> (i / 32) & 1;
      out[i] = scale * static_cast<float>(two_bits(b + 32, i) - (high != 0 ? 0 : 4));
    }
  }
}

// 6-bit scales and minima of eight sub-blocks in 12 bytes.
void scale_and_min(Bytes bytes, unsigned s, int& scale, int& low) {
  if (s < 4) {
    scale = bytes[s] & 63;
    low = bytes[s + 4] & 63;
  } else {
    scale = (bytes[s + 4] & 15) | (bytes[s - 4] >> 6) << 4;
    low = (bytes[s + 4] >> 4) | (bytes[s] >> 6) << 4;
  }
}

// Weights 0..31 of a group of 64 are low nibbles, the others high ones.
int group_nibble(Bytes qs, unsigned i) { return qs[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15; }

void q4_k(Bytes b, float* out) {
  const float d = half(b), dmin = half(b + 2);
  for (unsigned s = 0; s < 8; ++s) {
    int sc = 0, m = 0;
    scale_and_min(b + 4, s, sc, m);
    const float scale = d * static_cast<float>(sc), low = dmin * static_cast<float>(m);
    for (unsigned i = 32 * s; i < 32 * s + 32; ++i) {
      out[i] = scale * static_cast<float>(group_nibble(b + 16, i)) - low;
    }
  }
}

void q5_k(Bytes b, float* out) {
  const float d = half(b), dmin = half(b + 2);
  for (unsigned s = 0; s < 8; ++s) {
    int sc = 0, m = 0;
    scale_and_min(b + 4, s, sc, m);
    const float scale = d * static_cast<float>(sc), low = dmin * static_cast<float>(m);
    for (unsigned i = 32 * s; i < 32 * s + 32; ++i) {
      const int code = group_nibble(b + 48, i) | (b[16 + i % 32] >> s & 1) << 4;
      out[i] = scale * static_cast<float>(code) - low;
    }
  }
}

void q6_k(Bytes b, float* out) {
  const float d = half(b + 208);
  for (unsigned i = 0; i < 256; ++i) {
    const unsigned l = i % 128, part = i / 128;
    const int low = b[64 * part + l % 64] >> (l / 64 * 4) & 15;
    const int high = b[128 + 32 * part + l % 32] >> (l / 32 * 2) & 3;
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(b[192 + i / 16]));
    out[i] = scale * static_cast<float>((low | high << 4) - 32);
  }
}

void iq4_nl(Bytes b, float* out) {
  const float d = half(b);
  for (unsigned i = 0; i < 32; ++i) out[i] = d * static_cast<float>(kIq4[static_cast<unsigned>(nibble(b + 2, i))]);
}

void iq4_xs(Bytes b, float* out) {
  const float d = half(b);
  const auto high = load<std::uint16_t>(b + 2);
  for (unsigned s = 0; s < 8; ++s) {
    const int code = (b[4 + s / 2] >> (s % 2 * 4) & 15) | (high >> (2 * s) & 3) << 4;
    const float scale = d * static_cast<float>(code - 32);
    for (unsigned i = 0; i < 32; ++i) {
      out[32 * s + i] = scale * static_cast<float>(kIq4[static_cast<unsigned>(nibble(b + 8 + 16 * s, i))]);
    }
  }
}

// Digit n of base 3, the first being the most significant of five in a byte that holds ceil(number * 256 / 243).
int trit(std::uint8_t byte, unsigned n) {
  static constexpr std::array<unsigned, 5> kPowers = {1, 3, 9, 27, 81};
  const unsigned rest = byte * kPowers[n] & 255U;
  return static_cast<int>(rest * 3U >> 8U) - 1;
}

void tq1_0(Bytes b, float* out) {
  const float d = half(b + 52);
  const auto put = [&](Bytes from, unsigned bytes, unsigned digits, float* to) {
    for (unsigned n = 0; n < digits; ++n) {
      for (unsigned m = 0; m < bytes; ++m) to[n * bytes + m] = static_cast<float>(trit(from[m], n)) * d;
    }
  };
  put(b, 32, 5, out);
  put(b + 32, 16, 5, out + 160);
  put(b + 48, 4, 4, out + 240);
}

void tq2_0(Bytes b, float* out) {
  const float d = half(b + 64);
  for (unsigned i = 0; i < 256; ++i) out[i] = static_cast<float>(two_bits(b, i) - 1) * d;
}

// 2^(e - 128), exact, with the subnormal numbers of e = 0 and 1.
float half_e8m0(std::uint8_t e) {
  const std::uint32_t bits = e < 2 ? std::uint32_t{0x00200000} << e : static_cast<std::uint32_t>(e - 1) << 23U;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

void mxfp4(Bytes b, float* out) {
  const float d = half_e8m0(b[0]);
  for (unsigned i = 0; i < 32; ++i) out[i] = static_cast<float>(kFp4[static_cast<unsigned>(nibble(b + 1, i))]) * d;
}

// Unsigned E4M3: the sign bit is not looked at; 127 stands for no scale.
float half_ue4m3(std::uint8_t bits) { return (bits & 127) == 127 || bits == 0 ? 0.0F : e4m3_to_f32(bits & 127) * 0.5F; }

void nvfp4(Bytes b, float* out) {
  for (unsigned s = 0; s < 4; ++s) {
    const float d = half_ue4m3(b[s]);
    for (unsigned i = 0; i < 16; ++i) {
      const std::uint8_t byte = b[4 + 8 * s + i % 8];
      out[16 * s + i] = static_cast<float>(kFp4[i < 8 ? byte & 15U : static_cast<unsigned>(byte) >> 4U]) * d;
    }
  }
}

void f32(Bytes b, float* out) { *out = load<float>(b); }
void f16(Bytes b, float* out) { *out = half(b); }
void bf16(Bytes b, float* out) { *out = bf16_to_f32(load<std::uint16_t>(b)); }

template <class Decode>
void for_blocks(const BlockFormat& format, std::span<const std::byte> blocks, std::span<float> out, Decode decode) {
  const auto* from = reinterpret_cast<Bytes>(blocks.data());
  float* to = out.data();
  for (std::size_t left = out.size() / format.weights; left > 0; --left, from += format.bytes, to += format.weights) {
    decode(from, to);
  }
}

}  // namespace

std::span<const std::int8_t> iq4_values() { return kIq4; }

void decode_blocks(BlockType type, std::span<const std::byte> blocks, std::span<float> out) {
  const BlockFormat& format = block_format(type);
  if (out.size() % format.weights != 0 || blocks.size() != block_bytes(type, out.size())) {
    throw Error(ErrorCode::internal, std::to_string(blocks.size()) + " bytes of " + std::string(format.name) +
                                         " blocks cannot be decoded into " + std::to_string(out.size()) + " values");
  }
  switch (type) {
    case BlockType::f32:
      return for_blocks(format, blocks, out, f32);
    case BlockType::f16:
      return for_blocks(format, blocks, out, f16);
    case BlockType::bf16:
      return for_blocks(format, blocks, out, bf16);
    case BlockType::q4_0:
      return for_blocks(format, blocks, out, q4_0);
    case BlockType::q4_1:
      return for_blocks(format, blocks, out, q4_1);
    case BlockType::q5_0:
      return for_blocks(format, blocks, out, q5_0);
    case BlockType::q5_1:
      return for_blocks(format, blocks, out, q5_1);
    case BlockType::q8_0:
      return for_blocks(format, blocks, out, q8_0);
    case BlockType::q2_k:
      return for_blocks(format, blocks, out, q2_k);
    case BlockType::q3_k:
      return for_blocks(format, blocks, out, q3_k);
    case BlockType::q4_k:
      return for_blocks(format, blocks, out, q4_k);
    case BlockType::q5_k:
      return for_blocks(format, blocks, out, q5_k);
    case BlockType::q6_k:
      return for_blocks(format, blocks, out, q6_k);
    case BlockType::iq4_nl:
      return for_blocks(format, blocks, out, iq4_nl);
    case BlockType::iq4_xs:
      return for_blocks(format, blocks, out, iq4_xs);
    case BlockType::tq1_0:
      return for_blocks(format, blocks, out, tq1_0);
    case BlockType::tq2_0:
      return for_blocks(format, blocks, out, tq2_0);
    case BlockType::mxfp4:
      return for_blocks(format, blocks, out, mxfp4);
    case BlockType::nvfp4:
      return for_blocks(format, blocks, out, nvfp4);
  }
}

}  // namespace quant
