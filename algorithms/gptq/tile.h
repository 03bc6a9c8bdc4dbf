// Work on tiles: some columns of a few rows, columns one after the other, so that a loop over rows is contiguous.
#pragma once

#include <cstdint>
#include <vector>

#include "rtn/rules.h"

namespace quant::gptq {

/// Rows of a tile.
inline constexpr std::uint64_t kTileRows = 64;
/// Columns whose errors reach each other one by one; the columns after a strip get those of the whole strip together.
inline constexpr std::uint64_t kStrip = 16;

/// The nearest codes of `count` values, each with its own scale, and what they stand for. NaN becomes the lowest code.
void round_values(const rtn::Rules& rules, const float* values, const float* scales, const float* zero_points,
                  std::uint64_t count, std::int8_t* codes, float* rounded);
/// Codes that mean 0, and 0 as what they stand for, where kept[r * stride] is 0.
void clear_codes(const rtn::Rules& rules, const std::uint8_t* kept, std::uint64_t stride, const float* zero_points,
                 std::uint64_t count, std::int8_t* codes, float* rounded);
/// What codes stand for at scale 1: element(code) - zero point.
void element_values(const rtn::Rules& rules, const std::int8_t* codes, const float* zero_points, std::uint64_t count,
                    float* out);

/// values[to] -= factor[k, to] errors[k] for columns `to` in [begin, end), column k alone. values, errors
/// [width, kTileRows]; factor [width, width].
void pass_on_column(float* values, const float* errors, const float* factor, std::uint64_t width, std::uint64_t k,
                    std::uint64_t begin, std::uint64_t end);
/// The same for all columns k in [first, last).
void pass_on_columns(float* values, const float* errors, const float* factor, std::uint64_t width, std::uint64_t first,
                     std::uint64_t last, std::uint64_t begin, std::uint64_t end);

/// to[k, r] = from[r, k] for `rows` rows of leading dimension ld, and back.
void load_tile(const float* from, std::uint64_t ld, std::uint64_t rows, std::uint64_t width, float* to);
void store_tile(const float* from, std::uint64_t rows, std::uint64_t width, float* to, std::uint64_t ld);

}  // namespace quant::gptq
