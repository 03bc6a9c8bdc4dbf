// Checks of arguments.
#pragma once

#include <cstdint>
#include <string_view>

namespace quant::linalg {

/// Throws Error{usage} unless a span of `size` elements is a matrix [rows, cols].
void check_matrix(std::string_view function, std::string_view name, std::uint64_t size, std::uint64_t rows,
                  std::uint64_t cols);

}  // namespace quant::linalg
