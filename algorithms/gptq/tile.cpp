#include "tile.h"

#include "quant/dtype.h"

namespace quant::gptq {
namespace {

// Round half to even: adding this to |x| < 2^22 leaves no bits for a fraction.
constexpr float kRounder = 12582912.0F;  // 1.5 * 2^23

void round_integers(const rtn::Rules& rules, const float* values, const float* scales, const float* zero_points,
                    std::uint64_t count, std::int8_t* codes, float* rounded) {
  const float low = rules.code_min, high = rules.code_max;
  for (std::uint64_t r = 0; r < count; ++r) {
    float x = values[r] / scales[r] + zero_points[r];
    x = x > low ? x : low;  // also for NaN
    x = x < high ? x : high;
    const float code = (x + kRounder) - kRounder;
    codes[r] = static_cast<std::int8_t>(static_cast<std::int32_t>(code));
    rounded[r] = (code - zero_points[r]) * scales[r];
  }
}

template <class Encode, class Decode>
void round_floats(const float* values, const float* scales, std::uint64_t count, std::int8_t* codes, float* rounded,
                  const Encode& encode, const Decode& decode) {
  for (std::uint64_t r = 0; r < count; ++r) {
    const float x = values[r] / scales[r];
    const std::uint8_t bits = encode(x == 0 || x != x ? 0.0F : x);
    codes[r] = static_cast<std::int8_t>(bits);
    rounded[r] = decode(bits) * scales[r];
  }
}

template <class Decode>
void decode_floats(const std::int8_t* codes, std::uint64_t count, float* out, const Decode& decode) {
  for (std::uint64_t r = 0; r < count; ++r) out[r] = decode(static_cast<std::uint8_t>(codes[r]));
}

}  // namespace

void round_values(const rtn::Rules& rules, const float* values, const float* scales, const float* zero_points,
                  std::uint64_t count, std::int8_t* codes, float* rounded) {
  switch (rules.element) {
    case Element::integer:
      return round_integers(rules, values, scales, zero_points, count, codes, rounded);
    case Element::e2m1:
      return round_floats(values, scales, count, codes, rounded, f32_to_e2m1, e2m1_to_f32);
    case Element::e4m3:
      return round_floats(values, scales, count, codes, rounded, f32_to_e4m3, e4m3_to_f32);
    case Element::e5m2:
      return round_floats(values, scales, count, codes, rounded, f32_to_e5m2, e5m2_to_f32);
  }
}

void clear_codes(const rtn::Rules& rules, const std::uint8_t* kept, std::uint64_t stride, const float* zero_points,
                 std::uint64_t count, std::int8_t* codes, float* rounded) {
  for (std::uint64_t r = 0; r < count; ++r) {
    if (kept[r * stride] != 0) continue;
    codes[r] = rules.element == Element::integer ? static_cast<std::int8_t>(zero_points[r]) : std::int8_t{0};
    rounded[r] = 0;
  }
}

void element_values(const rtn::Rules& rules, const std::int8_t* codes, const float* zero_points, std::uint64_t count,
                    float* out) {
  switch (rules.element) {
    case Element::integer:
      for (std::uint64_t r = 0; r < count; ++r) out[r] = static_cast<float>(codes[r]) - zero_points[r];
      return;
    case Element::e2m1:
      return decode_floats(codes, count, out, e2m1_to_f32);
    case Element::e4m3:
      return decode_floats(codes, count, out, e4m3_to_f32);
    case Element::e5m2:
      return decode_floats(codes, count, out, e5m2_to_f32);
  }
}

void pass_on_column(float* values, const float* errors, const float* factor, std::uint64_t width, std::uint64_t k,
                    std::uint64_t begin, std::uint64_t end) {
  const float* own = errors + k * kTileRows;
  for (std::uint64_t to = begin; to < end; ++to) {
    const float u = factor[k * width + to];
    float* target = values + to * kTileRows;
    for (std::uint64_t r = 0; r < kTileRows; ++r) target[r] -= u * own[r];
  }
}

void pass_on_columns(float* values, const float* errors, const float* factor, std::uint64_t width, std::uint64_t first,
                     std::uint64_t last, std::uint64_t begin, std::uint64_t end) {
  constexpr std::uint64_t kLanes = 16;  // sums that stay in registers
  for (std::uint64_t to = begin; to < end; ++to) {
    for (std::uint64_t r = 0; r < kTileRows; r += kLanes) {
      float sums[kLanes];
      float* target = values + to * kTileRows + r;
      for (std::uint64_t i = 0; i < kLanes; ++i) sums[i] = target[i];
      for (std::uint64_t k = first; k < last; ++k) {
        const float u = factor[k * width + to];
        const float* own = errors + k * kTileRows + r;
        for (std::uint64_t i = 0; i < kLanes; ++i) sums[i] -= u * own[i];
      }
      for (std::uint64_t i = 0; i < kLanes; ++i) target[i] = sums[i];
    }
  }
}

void load_tile(const float* from, std::uint64_t ld, std::uint64_t rows, std::uint64_t width, float* to) {
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t k = 0; k < width; ++k) to[k * kTileRows + r] = from[r * ld + k];
  }
}

void store_tile(const float* from, std::uint64_t rows, std::uint64_t width, float* to, std::uint64_t ld) {
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t k = 0; k < width; ++k) to[r * ld + k] = from[k * kTileRows + r];
  }
}

}  // namespace quant::gptq
