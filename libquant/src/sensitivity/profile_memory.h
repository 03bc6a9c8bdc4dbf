// What finding a sparsity profile takes, before anything is loaded.
#pragma once

#include <cstdint>
#include <span>

#include "quant/model_program.h"
#include "quant/plan.h"
#include "sensitivity/items.h"

namespace quant::sensitivity {

struct ProfileWork {
  std::size_t modifier = 0;
  std::span<const Item> items;  ///< of its linears
  std::uint64_t tokens = 0;
  bool errors = false;  ///< weights are pruned and divergences measured; else statistics alone are looked at
  ProductType product = ProductType::f32;
  int threads = 1;
};

/// Bytes without the original's logits, which may be computed again for each divergence.
std::uint64_t profile_memory(const Plan& plan, const ModelProgram& program, const ProfileWork& work);

}  // namespace quant::sensitivity
