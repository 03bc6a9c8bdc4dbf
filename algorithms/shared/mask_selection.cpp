#include "shared/mask_selection.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "rtn/parallel_for.h"

namespace quant::shared {
namespace {

// Order of the bits of numbers >= 0 is their own; NaN comes last.
std::uint32_t key_of(float score) { return std::bit_cast<std::uint32_t>(score) & 0x7FFFFFFFU; }

// A matrix of weights, or of blocks, of which some are removed already.
struct Grid {
  std::uint64_t rows, cols;
  const RowScores& scores;
  std::span<std::uint8_t> mask;
  int threads;
};

// Rows that one task of a loop goes over.
std::uint64_t rows_per_task(const Grid& grid) {
  return std::max<std::uint64_t>(1, (1U << 16) / std::max<std::uint64_t>(1, grid.cols));
}

// body(row, its scores, its mask) for all rows; `State state` is each thread's own.
template <class State, class Body, class Finish>
void each_row(const Grid& grid, const State& initial, const Body& body, const Finish& finish) {
  const std::uint64_t step = rows_per_task(grid);
  struct Own {
    State state;
    std::vector<float> scores;
  };
  rtn::parallel_for(
      grid.threads, (grid.rows + step - 1) / step,
      [&] {
        return Own{initial, std::vector<float>(grid.cols)};
      },
      [&](Own& own, std::size_t task) {
        const std::uint64_t end = std::min(grid.rows, (task + 1) * step);
        for (std::uint64_t row = task * step; row < end; ++row) {
          grid.scores(row, own.scores);
          body(own.state, row, std::span<const float>(own.scores), grid.mask.subspan(row * grid.cols, grid.cols));
        }
      },
      [&](Own& own) { finish(own.state); });
}

struct Nothing {};
constexpr auto kNoFinish = [](const auto&) {};

using Histogram = std::vector<std::uint64_t>;

// How often each half of a key occurs among what is left: the high halves, or the low halves below one high half.
Histogram histogram(const Grid& grid, std::optional<std::uint32_t> high) {
  Histogram total(1U << 16);
  each_row(
      grid, Histogram(1U << 16),
      [&](Histogram& counts, std::uint64_t, std::span<const float> scores, std::span<const std::uint8_t> mask) {
        for (std::uint64_t c = 0; c < grid.cols; ++c) {
          if (mask[c] == 0) continue;
          const std::uint32_t key = key_of(scores[c]);
          if (!high) {
            ++counts[key >> 16];
          } else if (key >> 16 == *high) {
            ++counts[key & 0xFFFFU];
          }
        }
      },
      [&](const Histogram& counts) {
        for (std::size_t i = 0; i < counts.size(); ++i) total[i] += counts[i];
      });
  return total;
}

// The bin in which the `wanted`-th (from 1) lies; `wanted` is then counted from the start of that bin.
std::uint32_t bin_of(const Histogram& histogram, std::uint64_t& wanted) {
  std::uint32_t bin = 0;
  while (bin + 1 < histogram.size() && histogram[bin] < wanted) wanted -= histogram[bin++];
  return bin;
}

std::uint64_t removed_in(std::span<const std::uint8_t> mask) {
  return static_cast<std::uint64_t>(std::count(mask.begin(), mask.end(), std::uint8_t{0}));
}

// All of the grid in one comparison.
void remove_of_matrix(const Grid& grid, std::uint64_t removed) {
  const std::uint64_t before = removed_in(grid.mask);
  if (removed <= before) return;
  std::uint64_t wanted = removed - before;
  const std::uint32_t high = bin_of(histogram(grid, std::nullopt), wanted);
  const std::uint32_t low = bin_of(histogram(grid, high), wanted);
  const std::uint32_t threshold = (high << 16) | low;  // `wanted` of those equal to it go, and all below
  std::vector<std::uint64_t> equal(grid.rows);
  each_row(
      grid, Nothing{},
      [&](Nothing&, std::uint64_t row, std::span<const float> scores, std::span<std::uint8_t> mask) {
        std::uint32_t count = 0;
        for (std::uint64_t c = 0; c < grid.cols; ++c) {
          const std::uint32_t key = key_of(scores[c]);
          const auto left = static_cast<std::uint8_t>(mask[c] & (key >= threshold ? 1 : 0));
          mask[c] = left;
          count += left & (key == threshold ? 1U : 0U);
        }
        equal[row] = count;
      },
      kNoFinish);
  std::vector<std::uint64_t> tied;  // rows that lose some of those
  for (std::uint64_t row = 0; row < grid.rows && wanted > 0; ++row) {
    if (equal[row] == 0) continue;
    equal[row] = std::min(equal[row], wanted);
    wanted -= equal[row];
    tied.push_back(row);
  }
  rtn::parallel_for(
      grid.threads, tied.size(), [&] { return std::vector<float>(grid.cols); },
      [&](std::vector<float>& scores, std::size_t t) {
        const std::uint64_t row = tied[t];
        std::uint8_t* mask = grid.mask.data() + row * grid.cols;
        grid.scores(row, scores);
        for (std::uint64_t c = 0, take = equal[row]; take > 0; ++c) {
          if (mask[c] == 0 || key_of(scores[c]) != threshold) continue;
          mask[c] = 0;
          --take;
        }
      },
      [](std::vector<float>&) {});
}

// Each row in comparisons of `width` columns.
void remove_of_rows(const Grid& grid, std::uint64_t width, std::uint64_t removed) {
  each_row(
      grid, std::vector<float>(),
      [&](std::vector<float>& scratch, std::uint64_t, std::span<const float> scores, std::span<std::uint8_t> mask) {
        for (std::uint64_t c = 0; c < grid.cols; c += width) {
          const std::uint64_t count = std::min(width, grid.cols - c);
          remove_smallest_of(scores.subspan(c, count), removed, mask.subspan(c, count), scratch);
        }
      },
      kNoFinish);
}

void remove_of_grid(const Grid& grid, double sparsity, Compared compared, std::optional<std::uint64_t> removed) {
  if (compared == Compared::matrix || removed) {
    return remove_of_matrix(grid, removed.value_or(share_of(grid.rows * grid.cols, sparsity)));
  }
  remove_of_rows(grid, grid.cols, share_of(grid.cols, sparsity));
}

// Blocks of a matrix of weights.
struct Blocks {
  std::uint64_t rows, cols, height, width;

