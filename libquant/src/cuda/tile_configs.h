// Which tiles a product gets: a template that nvcc and the tests' processor version share.
#pragma once

#include "cuda/tile_product.h"

namespace quant::cuda {

/// launch.template run<Config>() with tiles for so many columns of x^T. Few columns want many blocks; more of them want
/// weights that are decoded once for all, and inputs that are read for several strips.
template <class Op, class Launch>
void choose_tiles(const TileProduct& p, const Launch& launch) {
  const uint64_t columns = p.inputs.tokens * p.inputs.parts;
  if (columns <= 8) {
    launch.template run<TileConfig<Op, 1, 1>>();
  } else if (columns <= 16) {
    launch.template run<TileConfig<Op, (Op::kBits == 8 ? 1 : 2), 2>>();
  } else {
    launch.template run<TileConfig<Op, 2, 4>>();
  }
}

/// The operation of BF16 integers of those bits, and of bytes.
template <template <uint32_t> class Op, class Launch>
void choose_bits(const TileProduct& p, const Launch& launch) {
  if (p.matrix.bits == 2) {
    choose_tiles<Op<2>>(p, launch);
  } else if (p.matrix.bits == 4) {
    choose_tiles<Op<4>>(p, launch);
  } else {
    choose_tiles<Op<8>>(p, launch);
  }
}

template <uint32_t bits>
using IntegerOp = Bf16Op<IntegerOperand<bits>>;
using TableOp = Bf16Op<TableOperand>;
template <uint32_t exponent_bits>
using Float8Op = Bf16Op<Float8Operand<exponent_bits>>;

}  // namespace quant::cuda
