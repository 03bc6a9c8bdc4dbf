#include "sweep.h"

#include <algorithm>

#include "quant/dtype.h"
#include "quant/linalg.h"
#include "rtn/parallel_for.h"

namespace quant::gptq {
namespace {

// Columns of a block whose errors reach each other one by one; the rest of the block gets theirs together.
constexpr std::uint64_t kStrip = 16;

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

// A tile of a block, columns one after the other: [block, kTileRows].
struct Tile {
  std::vector<float> values, errors, rounded;
  std::vector<std::int8_t> codes;

  explicit Tile(std::uint64_t block)
      : values(block * kTileRows), errors(block * kTileRows), rounded(kTileRows), codes(kTileRows) {}
};

// values[k2] -= sum of factor[k, k2] errors[k] over the columns k of a strip.
void pass_on_strip(Tile& tile, const float* factor, std::uint64_t width, std::uint64_t first, std::uint64_t end) {
  constexpr std::uint64_t kLanes = 16;
  for (std::uint64_t to = end; to < width; ++to) {
    for (std::uint64_t r = 0; r < kTileRows; r += kLanes) {
      float sums[kLanes];
      float* values = tile.values.data() + to * kTileRows + r;
      for (std::uint64_t i = 0; i < kLanes; ++i) sums[i] = values[i];
      for (std::uint64_t k = first; k < end; ++k) {
        const float u = factor[k * width + to];
        const float* errors = tile.errors.data() + k * kTileRows + r;
        for (std::uint64_t i = 0; i < kLanes; ++i) sums[i] -= u * errors[i];
      }
      for (std::uint64_t i = 0; i < kLanes; ++i) values[i] = sums[i];
    }
  }
}

}  // namespace

void SlabGrid::resize(std::uint64_t groups, std::uint64_t slab_rows) {
  rows = slab_rows;
  scales.assign(groups * slab_rows, 1.0F);
  zero_points.assign(groups * slab_rows, 0.0F);
}

void round_column(const rtn::Rules& rules, const float* values, const float* scales, const float* zero_points,
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

Sweep::Sweep(const rtn::Rules& rules, const Order& order, std::span<const float> upper, std::uint64_t block_size)
    : rules_(rules), order_(order), upper_(upper), block_size_(block_size) {}

// At groups: no block reaches over the end of a group.
std::uint64_t Sweep::block_end(std::uint64_t first, bool at_groups) const {
  const std::uint64_t most = std::min<std::uint64_t>(order_.columns.size(), first + block_size_);
  if (!at_groups) return most;
  std::uint64_t end = first + 1;
  while (end < most && order_.groups[end] == order_.groups[first]) ++end;
  return end;
}

void Sweep::code_block(const Slab& slab, const SlabGrid& grid, std::uint64_t first, std::uint64_t end, int threads) {
  const std::uint64_t width = end - first, n = slab.cols;
  factor_.resize(width * width);
  for (std::uint64_t k = 0; k < width; ++k) {
    const float* row = upper_.data() + (first + k) * n + first;
    std::copy(row, row + width, factor_.data() + k * width);
  }
  errors_.resize(slab.rows * width);
  const auto code_tile = [&](Tile& tile, std::size_t t) {
    const std::uint64_t row = t * kTileRows, count = std::min(kTileRows, slab.rows - row);
    for (std::uint64_t r = 0; r < count; ++r) {
      const float* from = slab.values + (row + r) * n + first;
      for (std::uint64_t k = 0; k < width; ++k) tile.values[k * kTileRows + r] = from[k];
    }
    for (std::uint64_t k = 0; k < width; ++k) {
      const std::uint64_t group = order_.groups[first + k], column = order_.columns[first + k];
      const float* values = tile.values.data() + k * kTileRows;
      float* errors = tile.errors.data() + k * kTileRows;
      round_column(rules_, values, grid.scales.data() + group * grid.rows + row,
                   grid.zero_points.data() + group * grid.rows + row, count, tile.codes.data(), tile.rounded.data());
      const float inverse = 1.0F / factor_[k * width + k];
      for (std::uint64_t r = 0; r < kTileRows; ++r) errors[r] = (values[r] - tile.rounded[r]) * inverse;
      for (std::uint64_t r = 0; r < count; ++r) slab.codes[(row + r) * n + column] = tile.codes[r];
      const std::uint64_t strip_end = std::min(width, (k / kStrip + 1) * kStrip);
      for (std::uint64_t to = k + 1; to < strip_end; ++to) {
        const float u = factor_[k * width + to];
        float* later = tile.values.data() + to * kTileRows;
        for (std::uint64_t r = 0; r < kTileRows; ++r) later[r] -= u * errors[r];
      }
      if (k + 1 == strip_end) pass_on_strip(tile, factor_.data(), width, k / kStrip * kStrip, strip_end);
    }
    for (std::uint64_t r = 0; r < count; ++r) {
      float* to = errors_.data() + (row + r) * width;
      for (std::uint64_t k = 0; k < width; ++k) to[k] = tile.errors[k * kTileRows + r];
    }
  };
  rtn::parallel_for(
      threads, (slab.rows + kTileRows - 1) / kTileRows, [&] { return Tile(width); }, code_tile, [](Tile&) {});
}

void Sweep::run(const Slab& slab, SlabGrid& grid,
                const std::function<void(std::uint64_t group, std::uint64_t position)>& enter_group, int threads) {
  const std::uint64_t n = slab.cols;
  for (std::uint64_t first = 0; first < n;) {
    const std::uint64_t end = block_end(first, static_cast<bool>(enter_group));
    if (enter_group && (first == 0 || order_.groups[first] != order_.groups[first - 1])) {
      enter_group(order_.groups[first], first);
    }
    code_block(slab, grid, first, end, threads);
    if (end < n) {
      gemm(slab.rows, n - end, end - first, -1.0F, {errors_.data(), end - first}, {upper_.data() + first * n + end, n},
           false, 1.0F, {slab.values + end, n}, threads);
    }
    first = end;
  }
}

}  // namespace quant::gptq
