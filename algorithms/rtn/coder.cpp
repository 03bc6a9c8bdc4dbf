#include "coder.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/error.h"
#include "quant/kernels.h"
#include "tensor_params.h"

namespace quant::rtn {
namespace {

// The weights that share one scale, side by side in memory.
class GroupErrors final : public CandidateErrors {
 public:
  GroupErrors(const Rules& rules, const Observer& observer, std::span<const float> values,
              std::span<const float> importance)
      : rules_(rules), observer_(observer), values_(values), importance_(importance) {}

  void evaluate(std::span<const float> effective, std::span<const float> zero_points, float unit,
                std::span<double> errors) override {
    kernels().search({values_.data(), importance_.empty() ? nullptr : importance_.data(), values_.size(),
                      rules_.element, rules_.code_min, rules_.code_max, effective.data(),
                      zero_points.empty() ? nullptr : zero_points.data(), effective.size(), unit, &observer_.power,
                      errors.data()});
  }

 private:
  const Rules& rules_;
  const Observer& observer_;
  std::span<const float> values_, importance_;
};

float rank_value(std::span<float> values, std::uint64_t rank) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(rank);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// Replaces a group's range by quantiles of its values (of their magnitudes if symmetric); reorders `values`.
void percentile_range(const Rules& rules, double quantile, std::span<float> values, float& smallest, float& largest) {
  const std::uint64_t rank = quantile_rank(quantile, values.size());
  if (!rules.symmetric) {
    smallest = rank_value(values, values.size() - 1 - rank);
    largest = rank_value(values, rank);
    return;
  }
  const bool negative = -smallest >= largest;  // the sign matters to SymmetricRange::full
  for (float& value : values) value = std::fabs(value);
  const float size = rank_value(values, rank);
  smallest = negative ? -size : 0;
  largest = negative ? 0 : size;
}

bool all_finite(std::span<const float> values) {
  bool finite = true;
  for (const float value : values) finite &= std::fabs(value) <= std::numeric_limits<float>::max();
  return finite;
}

}  // namespace

struct Coder::Job {
  const TensorView& view;
  std::uint64_t first_row;
  WeightRows rows;
  const QuantArgs& args;
  Rules rules;
  ScaleGrid grid;
  const TensorParams& params;
  std::span<const float> importance;
};

// Per group of the scale row that covers weight rows [first, end): minima_ and maxima_.
void Coder::find_ranges(const Job& job, std::uint64_t first, std::uint64_t end) {
  for (std::uint64_t r = first; r < end; ++r) {
    auto& minima = r == first ? minima_ : row_minima_;
    auto& maxima = r == first ? maxima_ : row_maxima_;
    kernels().group_range(job.rows.row(r, converted_), job.rows.type(), job.rows.cols(), job.grid.col_extent,
                          minima.data(), maxima.data());
    if (!all_finite({minima.data(), job.grid.cols})) reject_non_finite(job.view, job.first_row);
    if (r == first) continue;
    for (std::size_t g = 0; g < job.grid.cols; ++g) {
      minima_[g] = std::min(minima_[g], row_minima_[g]);
      maxima_[g] = std::max(maxima_[g], row_maxima_[g]);
    }
  }
}

// The same, magnitudes only: maxima_.
void Coder::find_absmax(const Job& job, std::uint64_t first, std::uint64_t end) {
  for (std::uint64_t r = first; r < end; ++r) {
    auto& maxima = r == first ? maxima_ : row_maxima_;
    kernels().group_absmax(job.rows.row(r, converted_), job.rows.type(), job.rows.cols(), job.grid.col_extent,
                           maxima.data());
    if (!all_finite({maxima.data(), job.grid.cols})) reject_non_finite(job.view, job.first_row);
    if (r == first) continue;
    for (std::size_t g = 0; g < job.grid.cols; ++g) maxima_[g] = std::max(maxima_[g], row_maxima_[g]);
  }
}

// values_ and importance_: the weights of group `group`, row by row.
void Coder::gather(const Job& job, std::uint64_t first, std::uint64_t end, std::uint64_t group) {
  const std::uint64_t col = group * job.grid.col_extent;
  const std::uint64_t width = std::min(job.grid.col_extent, job.rows.cols() - col);
  values_.resize((end - first) * width);
  importance_.clear();
  for (std::uint64_t r = first; r < end; ++r) {
    job.rows.read(r, col, {values_.data() + (r - first) * width, width});
    if (job.importance.empty()) continue;
    const auto part = job.importance.subspan(col, width);
    importance_.insert(importance_.end(), part.begin(), part.end());
  }
}

void Coder::search_scales(const Job& job, std::uint64_t first, std::uint64_t end) {
  find_ranges(job, first, end);
  const bool single_row = end == first + 1;
  if (single_row) {
    values_.resize(job.rows.cols());
    job.rows.read(first, 0, values_);
  }
  for (std::uint64_t g = 0; g < job.grid.cols; ++g) {
    std::span<float> values(values_);
    std::span<const float> importance = job.importance;
    if (single_row) {
      const std::uint64_t col = g * job.grid.col_extent;
      const std::uint64_t width = std::min(job.grid.col_extent, job.rows.cols() - col);
      values = values.subspan(col, width);
      if (!importance.empty()) importance = importance.subspan(col, width);
    } else {
      gather(job, first, end, g);
      values = values_;
      importance = importance_;
    }
    if (observer_.kind == Observer::Kind::percentile) {
      percentile_range(job.rules, observer_.percentile, values, minima_[g], maxima_[g]);
    }
    GroupErrors errors(job.rules, observer_, values, importance);
    const ScaleChoice choice = search_.choose(job.rules, observer_, minima_[g], maxima_[g], errors);
    scales_[g] = choice.scale;
    if (!job.rules.symmetric) zero_points_[g] = choice.zero_point;
  }
}

// scales_, zero_points_ and effective_ of one scale row.
void Coder::find_scales(const Job& job, std::uint64_t scale_row) {
  const std::uint64_t first = scale_row * job.grid.row_extent;
  const std::uint64_t end = std::min(job.rows.rows(), first + job.grid.row_extent);
  const bool signed_range = job.rules.element == Element::integer && job.rules.convention == SymmetricRange::full;
  if (job.args.strategy == Strategy::tensor) {
    find_absmax(job, first, end);  // only to find NaN and infinity in a slice that `prepare` may not have seen
    scales_[0] = *job.params.scale;
    kernels().round_values(job.rules.round, scales_.data(), 1);
    if (!job.rules.symmetric) zero_points_[0] = static_cast<float>(job.params.zero_point.value_or(0));
  } else if (observer_.kind != Observer::Kind::minmax) {
    search_scales(job, first, end);
  } else if (!job.rules.symmetric || signed_range) {
    find_ranges(job, first, end);
    scales_of_ranges(job.rules, minima_, maxima_, scales_, zero_points_);
  } else {
    find_absmax(job, first, end);
    scales_of_absmax(job.rules, maxima_, scales_);
  }
  effective_scales(job.rules, scales_, effective_);
}

void Coder::store_scales(const Job& job, std::uint64_t scale_row, const SliceTarget& target) const {
  std::copy(scales_.begin(), scales_.end(), target.scales + scale_row * job.grid.cols);
  if (job.rules.symmetric) return;
  for (std::size_t g = 0; g < zero_points_.size(); ++g) {
    target.zero_points[scale_row * job.grid.cols + g] = static_cast<std::int8_t>(zero_points_[g]);
  }
}

void Coder::code_row(const Job& job, std::uint64_t row, const SliceTarget& target, const SliceErrors& errors) {
  RowSums sums{};
  kernels().encode({job.rows.row(row, converted_), job.rows.type(), job.rules.element, job.rows.cols(),
                    job.grid.col_extent, effective_.data(), job.rules.symmetric ? nullptr : zero_points_.data(),
                    job.rules.code_min, job.rules.code_max, target.codes + row * job.rows.cols(), &sums,
                    errors.group_signal.empty() ? nullptr : errors.group_signal.data(),
                    errors.group_noise.empty() ? nullptr : errors.group_noise.data()});
  if (!errors.wanted()) return;
  errors.rows[row] = {sums.signal,     sums.noise,   sums.dot,  sums.recon, static_cast<double>(sums.max_abs_error),
                      job.rows.cols(), sums.clipped, sums.zeros};
}

void Coder::code(const TensorView& rows, std::uint64_t first_row, const QuantArgs& args, DType scale_dtype,
                 const TensorParams& params, std::span<const float> importance, const SliceTarget& target,
                 const SliceErrors& errors) {
  check_weight(rows);
  check_importance(importance, rows.cols());
  std::fill(errors.rows.begin(), errors.rows.end(), ErrorSums{});
  if (rows.rows() == 0 || rows.cols() == 0) return;
  if (args.strategy == Strategy::tensor && !params.scale) {
    throw Error(ErrorCode::usage, "strategy tensor needs the scale that prepare() finds");
  }
  if (!has_observer_ || !(observer_args_ == args)) {
    observer_ = make_observer(args);
    observer_args_ = args;
    has_observer_ = true;
  }
  const Job job{rows,
                first_row,
                WeightRows(rows),
                args,
                make_rules(args, scale_dtype, params.global_scale.value_or(1.0F)),
                scale_grid(args, rows.rows(), rows.cols()),
                params,
                importance};
  for (auto* buffer : {&minima_, &maxima_, &row_minima_, &row_maxima_, &scales_, &effective_})
    buffer->resize(job.grid.cols);
  zero_points_.resize(job.rules.symmetric ? 0 : job.grid.cols);
  for (std::uint64_t r = 0; r < rows.rows(); ++r) {
    if (r % job.grid.row_extent == 0) {
      find_scales(job, r / job.grid.row_extent);
      store_scales(job, r / job.grid.row_extent, target);
    }
    code_row(job, r, target, errors);
  }
}

}  // namespace quant::rtn
