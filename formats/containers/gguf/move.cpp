// Codes of other formats as blocks: moved, never rounded.
#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "quant/dtype.h"
#include "quant/error.h"
#include "quant/gguf.h"

namespace quant {
namespace {

constexpr std::uint64_t kBlock = 32;

bool is_plain_integer(const QuantArgs& args) {
  const bool whole = args.strategy == Strategy::tensor || args.strategy == Strategy::channel ||
                     (args.strategy == Strategy::group && args.group_size.value_or(0) % 32 == 0);
  return args.type == NumberType::integer && whole && args.actorder != ActOrder::group && args.dynamic == Dynamic::no &&
         !has_real_zero_points(args) && args.outlier_percent + args.sensitive_percent == 0;
}

std::uint16_t exact_half(float value, const char* what) {
  const std::uint16_t bits = f32_to_f16(value);
  if (f16_to_f32(bits) == value) return bits;
  throw Error(ErrorCode::unsupported,
              fmt::format("the {} {} is no half-precision number, which blocks hold", what, value),
              "Allow rounding with --requantize.", "LossyConversion");
}

void put_half(std::byte* at, std::uint16_t bits) { std::memcpy(at, &bits, sizeof bits); }

// 32 codes from 0 to 15, of weights j and j + 16 in byte j.
void put_nibbles(std::byte* at, const std::int8_t* codes, int offset) {
  for (std::uint64_t i = 0; i < 16; ++i) {
    const int low = codes[i] + offset, high = codes[i + 16] + offset;
    at[i] = static_cast<std::byte>((low & 15) | (high & 15) << 4);
  }
}

std::byte exponent_of(float scale) {
  int power = 0;
  if (!(scale > 0) || std::frexp(scale, &power) != 0.5F || power + 126 < 0 || power + 126 > 254) {
    throw Error(ErrorCode::unsupported, fmt::format("the scale {} is no power of two, which MXFP4 holds", scale), "",
                "LossyConversion");
  }
  return static_cast<std::byte>(power + 126);
}

void put_block(const QuantizedTensor& from, BlockType type, const std::int8_t* codes, std::size_t unit, std::byte* at) {
  const float scale = from.scales[unit];
  const int zero = from.zero_points.empty() ? 0 : from.zero_points[unit];
  switch (type) {
    case BlockType::q4_0:
      put_half(at, exact_half(scale, "scale"));
      return put_nibbles(at + 2, codes, 8);
    case BlockType::q4_1:
      put_half(at, exact_half(scale, "scale"));
      put_half(at + 2, exact_half(static_cast<float>(-8 - zero) * scale, "minimum"));
      return put_nibbles(at + 4, codes, 8);
    case BlockType::q8_0:
      put_half(at, exact_half(scale, "scale"));
      std::memcpy(at + 2, codes, kBlock);
      return;
    case BlockType::mxfp4:
      at[0] = exponent_of(scale);
      return put_nibbles(at + 1, codes, 0);
    default:
      throw Error(ErrorCode::usage, fmt::format("codes are not moved to {}", block_format(type).name));
  }
}

}  // namespace

std::optional<BlockType> lossless_block_type(const QuantArgs& args, std::uint64_t cols) {
  if (has_blocks(args)) return args.block;
  if (cols % kBlock != 0) return std::nullopt;
  if (is_mx(args) && args.num_bits == 4) return BlockType::mxfp4;
  if (!is_plain_integer(args)) return std::nullopt;
  if (args.num_bits <= 4) return args.symmetric ? BlockType::q4_0 : BlockType::q4_1;
  return args.symmetric ? std::optional(BlockType::q8_0) : std::nullopt;
}

QuantizedTensor move_to_blocks(const QuantizedTensor& tensor, BlockType type) {
  check_sizes(tensor);
  if (has_blocks(tensor.args) && tensor.args.block == type) return tensor;
  if (lossless_block_type(tensor.args, tensor.cols) != type) {
    throw Error(ErrorCode::usage, fmt::format("weights of {} are not moved to blocks of {}", describe(tensor.args),
                                              block_format(type).name));
  }
  if (!tensor.group_index.empty() || !tensor.sparse.empty()) {
    throw Error(ErrorCode::unsupported, "columns out of order and sparse parts have no place in blocks", "",
                "LossyConversion");
  }
  QuantizedTensor out;
  out.resize(block_args(type), tensor.rows, tensor.cols);
  std::byte* at = out.blocks.data();
  for (std::uint64_t r = 0; r < tensor.rows; ++r) {
    const std::size_t row = r / tensor.grid.row_extent * tensor.grid.cols;
    for (std::uint64_t c = 0; c < tensor.cols; c += kBlock, at += block_format(type).bytes) {
      put_block(tensor, type, tensor.codes.data() + r * tensor.cols + c, row + c / tensor.grid.col_extent, at);
    }
  }
  return out;
}

}  // namespace quant
