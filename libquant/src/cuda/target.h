// What lets one source be compiled for the device by nvcc and for the host by any C++ compiler. Kernel bodies are
// written once; tests run them on the processor (tests/cuda).
#pragma once

#include <stdint.h>
#if !defined(__CUDA_ARCH__)
#include <math.h>
#include <string.h>
#endif

#if defined(__CUDACC__)
#define QUANT_HD __host__ __device__ __forceinline__
#define QUANT_UNROLL _Pragma("unroll")
#define QUANT_PRAGMA(text) _Pragma(#text)
#define QUANT_UNROLL_BY(count) QUANT_PRAGMA(unroll count)
#else
#define QUANT_HD inline
#define QUANT_UNROLL
#define QUANT_UNROLL_BY(count)
#endif

namespace quant::cuda {

struct alignas(16) Words4 {
  uint32_t word[4];
};
struct alignas(16) Floats4 {
  float value[4];
};
struct alignas(8) Words2 {
  uint32_t word[2];
};

QUANT_HD uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  uint32_t bits = 0;
  memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

QUANT_HD float float_of(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value = 0;
  memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

/// Multiplies, adds and rounds once.
QUANT_HD float fused(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return fmaf(a, b, c);
#endif
}

/// Byte i of the result is byte (selector >> 4 i) & 7 of {low, high}: the instruction PRMT. The other bits of the
/// selector mean nothing.
QUANT_HD uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(low, high, selector);
#else
  const uint64_t bytes = (static_cast<uint64_t>(high) << 32) | low;
  uint32_t result = 0;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t from = (selector >> (4 * i)) & 7U;
    result |= static_cast<uint32_t>((bytes >> (8 * from)) & 0xFFU) << (8 * i);
  }
  return result;
#endif
}

/// The sixteen bytes at `from`, which nobody writes meanwhile; `streamed` ones are not read again soon.
template <bool streamed>
QUANT_HD Words4 load_words(const void* from) {
#if defined(__CUDA_ARCH__)
  Words4 out;
  if constexpr (streamed) {
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(out.word[0]), "=r"(out.word[1]), "=r"(out.word[2]), "=r"(out.word[3])
        : "l"(from));
  } else {
    const uint4 loaded = __ldg(static_cast<const uint4*>(from));
    out = {{loaded.x, loaded.y, loaded.z, loaded.w}};
  }
  return out;
#else
  return *static_cast<const Words4*>(from);
#endif
}

}  // namespace quant::cuda