  Blocks(const SparsityPattern& pattern, std::uint64_t all_rows, std::uint64_t all_cols)
      : rows(all_rows),
        cols(all_cols),
        height(std::clamp<std::uint64_t>(pattern.block_rows, 1, std::max<std::uint64_t>(1, all_rows))),
        width(std::clamp<std::uint64_t>(pattern.block_cols, 1, std::max<std::uint64_t>(1, all_cols))) {}
  std::uint64_t down() const { return (rows + height - 1) / height; }
  std::uint64_t across() const { return (cols + width - 1) / width; }
  bool ragged() const { return rows % height != 0 || cols % width != 0; }
};

// The mean square of each block's scores, and which blocks hold a weight that is left.
void rate_blocks(const Grid& weights, const Blocks& blocks, std::span<float> means, std::span<std::uint8_t> left) {
  const std::uint64_t across = blocks.across();
  struct Own {
    std::vector<float> scores;
    std::vector<double> sums;
  };
  rtn::parallel_for(
      weights.threads, blocks.down(),
      [&] {
        return Own{std::vector<float>(blocks.cols), std::vector<double>(across)};
      },
      [&](Own& own, std::size_t down) {
        const std::uint64_t first = down * blocks.height, end = std::min(blocks.rows, first + blocks.height);
        std::fill(own.sums.begin(), own.sums.end(), 0.0);
        for (std::uint64_t row = first; row < end; ++row) {
          weights.scores(row, own.scores);
          for (std::uint64_t c = 0; c < blocks.cols; ++c) {
            if (weights.mask[row * blocks.cols + c] == 0) continue;
            own.sums[c / blocks.width] += static_cast<double>(own.scores[c]) * own.scores[c];
            left[down * across + c / blocks.width] = 1;
          }
        }
        for (std::uint64_t b = 0; b < across; ++b) {
          const std::uint64_t count = (end - first) * std::min(blocks.width, blocks.cols - b * blocks.width);
          // The root has the range of a score.
          means[down * across + b] = static_cast<float>(std::sqrt(own.sums[b] / static_cast<double>(count)));
        }
      },
      [](Own&) {});
}

void remove_blocks(const Grid& weights, const SparsityPattern& pattern, Compared compared,
                   std::optional<std::uint64_t> removed) {
  const Blocks blocks(pattern, weights.rows, weights.cols);
  const std::uint64_t across = blocks.across();
  std::vector<float> means(blocks.down() * across);
  std::vector<std::uint8_t> left(means.size());
  rate_blocks(weights, blocks, means, left);
  const RowScores row_of_means = [&](std::uint64_t row, std::span<float> scores) {
    std::copy_n(means.data() + row * across, across, scores.data());
  };
  remove_of_grid({blocks.down(), across, row_of_means, left, weights.threads}, pattern.sparsity, compared, removed);
  rtn::parallel_for(weights.threads, blocks.rows, [&](std::size_t row) {
    const std::uint8_t* own = left.data() + row / blocks.height * across;
    for (std::uint64_t c = 0; c < blocks.cols; ++c) weights.mask[row * blocks.cols + c] &= own[c / blocks.width];
  });
}

}  // namespace

std::uint64_t share_of(std::uint64_t count, double share) {
  return std::min(count, static_cast<std::uint64_t>(static_cast<double>(count) * share));
}

void remove_smallest_of(std::span<const float> scores, std::uint64_t removed, std::span<std::uint8_t> mask,
                        std::vector<float>& scratch) {
  const std::uint64_t before = removed_in(mask);
  if (removed <= before) return;
  std::uint64_t wanted = std::min<std::uint64_t>(removed, mask.size()) - before;
  scratch.clear();
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if (mask[i] != 0) scratch.push_back(std::bit_cast<float>(key_of(scores[i])));
  }
  const auto by_key = [](float a, float b) { return key_of(a) < key_of(b); };
  const auto place = scratch.begin() + static_cast<std::ptrdiff_t>(wanted - 1);
  std::nth_element(scratch.begin(), place, scratch.end(), by_key);
  const std::uint32_t threshold = key_of(*place);
  for (auto it = scratch.begin(); it != place; ++it) wanted -= key_of(*it) < threshold ? 1 : 0;
  for (std::size_t i = 0; i < mask.size(); ++i) {
    if (mask[i] == 0) continue;
    const std::uint32_t key = key_of(scores[i]);
    if (key > threshold || (key == threshold && wanted == 0)) continue;
    if (key == threshold) --wanted;
    mask[i] = 0;
  }
}

