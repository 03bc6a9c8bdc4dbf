#include "quant/sparsify.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <tuple>
#include <utility>

#include "quant/error.h"

namespace quant {
namespace {

constexpr std::uint32_t kLargestGroup = 1024;  // M
constexpr std::uint32_t kLargestSide = 65536;  // of a block

// "33.33 %": at most two decimals.
std::string percent(double share) {
  std::string text = fmt::format("{:.2f}", share * 100);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text + " %";
}

std::string side(std::uint32_t size, const char* whole) {
  return size == std::numeric_limits<std::uint32_t>::max() ? whole : std::to_string(size);
}

// Two numbers from 1 to `most` with `between` in the middle.
std::optional<std::pair<std::uint32_t, std::uint32_t>> two_numbers(const std::string& text, char between,
                                                                   std::uint32_t most) {
  std::uint32_t first = 0, second = 0;
  const char* end = text.data() + text.size();
  const auto middle = std::from_chars(text.data(), end, first);
  if (middle.ec != std::errc() || middle.ptr == end || *middle.ptr != between) return std::nullopt;
  const auto last = std::from_chars(middle.ptr + 1, end, second);
  if (last.ec != std::errc() || last.ptr != end) return std::nullopt;
  if (first < 1 || second < 1 || first > most || second > most) return std::nullopt;
  return std::pair{first, second};
}

}  // namespace

std::string describe(const SparsityPattern& pattern) {
  if (pattern.semi_structured()) return fmt::format("{}:{}", pattern.keep, pattern.of);
  if (!pattern.blocks()) return percent(pattern.sparsity);
  return fmt::format("{} in blocks of {} x {}", percent(pattern.sparsity), side(pattern.block_rows, "all rows"),
                     side(pattern.block_cols, "all columns"));
}

std::optional<std::string> contradiction(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols) {
  if (!(pattern.sparsity >= 0 && pattern.sparsity <= 1)) {
    return fmt::format("a sparsity is from 0 to 1, not {}", pattern.sparsity);
  }
  if (pattern.block_rows == 0 || pattern.block_cols == 0) return "a block has at least one row and one column";
  if (!pattern.semi_structured()) return std::nullopt;
  if (pattern.keep > pattern.of) {
    return fmt::format("{0}:{1} keeps {0} of only {1} weights", pattern.keep, pattern.of);
  }
  if (pattern.blocks()) return fmt::format("{}:{} has no blocks", pattern.keep, pattern.of);
  if (cols % pattern.of != 0) {
    return fmt::format("{}:{} needs columns that {} divides; the matrix is {} x {}", pattern.keep, pattern.of,
                       pattern.of, rows, cols);
  }
  return std::nullopt;
}

SparsityPattern parse_pattern(const std::string& text) {
  SparsityPattern pattern;
  if (const auto ratio = two_numbers(text, ':', kLargestGroup)) {
    std::tie(pattern.keep, pattern.of) = *ratio;
    if (pattern.keep < pattern.of) {
      pattern.sparsity = 1 - static_cast<double>(pattern.keep) / pattern.of;
      return pattern;
    }
  } else if (const auto block = two_numbers(text, 'x', kLargestSide)) {
    std::tie(pattern.block_rows, pattern.block_cols) = *block;
    return pattern;
  }
  throw Error(ErrorCode::usage, fmt::format("'{:.40}' is no sparsity pattern", text),
              "write 2:4 (2 kept of each 4 weights in a row, fewer than all) or 16x1 (blocks of 16 rows and 1 column)");
}

}  // namespace quant
