// The triangular factor that passes errors from one column on to the next.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/gptq.h"

namespace quant::gptq {

/// H in the order of coding, damped until it can be factored.
struct Factor {
  std::vector<float> upper;  ///< U [n, n], H^-1 = U^T U, for H / `unit`; empty: H has no factor, see `failure`
  float unit = 1;            ///< a power of two near the mean diagonal of H
  double mean = 0;           ///< mean diagonal of H over the columns that are used
  double damping = 0;        ///< fraction of the mean diagonal that was added
  std::string failure;       ///< why there is none
  std::vector<std::string> notes;
};

/// Columns whose diagonal element is not positive, which no token ever used.
std::vector<std::uint32_t> dead_columns(std::span<const float> diagonal);
/// The diagonal of a matrix [n, n].
std::vector<float> diagonal_of(std::span<const float> matrix, std::uint64_t n);
bool all_finite(std::span<const float> values);

/// Tries the damping of the options, then more and more of it up to the whole mean diagonal, then floors under the
/// diagonal. Dead columns get the mean diagonal and no coupling. `columns`: position -> column.
Factor factorize(std::span<const float> gram, std::span<const std::uint32_t> columns, const GptqOptions& options,
                 int threads);

}  // namespace quant::gptq
