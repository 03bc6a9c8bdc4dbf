#include "quant/checkpoint.h"

#include <tuple>

namespace quant {
namespace {

// The enumeration is in that order but for the two 6-bit types.
int width_rank(DType type) {
  if (type == DType::F6_E3M2) return static_cast<int>(DType::F6_E2M3);
  if (type == DType::F6_E2M3) return static_cast<int>(DType::F6_E3M2);
  return static_cast<int>(type);
}

}  // namespace

bool stored_before(const StoredTensor& a, const StoredTensor& b) {
  const int rank_a = width_rank(a.dtype);
  const int rank_b = width_rank(b.dtype);
  return std::tie(rank_a, a.name) < std::tie(rank_b, b.name);
}

}  // namespace quant
