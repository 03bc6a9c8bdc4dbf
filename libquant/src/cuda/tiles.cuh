// The kernel around TileWorker, and its launch.
#pragma once

#include <cuda_runtime.h>

#include "cuda/device_warp.cuh"
#include "cuda/tile_configs.h"

namespace quant::cuda {

template <class Config>
__global__ void __launch_bounds__(kTileThreads, Config::kResident) tile_kernel(const __grid_constant__ TileProduct p) {
  using Lane = TileLane<Config>;
  __shared__ TileShared<Config> shared;
  const TilePlace place = tile_place<Config>(p, blockIdx.x, blockIdx.y);
  const uint32_t index = threadIdx.x / 32;
  DeviceWarp<Lane> warp;
  TileWorker<Config, DeviceWarp<Lane>>(warp, p, place).run(index);
  QUANT_UNROLL
  for (uint32_t s = 0; s < Config::kStrips; ++s) {
    if (s > 0) __syncthreads();
    store_sums<Config>(shared, warp.lane(), index, threadIdx.x % 32, s);
    __syncthreads();
    write_sums<Config>(shared, p, place, s, threadIdx.x);
  }
}

struct TileLaunch {
  const TileProduct& product;
  cudaStream_t stream;

  template <class Config>
  void run() const {
    const dim3 grid(static_cast<unsigned>(tile_blocks<Config>(product)), product.splits);
    tile_kernel<Config><<<grid, kTileThreads, 0, stream>>>(product);
  }
};

}  // namespace quant::cuda
