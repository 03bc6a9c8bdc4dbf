#include "cuda/launch.h"
#include "cuda/tiles.cuh"

namespace quant::cuda {

int launch_integer_tiles(const TileProduct& product, void* stream) {
  choose_bits<IntegerOp>(product, TileLaunch{product, static_cast<cudaStream_t>(stream)});
  return static_cast<int>(cudaGetLastError());
}

}  // namespace quant::cuda
