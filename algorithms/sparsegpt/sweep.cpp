#include "sweep.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "gptq/tile.h"
#include "quant/linalg.h"
#include "rtn/parallel_for.h"
#include "shared/mask_selection.h"

namespace quant::sparsegpt {
namespace {

using gptq::kTileRows;

// The multiple of `unit` nearest below `size`, at least one.
std::uint64_t whole_units(std::uint64_t size, std::uint64_t unit) { return std::max(unit, size / unit * unit); }

}  // namespace

// Some rows of a block, columns one after the other: [width, kTileRows].
struct Sweep::Tile {
  std::uint64_t count = 0;
  std::vector<float> values, errors, scores;
  std::vector<float> left;  // 1: kept, 0: removed

  Tile(std::uint64_t width, std::uint64_t group)
      : values(width * kTileRows), errors(width * kTileRows), scores(group * kTileRows), left(width * kTileRows) {}
};

Sweep::Sweep(const Matrix& matrix, const SparsityPattern& pattern, std::span<const float> upper,
             std::span<const std::uint32_t> dead, std::uint64_t block_size, bool reference, int threads)
    : matrix_(matrix),
      pattern_(pattern),
      upper_(upper),
      reference_(reference),
      threads_(threads),
      inverse_(matrix.cols) {
  const std::uint64_t unit =
      pattern.semi_structured()
          ? pattern.of
          : std::clamp<std::uint64_t>(pattern.block_cols, 1, std::max<std::uint64_t>(1, matrix.cols));
  block_size_ = whole_units(block_size, unit);
  for (std::uint64_t c = 0; c < matrix.cols; ++c) inverse_[c] = 1.0F / upper[c * matrix.cols + c];
  for (const std::uint32_t c : dead) inverse_[c] = 0;
}

// Columns whose errors reach each other one by one: whole groups of M, which are chosen at their first column.
std::uint64_t Sweep::strip() const {
  return pattern_.semi_structured() ? whole_units(gptq::kStrip, pattern_.of) : gptq::kStrip;
}

std::uint64_t Sweep::scratch_bytes(std::uint64_t rows, std::uint64_t cols, std::uint64_t block_size, int threads) {
  const std::uint64_t width = std::min(block_size, cols);
  const auto each = static_cast<std::uint64_t>(std::max(threads, 1));
  // Errors, what is left, and the scores of the reference's threshold; the factor; four columns of tiles.
  return rows * width * (3 * sizeof(float) + 1) + width * width * sizeof(float) +
         each * width * kTileRows * 4 * sizeof(float);
}

void Sweep::run() {
  const std::uint64_t n = matrix_.cols;
  for (std::uint64_t first = 0; first < n;) {
    const std::uint64_t end = std::min(n, first + block_size_), width = end - first;
    left_.resize(matrix_.rows * width);
    rtn::parallel_for(threads_, matrix_.rows, [&](std::size_t r) {
      std::copy_n(matrix_.mask.data() + r * n + first, width, left_.data() + r * width);
    });
    if (!pattern_.semi_structured()) choose(first, end);
    pass_on(first, end);
    if (end < n) {
      gemm(matrix_.rows, n - end, width, -1.0F, {errors_.data(), width}, {upper_.data() + first * n + end, n}, false,
           1.0F, {matrix_.weights.data() + end, n}, threads_);
    }
    first = end;
  }
}

// So that all blocks together remove exactly the matrix's share: what is to be gone by the end of this one, less what
// is gone before it, which is more than its share where weights had been removed earlier.
std::uint64_t Sweep::removed_of(std::uint64_t first, std::uint64_t end) const {
  const std::uint64_t height =
      std::clamp<std::uint64_t>(pattern_.block_rows, 1, std::max<std::uint64_t>(1, matrix_.rows));
  const std::uint64_t width =
      std::clamp<std::uint64_t>(pattern_.block_cols, 1, std::max<std::uint64_t>(1, matrix_.cols));
  const std::uint64_t down = (matrix_.rows + height - 1) / height;
  const auto by = [&](std::uint64_t column) {
    return shared::share_of(down * ((column + width - 1) / width), pattern_.sparsity);
  };
  const std::uint64_t before = pattern_.blocks() ? by(first) : removed_;
  return by(end) - std::min(before, by(end));
}

void Sweep::choose(std::uint64_t first, std::uint64_t end) {
  if (reference_ && !pattern_.blocks()) return choose_by_reference(first, end);
  const std::uint64_t width = end - first;
  const auto scores = [&](std::uint64_t row, std::span<float> out) {
    const float* own = matrix_.weights.data() + row * matrix_.cols + first;
    for (std::uint64_t k = 0; k < width; ++k) out[k] = std::fabs(own[k]) * inverse_[first + k];
  };
  shared::remove_smallest(matrix_.rows, width, scores, pattern_, shared::Compared::matrix, left_, threads_,
                          removed_of(first, end));
  removed_ += static_cast<std::uint64_t>(std::count(left_.begin(), left_.end(), 0));
}

void Sweep::choose_by_reference(std::uint64_t first, std::uint64_t end) {
  const std::uint64_t width = end - first, count = matrix_.rows * width;
  std::vector<float> scores(count);
  rtn::parallel_for(threads_, matrix_.rows, [&](std::size_t row) {
    const float* own = matrix_.weights.data() + row * matrix_.cols + first;
    for (std::uint64_t k = 0; k < width; ++k) {
      const std::uint64_t at = row * width + k;
      scores[at] = left_[at] == 0 ? 0.0F : std::fabs(own[k]) * inverse_[first + k];
    }
  });
  std::vector<float> sorted = scores;
  const std::uint64_t place = std::min(count - 1, shared::share_of(count, pattern_.sparsity));
  const auto threshold = sorted.begin() + static_cast<std::ptrdiff_t>(place);
  std::nth_element(sorted.begin(), threshold, sorted.end());
  for (std::uint64_t i = 0; i < count; ++i) left_[i] &= scores[i] <= *threshold ? 0 : 1;
}

void Sweep::pass_on(std::uint64_t first, std::uint64_t end) {
  const std::uint64_t width = end - first, n = matrix_.cols;
  factor_.resize(width * width);
  for (std::uint64_t k = 0; k < width; ++k) {
    std::copy_n(upper_.data() + (first + k) * n + first, width, factor_.data() + k * width);
  }
  errors_.resize(matrix_.rows * width);
  const auto visit = [&](Tile& tile, std::size_t number) { visit_tile(tile, number * kTileRows, first, width); };
  rtn::parallel_for(
      threads_, (matrix_.rows + kTileRows - 1) / kTileRows, [&] { return Tile(width, pattern_.of); }, visit,
      [](Tile&) {});
}

// The smallest scores of the M columns from k on, by the values as they are now: a weight goes if fewer than M - N of
// its group are smaller, or as small and further left. Those that are gone count as smallest.
void Sweep::choose_in_tile(Tile& tile, std::uint64_t first, std::uint64_t k) const {
  const std::uint64_t of = pattern_.of;
  for (std::uint64_t i = 0; i < of; ++i) {
    const float *values = tile.values.data() + (k + i) * kTileRows, *left = tile.left.data() + (k + i) * kTileRows;
    float* scores = tile.scores.data() + i * kTileRows;
    const float inverse = inverse_[first + k + i];
    for (std::uint64_t r = 0; r < kTileRows; ++r) scores[r] = left[r] * (std::fabs(values[r]) * inverse + 1e-37F);
  }
  const auto removed = static_cast<float>(of - pattern_.keep);
  for (std::uint64_t i = 0; i < of; ++i) {
    const float* own = tile.scores.data() + i * kTileRows;
    float ranks[kTileRows] = {};
    for (std::uint64_t j = 0; j < of; ++j) {
      const float* other = tile.scores.data() + j * kTileRows;
      if (j < i) {
        for (std::uint64_t r = 0; r < kTileRows; ++r) ranks[r] += other[r] <= own[r] ? 1.0F : 0.0F;
      } else if (j > i) {
        for (std::uint64_t r = 0; r < kTileRows; ++r) ranks[r] += other[r] < own[r] ? 1.0F : 0.0F;
      }
    }
    float* left = tile.left.data() + (k + i) * kTileRows;
    for (std::uint64_t r = 0; r < kTileRows; ++r) left[r] = ranks[r] < removed ? 0.0F : left[r];
  }
}

void Sweep::visit_tile(Tile& tile, std::uint64_t row, std::uint64_t first, std::uint64_t width) {
  constexpr float kMost = std::numeric_limits<float>::max();
  const std::uint64_t n = matrix_.cols, step = strip();
  tile.count = std::min(kTileRows, matrix_.rows - row);
  gptq::load_tile(matrix_.weights.data() + row * n + first, n, tile.count, width, tile.values.data());
  for (std::uint64_t r = 0; r < tile.count; ++r) {
    for (std::uint64_t k = 0; k < width; ++k) tile.left[k * kTileRows + r] = left_[(row + r) * width + k];
  }
  for (std::uint64_t k = 0; k < width; ++k) {
    if (pattern_.semi_structured() && k % pattern_.of == 0) choose_in_tile(tile, first, k);
    float *values = tile.values.data() + k * kTileRows, *errors = tile.errors.data() + k * kTileRows;
    const float* left = tile.left.data() + k * kTileRows;
    const float inverse = 1.0F / factor_[k * width + k];
    for (std::uint64_t r = 0; r < kTileRows; ++r) {
      float value = values[r] < kMost ? values[r] : kMost;  // sums of very large weights overflow; also for NaN
      value = value > -kMost ? value : -kMost;
      const float kept = value * left[r];
      errors[r] = (value - kept) * inverse;
      values[r] = kept;
    }
    const std::uint64_t strip_end = std::min(width, (k / step + 1) * step);
    gptq::pass_on_column(tile.values.data(), tile.errors.data(), factor_.data(), width, k, k + 1, strip_end);
    if (k + 1 != strip_end) continue;
    gptq::pass_on_columns(tile.values.data(), tile.errors.data(), factor_.data(), width, k / step * step, strip_end,
                          strip_end, width);
  }
  gptq::store_tile(tile.values.data(), tile.count, width, matrix_.weights.data() + row * n + first, n);
  gptq::store_tile(tile.errors.data(), tile.count, width, errors_.data() + row * width, width);
  for (std::uint64_t r = 0; r < tile.count; ++r) {
    std::uint8_t* left = left_.data() + (row + r) * width;
    for (std::uint64_t k = 0; k < width && pattern_.semi_structured(); ++k) {
      left[k] = static_cast<std::uint8_t>(tile.left[k * kTileRows + r]);
    }
    std::copy_n(left, width, matrix_.mask.data() + (row + r) * n + first);
  }
}

}  // namespace quant::sparsegpt
