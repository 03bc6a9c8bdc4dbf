// A warp on the device: this thread's lane, and what all lanes do together.
#pragma once

#include "cuda/inputs.h"
#include "cuda/tile_product.h"

namespace quant::cuda {

template <class Lane>
class DeviceWarp {
 public:
  template <class Body>
  __device__ __forceinline__ void each(const Body& body) {
    body(threadIdx.x % 32, lane_);
  }

  template <class Operands>
  __device__ __forceinline__ void multiply(const Operands& operands) {
    execute(operands(lane_));
  }

  template <class Member>
  __device__ __forceinline__ void sum(const Member& member) {
    QUANT_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
      member(lane_) += __shfl_xor_sync(0xFFFFFFFFU, member(lane_), distance);
    }
  }

  template <class Member>
  __device__ __forceinline__ void largest(const Member& member) {
    QUANT_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
      member(lane_) = larger(member(lane_), __shfl_xor_sync(0xFFFFFFFFU, member(lane_), distance));
    }
  }

  __device__ __forceinline__ const Lane& lane() const { return lane_; }

 private:
  static __device__ __forceinline__ void execute(const Bf16Mma& m) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(m.sums[0]), "+f"(m.sums[1]), "+f"(m.sums[2]), "+f"(m.sums[3])
        : "r"(m.a[0]), "r"(m.a[1]), "r"(m.a[2]), "r"(m.a[3]), "r"(m.b[0]), "r"(m.b[1]));
  }
  static __device__ __forceinline__ void execute(const ByteMma& m) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+r"(m.sums[0]), "+r"(m.sums[1]), "+r"(m.sums[2]), "+r"(m.sums[3])
        : "r"(m.a[0]), "r"(m.a[1]), "r"(m.a[2]), "r"(m.a[3]), "r"(m.b[0]), "r"(m.b[1]));
  }

  Lane lane_;
};

}  // namespace quant::cuda
