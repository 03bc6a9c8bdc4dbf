#include "best_rows.h"

#include <algorithm>

namespace quant::gptq {

BestRows::BestRows(QuantizedTensor& out, std::uint64_t first, std::uint64_t count)
    : out_(out), count_(count), height_(out.grid.row_extent), groups_(out.grid.cols) {
  const std::uint64_t from = first / height_ * groups_, size = (count + height_ - 1) / height_ * groups_;
  codes_ = std::span(out_.codes).subspan(first * out_.cols, count * out_.cols);
  scales_ = std::span(out_.scales).subspan(from, size);
  if (!out_.zero_points.empty()) zero_points_ = std::span(out_.zero_points).subspan(from, size);
}

void BestRows::keep(std::span<const double> losses) {
  const bool all = best_losses_.empty();
  if (all) {
    best_codes_.resize(codes_.size());
    best_scales_.resize(scales_.size());
    best_zero_points_.resize(zero_points_.size());
    best_losses_.resize(scales_.size() / groups_);
  }
  for (std::uint64_t s = 0; s < best_losses_.size(); ++s) {
    const std::uint64_t row = s * height_, rows = std::min(height_, count_ - row);
    double loss = 0;
    for (std::uint64_t r = row; r < row + rows; ++r) loss += losses[r];
    if (!all && !(loss < best_losses_[s])) continue;
    best_losses_[s] = loss;
    std::copy_n(codes_.data() + row * out_.cols, rows * out_.cols, best_codes_.data() + row * out_.cols);
    std::copy_n(scales_.data() + s * groups_, groups_, best_scales_.data() + s * groups_);
    if (zero_points_.empty()) continue;
    std::copy_n(zero_points_.data() + s * groups_, groups_, best_zero_points_.data() + s * groups_);
  }
}

void BestRows::restore() const {
  std::copy(best_codes_.begin(), best_codes_.end(), codes_.begin());
  std::copy(best_scales_.begin(), best_scales_.end(), scales_.begin());
  std::copy(best_zero_points_.begin(), best_zero_points_.end(), zero_points_.begin());
}

}  // namespace quant::gptq
