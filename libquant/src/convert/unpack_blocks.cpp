#include "convert/unpack_blocks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "quant/dtype.h"
#include "quant/error.h"

namespace quant::convert {
namespace {

constexpr std::uint64_t kBlock = 32;

[[noreturn]] void refuse(const std::string& reason) { throw Error(ErrorCode::unsupported, reason, "", "NotExact"); }

float half_at(const std::byte* at) {
  std::uint16_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  const float value = f16_to_f32(bits);
  if (!std::isfinite(value)) refuse("the scale of a block is not finite");
  return value;
}

// Weights j and j + 16 are in byte j.
void take_nibbles(const std::byte* at, int offset, std::int8_t* codes) {
  for (std::uint64_t i = 0; i < 16; ++i) {
    const int both = std::to_integer<int>(at[i]);
    codes[i] = static_cast<std::int8_t>((both & 15) - offset);
    codes[i + 16] = static_cast<std::int8_t>((both >> 4) - offset);
  }
}

void take_fifth_bits(const std::byte* at, std::int8_t* codes) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, at, sizeof bits);
  for (std::uint64_t i = 0; i < kBlock; ++i) codes[i] = static_cast<std::int8_t>(codes[i] + (bits >> i & 1U) * 16);
}

// w = d q + m = (q - z) d with z = -m / d.
std::int8_t zero_point_of(float scale, float minimum) {
  if (minimum == 0) return -8;
  const float zero = -minimum / scale;
  if (!(zero >= 0 && zero <= 15) || zero != std::round(zero) || zero * scale != -minimum) {
    refuse(
        fmt::format("the minimum {} of a block of Q4_1 is no multiple of its scale {} from -15 to 0", minimum, scale));
  }
  return static_cast<std::int8_t>(static_cast<int>(zero) - 8);
}

void take_block(BlockType type, const std::byte* at, std::size_t unit, std::int8_t* codes, QuantizedTensor& out) {
  if (type == BlockType::mxfp4) {
    const int exponent = std::to_integer<int>(at[0]);
    if (exponent == 255) refuse("the scale of a block is not finite");
    out.scales[unit] = std::ldexp(1.0F, exponent - 127);
    return take_nibbles(at + 1, 0, codes);
  }
  out.scales[unit] = half_at(at);
  switch (type) {
    case BlockType::q4_1:
      out.zero_points[unit] = zero_point_of(out.scales[unit], half_at(at + 2));
      return take_nibbles(at + 4, 8, codes);
    case BlockType::q5_0:
      take_nibbles(at + 6, 16, codes);
      return take_fifth_bits(at + 2, codes);
    case BlockType::q8_0:
      std::memcpy(codes, at + 2, kBlock);
      return;
    default:
      return take_nibbles(at + 2, 8, codes);
  }
}

}  // namespace

std::optional<QuantArgs> grid_of_blocks(BlockType type) {
  QuantArgs args;
  args.strategy = Strategy::group;
  args.group_size = kBlock;
  switch (type) {
    case BlockType::q4_0:
    case BlockType::q4_1:
      args.num_bits = 4;
      args.symmetric = type == BlockType::q4_0;
      return args;
    case BlockType::q5_0:
      args.num_bits = 5;
      return args;
    case BlockType::q8_0:
      args.num_bits = 8;
      return args;
    case BlockType::mxfp4:
      return preset_scheme("MXFP4A16")->weights;
    default:
      return std::nullopt;
  }
}

void unpack_blocks(const QuantizedTensor& blocks, QuantizedTensor& out) {
  check_sizes(blocks);
  const BlockType type = *blocks.args.block;
  const auto args = grid_of_blocks(type);
  if (!args) refuse(fmt::format("blocks of {} are no codes of one grid", block_format(type).name));
  out = {};
  out.resize(*args, blocks.rows, blocks.cols);
  out.scale_dtype = type == BlockType::mxfp4 ? DType::U8 : DType::F16;
  const std::byte* at = blocks.blocks.data();
  for (std::size_t unit = 0; unit < out.scales.size(); ++unit, at += block_format(type).bytes) {
    take_block(type, at, unit, out.codes.data() + unit * kBlock, out);
  }
}

}  // namespace quant::convert
