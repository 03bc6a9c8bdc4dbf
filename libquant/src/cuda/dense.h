// Dequantized weights, for dense products of many tokens.
#pragma once

#include "cuda/plain.h"
#include "cuda/tiles.h"

namespace quant::cuda {

/// out [rows][columns]: rows from `first` of one of the two matrices, without the factor; BF16 or float32.
struct DenseFill {
  bool tiled;
  TileMatrix tiles;
  PlainMatrix plain;
  uint64_t first, rows, columns;
  bool bf16;
  void* out;
};

QUANT_HD void fill_dense(const DenseFill& f, uint64_t index) {
  if (index >= f.rows * f.columns) return;
  const uint64_t row = f.first + index / f.columns, column = index % f.columns;
  float weight = 0.0F;  // of padding
  if (f.tiled) {
    weight = tile_weight(f.tiles, row, column);
  } else if (column < f.plain.cols) {
    weight = plain_weight(f.plain, row, column);
  }
  if (f.bf16) {
    static_cast<uint16_t*>(f.out)[index] = static_cast<uint16_t>(bf16_of(weight));
  } else {
    static_cast<float*>(f.out)[index] = weight;
  }
}

}  // namespace quant::cuda
