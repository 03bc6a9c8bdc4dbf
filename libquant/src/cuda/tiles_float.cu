#include "cuda/launch.h"
#include "cuda/tiles.cuh"

namespace quant::cuda {

int launch_float_tiles(const TileProduct& product, void* stream) {
  const TileLaunch launch{product, static_cast<cudaStream_t>(stream)};
  if (product.matrix.kind == TileKind::table) {
    choose_tiles<TableOp>(product, launch);
  } else if (product.matrix.kind == TileKind::e4m3) {
    choose_tiles<Float8Op<4>>(product, launch);
  } else {
    choose_tiles<Float8Op<5>>(product, launch);
  }
  return static_cast<int>(cudaGetLastError());
}

}  // namespace quant::cuda
