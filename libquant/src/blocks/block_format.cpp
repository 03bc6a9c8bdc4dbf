#include "quant/block_format.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <string>
#include <utility>

#include "quant/error.h"

namespace quant {
namespace {

constexpr std::array kFormats = {
    BlockFormat{BlockType::f32, "F32", 1, 4, 32},        BlockFormat{BlockType::f16, "F16", 1, 2, 16},
    BlockFormat{BlockType::q4_0, "Q4_0", 32, 18, 4},     BlockFormat{BlockType::q4_1, "Q4_1", 32, 20, 4},
    BlockFormat{BlockType::q5_0, "Q5_0", 32, 22, 5},     BlockFormat{BlockType::q5_1, "Q5_1", 32, 24, 5},
    BlockFormat{BlockType::q8_0, "Q8_0", 32, 34, 8},     BlockFormat{BlockType::q2_k, "Q2_K", 256, 84, 2},
    BlockFormat{BlockType::q3_k, "Q3_K", 256, 110, 3},   BlockFormat{BlockType::q4_k, "Q4_K", 256, 144, 4},
    BlockFormat{BlockType::q5_k, "Q5_K", 256, 176, 5},   BlockFormat{BlockType::q6_k, "Q6_K", 256, 210, 6},
    BlockFormat{BlockType::iq4_nl, "IQ4_NL", 32, 18, 4}, BlockFormat{BlockType::iq4_xs, "IQ4_XS", 256, 136, 4},
    BlockFormat{BlockType::bf16, "BF16", 1, 2, 16},      BlockFormat{BlockType::tq1_0, "TQ1_0", 256, 54, 2},
    BlockFormat{BlockType::tq2_0, "TQ2_0", 256, 66, 2},  BlockFormat{BlockType::mxfp4, "MXFP4", 32, 17, 4},
    BlockFormat{BlockType::nvfp4, "NVFP4", 64, 36, 4},
};

// Types that need large tables of lattice points, are meant for activations, or were removed again.
constexpr std::array<std::pair<std::uint32_t, std::string_view>, 23> kUndecoded = {
    {{4, "Q4_2"},      {5, "Q4_3"},        {9, "Q8_1"},        {15, "Q8_K"},  {16, "IQ2_XXS"},  {17, "IQ2_XS"},
     {18, "IQ3_XXS"},  {19, "IQ1_S"},      {21, "IQ3_S"},      {22, "IQ2_S"}, {24, "I8"},       {25, "I16"},
     {26, "I32"},      {27, "I64"},        {28, "F64"},        {29, "IQ1_M"}, {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"},
     {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {41, "Q1_0"},  {42, "Q2_0"}}};

}  // namespace

std::span<const BlockFormat> block_formats() { return kFormats; }

const BlockFormat& block_format(BlockType type) {
  const BlockFormat* format = find_block_format(static_cast<std::uint32_t>(type));
  if (format != nullptr) return *format;
  throw Error(ErrorCode::internal, "block type " + std::to_string(static_cast<int>(type)) + " is unknown");
}

const BlockFormat* find_block_format(std::uint32_t number) {
  const auto found = std::ranges::find(kFormats, static_cast<BlockType>(number), &BlockFormat::type);
  return number > 255 || found == kFormats.end() ? nullptr : &*found;
}

const BlockFormat* find_block_format(std::string_view name) {
  const auto same = [](char a, char b) {
    return std::toupper(static_cast<unsigned char>(a)) == std::toupper(static_cast<unsigned char>(b));
  };
  const auto found =
      std::ranges::find_if(kFormats, [&](const BlockFormat& f) { return std::ranges::equal(f.name, name, same); });
  return found == kFormats.end() ? nullptr : &*found;
}

std::string_view undecoded_block_name(std::uint32_t number) {
  const auto found = std::ranges::find(kUndecoded, number, &std::pair<std::uint32_t, std::string_view>::first);
  return found == kUndecoded.end() ? std::string_view{} : found->second;
}

std::uint64_t block_bytes(BlockType type, std::uint64_t weights) {
  const BlockFormat& format = block_format(type);
  return checked_mul(weights / format.weights, format.bytes, "blocks");
}

}  // namespace quant
