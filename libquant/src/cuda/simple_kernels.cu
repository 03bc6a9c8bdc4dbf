// The kernels without tiles: the reference product, inputs, dequantized weights, the last step.
#include <cuda_runtime.h>

#include "cuda/device_warp.cuh"
#include "cuda/launch.h"

namespace quant::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;

__device__ uint64_t thread_index() { return static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x; }
__device__ uint64_t warp_index() { return static_cast<uint64_t>(blockIdx.x) * kWarps + threadIdx.x / 32; }

__global__ void __launch_bounds__(kThreads) plain_kernel(const __grid_constant__ PlainProduct p) {
  DeviceWarp<PlainLane> warp;
  plain_product(warp, p, warp_index());
}
__global__ void __launch_bounds__(kThreads) largest_kernel(const __grid_constant__ CodedInputs p) {
  DeviceWarp<InputLane> warp;
  largest_inputs(warp, p, warp_index());
}
__global__ void __launch_bounds__(kThreads) code_kernel(const __grid_constant__ CodedInputs p) {
  DeviceWarp<InputLane> warp;
  code_inputs(warp, p, warp_index());
}
__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Finish p) {
  finish_element(p, thread_index());
}
__global__ void __launch_bounds__(kThreads) bf16_kernel(const __grid_constant__ Bf16Inputs p) {
  bf16_input(p, thread_index());
}
__global__ void __launch_bounds__(kThreads) float_kernel(const __grid_constant__ FloatInputs p) {
  float_input(p, thread_index());
}
__global__ void __launch_bounds__(kThreads) dense_kernel(const __grid_constant__ DenseFill p) {
  fill_dense(p, thread_index());
}

unsigned blocks(uint64_t items, uint64_t of_block) { return static_cast<unsigned>((items + of_block - 1) / of_block); }
cudaStream_t stream_of(void* stream) { return static_cast<cudaStream_t>(stream); }
int result() { return static_cast<int>(cudaGetLastError()); }

}  // namespace

int launch(const PlainProduct& p, void* stream) {
  plain_kernel<<<blocks(plain_warps(p), kWarps), kThreads, 0, stream_of(stream)>>>(p);
  return result();
}

int launch(const CodedInputs& p, void* stream) {
  const unsigned count = blocks(p.rows.tokens * p.segments, kWarps);
  if (p.per_token) largest_kernel<<<count, kThreads, 0, stream_of(stream)>>>(p);
  code_kernel<<<count, kThreads, 0, stream_of(stream)>>>(p);
  return result();
}

int launch(const Finish& p, void* stream) {
  finish_kernel<<<blocks(p.tokens * p.rows, kThreads), kThreads, 0, stream_of(stream)>>>(p);
  return result();
}

int launch(const Bf16Inputs& p, void* stream) {
  bf16_kernel<<<blocks(p.rows.tokens * p.rows.packed, kThreads), kThreads, 0, stream_of(stream)>>>(p);
  return result();
}

int launch(const FloatInputs& p, void* stream) {
  float_kernel<<<blocks(p.rows.tokens * p.rows.packed, kThreads), kThreads, 0, stream_of(stream)>>>(p);
  return result();
}

int launch(const DenseFill& p, void* stream) {
  dense_kernel<<<blocks(p.rows * p.columns, kThreads), kThreads, 0, stream_of(stream)>>>(p);
  return result();
}

}  // namespace quant::cuda
