#include <algorithm>

#include "cuda/pack.h"
#include "linalg/parallel.h"

namespace quant::cuda {
namespace {

using linalg::pieces;

int stored_code(const QuantArgs& args, std::int8_t code, int offset) {
  if (args.type == NumberType::integer) return code + offset;
  const auto mask = args.type == NumberType::codebook ? (1U << static_cast<unsigned>(args.num_bits)) - 1U : 0xFFU;
  return static_cast<int>(static_cast<std::uint8_t>(code) & mask);
}

// The bits of the type, or 8 if a code does not fit into them.
int bits_for(const QuantizedTensor& weight) {
  const int bits = weight.args.num_bits, offset = 1 << (bits - 1);
  const bool fits = std::ranges::all_of(weight.codes, [&](std::int8_t code) {
    const int stored = stored_code(weight.args, code, offset);
    return stored >= 0 && stored < 1 << bits;
  });
  return fits ? bits : 8;
}

std::vector<float> element_values(const QuantArgs& args, int bits) {
  const DType type = element_dtype(args);
  std::vector<float> values(std::size_t{1} << static_cast<unsigned>(bits));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto code = static_cast<std::uint8_t>(i);
    values[i] = type == DType::F4 ? e2m1_to_f32(code) : type == DType::F8_E5M2 ? e5m2_to_f32(code) : e4m3_to_f32(code);
  }
  return values;
}

}  // namespace

PackedPlain pack_plain(const QuantizedTensor& weight, int threads) {
  PackedPlain out;
  const int bits = bits_for(weight);
  PlainMatrix& shape = out.shape;
  shape.kind = weight.args.type == NumberType::integer ? PlainKind::integer
               : has_learned_codebook(weight.args)     ? PlainKind::table_of_unit
                                                       : PlainKind::table;
  shape.bits = static_cast<std::uint32_t>(bits);
  shape.offset = weight.args.type == NumberType::integer ? 1 << (bits - 1) : 0;
  shape.rows = weight.rows;
  shape.cols = weight.cols;
  shape.words = pieces(weight.cols * shape.bits, 32) + 1;
  shape.row_extent = weight.grid.row_extent;
  shape.col_extent = weight.grid.col_extent;
  shape.grid_cols = weight.grid.cols;
  shape.flat = weight.grid.flat;
  shape.global_scale = is_nvfp4(weight.args) ? weight.global_scale : 1.0F;
  out.scales = weight.scales;
  out.zeros = weight.zero_points;
  out.real_zeros = weight.real_zero_points;
  out.groups = weight.group_index;
  out.table = weight.args.type == NumberType::floating ? element_values(weight.args, bits) : weight.codebook;
  out.codes.resize(weight.rows * shape.words);
  linalg::for_tasks(threads, weight.rows, [&](std::size_t row) {
    std::uint32_t* words = out.codes.data() + row * shape.words;
    for (std::uint64_t c = 0; c < weight.cols; ++c) {
      const int stored = stored_code(weight.args, weight.codes[row * weight.cols + c], shape.offset);
      const std::uint64_t bit = c * shape.bits, field = static_cast<std::uint64_t>(stored) << (bit % 32);
      words[bit / 32] |= static_cast<std::uint32_t>(field);
      words[bit / 32 + 1] |= static_cast<std::uint32_t>(field >> 32);
    }
  });
  return out;
}

}  // namespace quant::cuda