void remove_smallest(std::uint64_t rows, std::uint64_t cols, const RowScores& scores, const SparsityPattern& pattern,
                     Compared compared, std::span<std::uint8_t> mask, int threads,
                     std::optional<std::uint64_t> removed) {
  const Grid grid{rows, cols, scores, mask, threads};
  if (rows == 0 || cols == 0) return;
  if (pattern.semi_structured()) return remove_of_rows(grid, pattern.of, pattern.of - pattern.keep);
  if (pattern.blocks()) return remove_blocks(grid, pattern, compared, removed);
  remove_of_grid(grid, pattern.sparsity, compared, removed);
}

std::uint64_t selection_bytes(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols, int threads) {
  constexpr std::uint64_t kHistogram = (1U << 16) * sizeof(std::uint64_t);
  const auto each = static_cast<std::uint64_t>(std::max(threads, 1));
  // Each thread's histogram, the one that all start from and their sum; scores of a row and of what is compared.
  std::uint64_t bytes = (pattern.semi_structured() ? 0 : (each + 2) * kHistogram) + each * cols * 3 * sizeof(double) +
                        rows * sizeof(std::uint64_t) * 2;
  if (pattern.blocks()) {
    const Blocks blocks(pattern, rows, cols);
    bytes += blocks.down() * blocks.across() * (sizeof(float) + 1);
  }
  return bytes;
}

std::optional<std::uint64_t> kept_weights(const SparsityPattern& pattern, std::uint64_t rows, std::uint64_t cols,
                                          Compared compared) {
  if (pattern.semi_structured()) return rows * (cols / pattern.of) * pattern.keep;
  const Blocks blocks(pattern, rows, cols);
  if (blocks.ragged()) return std::nullopt;
  const std::uint64_t removed = compared == Compared::matrix
                                    ? share_of(blocks.down() * blocks.across(), pattern.sparsity)
                                    : blocks.down() * share_of(blocks.across(), pattern.sparsity);
  return rows * cols - removed * blocks.height * blocks.width;
}

}  // namespace quant::shared
