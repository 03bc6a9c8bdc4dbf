#include "linalg/check.h"

#include <fmt/format.h>

#include "quant/error.h"

namespace quant::linalg {

void check_matrix(std::string_view function, std::string_view name, std::uint64_t size, std::uint64_t rows,
                  std::uint64_t cols) {
  std::uint64_t wanted = 0;
  if (!__builtin_mul_overflow(rows, cols, &wanted) && wanted == size) return;
  throw Error(ErrorCode::usage,
              fmt::format("{}: {} has {} elements, but its shape is [{}, {}].", function, name, size, rows, cols));
}

}  // namespace quant::linalg
