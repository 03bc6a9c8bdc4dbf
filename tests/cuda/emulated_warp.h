// Thirty-two lanes on one processor, one after another; instructions of all lanes as the PTX ISA defines them.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda/inputs.h"
#include "cuda/tile_product.h"

namespace quant::test {

/// Element (row, column) of an operand: which lane has it, and at which of its places. Tables "Matrix Fragments for
/// mma.m16n8k16" (16-bit types) and "mma.m16n8k32" (8-bit types) of the PTX ISA, inverted.
struct FragmentPlace {
  unsigned lane, index;
};
inline FragmentPlace place_of_a(unsigned row, unsigned k, unsigned width) {  // width: elements of a register, 2 or 4
  const unsigned upper = row >= 8 ? 1 : 0, far = k >= 4 * width ? 1 : 0;
  return {row % 8 * 4 + k % (4 * width) / width, width * (upper + 2 * far) + k % width};
}
inline FragmentPlace place_of_b(unsigned k, unsigned column, unsigned width) {
  const unsigned far = k >= 4 * width ? 1 : 0;
  return {column * 4 + k % (4 * width) / width, width * far + k % width};
}
inline FragmentPlace place_of_c(unsigned row, unsigned column) {
  return {row % 8 * 4 + column / 2, (row >= 8 ? 2U : 0U) + column % 2};
}

inline float bf16_element(const std::uint32_t* registers, unsigned index) {
  return cuda::bf16_to_float((registers[index / 2] >> (16 * (index % 2))) & 0xFFFFU);
}
inline int byte_element(const std::uint32_t* registers, unsigned index) {
  return static_cast<int>((registers[index / 4] >> (8 * (index % 4))) & 0xFFU);
}

template <class Lane>
class EmulatedWarp {
 public:
  template <class Body>
  void each(const Body& body) {
    for (unsigned i = 0; i < 32; ++i) body(i, lanes_[i]);
  }

  template <class Operands>
  void multiply(const Operands& operands) {
    using Mma = decltype(operands(lanes_[0]));
    Mma parts[32]{};
    for (unsigned i = 0; i < 32; ++i) parts[i] = operands(lanes_[i]);
    for (unsigned row = 0; row < 16; ++row) {
      for (unsigned column = 0; column < 8; ++column) {
        const FragmentPlace c = place_of_c(row, column);
        add_product(parts, row, column, parts[c.lane].sums[c.index]);
      }
    }
  }

  template <class Member>
  void sum(const Member& member) {
    combine(member, [](auto a, auto b) { return a + b; });
  }
  template <class Member>
  void largest(const Member& member) {
    combine(member, [](float a, float b) { return cuda::larger(a, b); });
  }

  Lane& lane(unsigned i) { return lanes_[i]; }

 private:
  static void add_product(const cuda::Bf16Mma* parts, unsigned row, unsigned column, float& sum) {
    double exact = static_cast<double>(sum);
    for (unsigned k = 0; k < 16; ++k) {
      const FragmentPlace a = place_of_a(row, k, 2), b = place_of_b(k, column, 2);
      exact += static_cast<double>(bf16_element(parts[a.lane].a, a.index)) *
               static_cast<double>(bf16_element(parts[b.lane].b, b.index));
    }
    sum = static_cast<float>(exact);
  }
  static void add_product(const cuda::ByteMma* parts, unsigned row, unsigned column, std::int32_t& sum) {
    for (unsigned k = 0; k < 32; ++k) {
      const FragmentPlace a = place_of_a(row, k, 4), b = place_of_b(k, column, 4);
      sum += byte_element(parts[a.lane].a, a.index) *
             static_cast<int>(static_cast<std::int8_t>(byte_element(parts[b.lane].b, b.index)));
    }
  }

  // As five exchanges between lanes do.
  template <class Member, class Combine>
  void combine(const Member& member, const Combine& function) {
    for (unsigned distance = 16; distance > 0; distance /= 2) {
      Lane before[32];
      for (unsigned i = 0; i < 32; ++i) before[i] = lanes_[i];
      for (unsigned i = 0; i < 32; ++i) member(lanes_[i]) = function(member(before[i]), member(before[i ^ distance]));
    }
  }

  Lane lanes_[32]{};
};

}  // namespace quant::test
