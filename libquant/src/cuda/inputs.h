// Inputs in the form and the order that products read: BF16 parts, float32 in the order of packed columns, or 8-bit
// codes with scales.
#pragma once

#include "cuda/numbers.h"

namespace quant::cuda {

/// The order of columns in memory. In a block of 32, lane 4 g + t of a warp reads the places 8 t .. 8 t + 7: in tiles16
/// the columns 16 s + 4 t + j at 8 t + 4 s + j, for s = 0, 1 and j = 0 .. 3; in tiles8 with j = 0, 2, 1, 3.
enum class Order : uint8_t { natural, tiles16, tiles8 };

QUANT_HD uint32_t column_of_place(Order order, uint32_t place) {
  if (order == Order::natural) return place;
  const uint32_t t = place / 8, s = place / 4 % 2, at = place % 4;
  const uint32_t j = order == Order::tiles16 || at == 0 || at == 3 ? at : 3 - at;
  return 16 * s + 4 * t + j;
}

/// Inputs [tokens][cols] and where the packed columns come from.
struct InputRows {
  const float* x;
  uint64_t tokens, cols;
  const int32_t* source;  // [packed]: the column, or -1 for none; null: in order, padding at the end
  uint64_t packed;        // columns of the result; a multiple of 32 but for Order::natural
  Order order;
};

/// The value at a place of a token's packed row; 0 for padding.
QUANT_HD float input_value(const InputRows& rows, uint64_t token, uint64_t place) {
  const uint64_t packed = place / 32 * 32 + column_of_place(rows.order, static_cast<uint32_t>(place % 32));
  if (rows.source == nullptr) return packed < rows.cols ? rows.x[token * rows.cols + packed] : 0.0F;
  const int32_t column = rows.source[packed];
  return column < 0 ? 0.0F : rows.x[token * rows.cols + static_cast<uint64_t>(column)];
}

/// out [tokens][parts][packed] BF16: one part is the rounded value, three are its parts (bf16_part).
struct Bf16Inputs {
  InputRows rows;
  uint32_t parts;  // 1 or 3
  uint16_t* out;
};

/// Element `index` of tokens * packed.
QUANT_HD void bf16_input(const Bf16Inputs& p, uint64_t index) {
  if (index >= p.rows.tokens * p.rows.packed) return;
  const uint64_t token = index / p.rows.packed, place = index % p.rows.packed;
  const float value = input_value(p.rows, token, place);
  if (p.parts == 1) {
    p.out[index] = static_cast<uint16_t>(bf16_of(value));
    return;
  }
  for (uint32_t part = 0; part < 3; ++part) {
    p.out[(token * 3 + part) * p.rows.packed + place] = static_cast<uint16_t>(bf16_part(value, part));
  }
}

/// out [tokens][packed].
struct FloatInputs {
  InputRows rows;
  float* out;
};

QUANT_HD void float_input(const FloatInputs& p, uint64_t index) {
  if (index >= p.rows.tokens * p.rows.packed) return;
  p.out[index] = input_value(p.rows, index / p.rows.packed, index % p.rows.packed);
}

/// 8-bit codes: x = code * scale, a scale per segment of packed columns.
struct CodedInputs {
  InputRows rows;
  uint64_t segment, segments;  // packed columns; of a row
  float scale;                 // one for all inputs, or 0: dynamic
  bool per_token;              // dynamic: one scale from `largest` of all segments
  float divisor;               // scale = largest / divisor; zero_scale if that is 0
  float zero_scale;
  float least;     // code
  float* largest;  // [tokens][segments]; per_token only: written by largest_inputs, which runs first
  int8_t* codes;   // [tokens][packed]
  float* scales;   // [tokens][segments]
  int32_t* sums;   // [tokens][segments]: of the codes
};

struct InputLane {
  float largest;
  int32_t sum;
};

/// The larger one, and NaN if one is NaN.
QUANT_HD float larger(float a, float b) { return b > a || b != b ? b : a; }

template <class Warp>
QUANT_HD void find_largest(Warp& warp, const CodedInputs& p, uint64_t token, uint64_t first) {
  const uint64_t end = first + p.segment < p.rows.packed ? first + p.segment : p.rows.packed;
  warp.each([&](uint32_t place, InputLane& lane) {
    lane.largest = 0.0F;
    for (uint64_t c = first + place; c < end; c += 32) {
      lane.largest = larger(lane.largest, fabsf(input_value(p.rows, token, c)));
    }
  });
  warp.largest([](InputLane& lane) -> float& { return lane.largest; });
}

/// Warp `index` of tokens * segments.
template <class Warp>
QUANT_HD void largest_inputs(Warp& warp, const CodedInputs& p, uint64_t index) {
  if (index >= p.rows.tokens * p.segments) return;
  find_largest(warp, p, index / p.segments, index % p.segments * p.segment);
  warp.each([&](uint32_t place, InputLane& lane) {
    if (place == 0) p.largest[index] = lane.largest;
  });
}

QUANT_HD float finite_scale(float scale) {
  return bits_of(scale) << 1 < 0xFF000000U ? scale : float_of(0x7FC00000U);  // NaN makes the result one
}

/// lane.largest becomes the scale.
template <class Warp>
QUANT_HD void find_scale(Warp& warp, const CodedInputs& p, uint64_t token, uint64_t first) {
  find_largest(warp, p, token, first);
  if (p.scale != 0.0F) {
    warp.each([&](uint32_t, InputLane& lane) {
      lane.largest = bits_of(finite_scale(lane.largest)) == bits_of(lane.largest) ? p.scale : float_of(0x7FC00000U);
    });
    return;
  }
  if (p.per_token) {
    warp.each([&](uint32_t place, InputLane& lane) {
      lane.largest = 0.0F;
      for (uint64_t s = place; s < p.segments; s += 32) {
        lane.largest = larger(lane.largest, p.largest[token * p.segments + s]);
      }
    });
    warp.largest([](InputLane& lane) -> float& { return lane.largest; });
  }
  warp.each([&](uint32_t, InputLane& lane) {
    const float scale = lane.largest / p.divisor;
    lane.largest = finite_scale(scale == 0.0F ? p.zero_scale : scale);
  });
}

/// Warp `index` of tokens * segments.
template <class Warp>
QUANT_HD void code_inputs(Warp& warp, const CodedInputs& p, uint64_t index) {
  if (index >= p.rows.tokens * p.segments) return;
  const uint64_t token = index / p.segments, first = index % p.segments * p.segment;
  const uint64_t end = first + p.segment < p.rows.packed ? first + p.segment : p.rows.packed;
  find_scale(warp, p, token, first);
  warp.each([&](uint32_t place, InputLane& lane) {
    const bool usual = lane.largest == lane.largest;
    lane.sum = 0;
    for (uint64_t c = first + place; c < end; c += 32) {
      const float quotient = usual ? rintf(input_value(p.rows, token, c) / lane.largest) : 0.0F;
      const float code = quotient < p.least ? p.least : quotient > 127.0F ? 127.0F : quotient;
      lane.sum += static_cast<int32_t>(code);
      p.codes[token * p.rows.packed + c] = static_cast<int8_t>(code);
    }
  });
  warp.sum([](InputLane& lane) -> int32_t& { return lane.sum; });
  warp.each([&](uint32_t place, InputLane& lane) {
    if (place != 0) return;
    p.scales[index] = lane.largest;
    p.sums[index] = lane.sum;
  });
}

}  // namespace quant::cuda
