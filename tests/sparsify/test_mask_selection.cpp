// Exactly so many smallest scores, against sorting.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "shared/mask_selection.h"
#include "support/catch.h"

namespace {

using namespace quant;
using namespace quant::shared;

using Mask = std::vector<std::uint8_t>;

// Scores of few different values, so that there are ties everywhere.
std::vector<float> tied_scores(std::uint64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> scores(count);
  for (float& score : scores) {
    const auto value = static_cast<float>(random() % 23);
    score = value == 22 ? std::numeric_limits<float>::infinity() : value * 0.37F;
  }
  return scores;
}

// Of the places of one comparison, those of the smallest scores, until `removed` are gone.
void remove_sorted(const std::vector<float>& scores, const std::vector<std::size_t>& places, std::uint64_t removed,
                   Mask& mask) {
  std::vector<std::size_t> left;
  std::uint64_t gone = 0;
  for (const std::size_t place : places) {
    if (mask[place] == 0) ++gone;
    if (mask[place] != 0) left.push_back(place);
  }
  std::stable_sort(left.begin(), left.end(), [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
  for (const std::size_t place : left) {
    if (gone++ >= removed) return;
    mask[place] = 0;
  }
}

Mask expected(std::uint64_t rows, std::uint64_t cols, const std::vector<float>& scores, const SparsityPattern& pattern,
              Compared compared, Mask mask) {
  std::vector<std::vector<std::size_t>> groups;
  const std::uint64_t width = pattern.semi_structured() ? pattern.of : cols;
  for (std::size_t i = 0; i < rows * cols; ++i) {
    const bool single = compared == Compared::matrix && !pattern.semi_structured();
    if (groups.empty() || (!single && i % width == 0)) groups.emplace_back();
    groups.back().push_back(i);
  }
  for (const auto& group : groups) {
    const auto removed = pattern.semi_structured()
                             ? pattern.of - pattern.keep
                             : static_cast<std::uint64_t>(static_cast<double>(group.size()) * pattern.sparsity);
    remove_sorted(scores, group, removed, mask);
  }
  return mask;
}

RowScores by_row(const std::vector<float>& scores, std::uint64_t cols) {
  return [&scores, cols](std::uint64_t row, std::span<float> out) {
    std::copy_n(scores.data() + row * cols, cols, out.data());
  };
}

SparsityPattern share(double sparsity, std::uint32_t rows = 1, std::uint32_t cols = 1) {
  SparsityPattern pattern;
  pattern.sparsity = sparsity;
  pattern.block_rows = rows;
  pattern.block_cols = cols;
  return pattern;
}

}  // namespace

TEST_CASE("the smallest scores go, ties from the first on, whatever was gone before") {
  const std::uint64_t shapes[][2] = {{1, 1}, {1, 8}, {8, 1}, {3, 16}, {37, 200}, {700, 104}};
  for (const auto& [rows, cols] : shapes) {
    const std::vector<float> scores = tied_scores(rows * cols, 3);
    std::mt19937 random(4);
    for (const unsigned gone_of : {0U, 3U, 1U}) {
      Mask before(rows * cols, 1);
      for (std::uint8_t& left : before) left = gone_of != 0 && random() % gone_of == 0 ? 0 : 1;
      std::vector<SparsityPattern> patterns = {share(0), share(0.3), share(0.5), share(0.999), share(1)};
      if (cols % 8 == 0) patterns.insert(patterns.end(), {parse_pattern("2:4"), parse_pattern("3:8")});
      for (const SparsityPattern& pattern : patterns) {
        for (const Compared compared : {Compared::matrix, Compared::row}) {
          INFO(rows << "x" << cols << " " << describe(pattern) << " gone " << gone_of);
          const Mask wanted = expected(rows, cols, scores, pattern, compared, before);
          for (const int threads : {1, 3}) {
            Mask mask = before;
            remove_smallest(rows, cols, by_row(scores, cols), pattern, compared, mask, threads);
            CHECK(mask == wanted);
          }
          if (gone_of != 0) continue;
          const auto kept = static_cast<std::uint64_t>(std::count(wanted.begin(), wanted.end(), 1));
          CHECK(kept_weights(pattern, rows, cols, compared) == kept);
        }
      }
    }
  }
}

TEST_CASE("blocks go as a whole, those of the smallest mean square") {
  const std::uint64_t rows = 10, cols = 12;
  const std::vector<float> scores = tied_scores(rows * cols, 8);
  for (const auto& [height, width] : {std::pair{5U, 1U}, {1U, 4U}, {2U, 3U}, {4U, 5U}, {4294967295U, 1U}}) {
    const std::uint64_t h = std::min<std::uint64_t>(height, rows), down = (rows + h - 1) / h,
                        across = (cols + width - 1) / width;
    std::vector<float> means;
    for (std::uint64_t b = 0; b < down * across; ++b) {
      double sum = 0, count = 0;
      for (std::uint64_t r = b / across * h; r < std::min(rows, (b / across + 1) * h); ++r) {
        for (std::uint64_t c = b % across * width; c < std::min<std::uint64_t>(cols, (b % across + 1) * width); ++c) {
          sum += std::pow(static_cast<double>(scores[r * cols + c]), 2);
          ++count;
        }
      }
      means.push_back(static_cast<float>(std::sqrt(sum / count)));
    }
    for (const Compared compared : {Compared::matrix, Compared::row}) {
      INFO(height << "x" << width);
      const SparsityPattern pattern = share(0.4, height, width);
      const Mask blocks = expected(down, across, means, share(0.4), compared, Mask(down * across, 1));
      Mask wanted(rows * cols);
      for (std::uint64_t i = 0; i < wanted.size(); ++i) wanted[i] = blocks[i / cols / h * across + i % cols / width];
      Mask mask(rows * cols, 1);
      remove_smallest(rows, cols, by_row(scores, cols), pattern, compared, mask, 2);
      CHECK(mask == wanted);
      const auto kept = static_cast<std::uint64_t>(std::count(mask.begin(), mask.end(), 1));
      const bool ragged = rows % h != 0 || cols % width != 0;
      CHECK(kept_weights(pattern, rows, cols, compared) ==
            (ragged ? std::nullopt : std::optional<std::uint64_t>(kept)));
    }
  }
}

TEST_CASE("a block that is gone already counts, one that is gone in part does not") {
  Mask mask = {0, 0, 0, 1, 1, 1, 1, 1};
  const std::vector<float> scores = {9, 9, 9, 9, 1, 1, 5, 5};
  remove_smallest(1, 8, by_row(scores, 8), share(0.5, 1, 2), Compared::matrix, mask, 1);
  CHECK(mask == Mask{0, 0, 0, 1, 0, 0, 1, 1});
}
