#include "forward/row_quantizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "linalg/parallel.h"
#include "quant/error.h"
#include "quant/forward.h"
#include "quant/kernels.h"

namespace quant {
namespace forward {
namespace {

constexpr std::uint64_t kElements = 1U << 16;  // of a task

// Symmetric scales follow from the largest magnitude, but for the convention that looks at its sign.
bool needs_range(const ScaleRules& rules) {
  return !rules.symmetric || (rules.element == Element::integer && rules.convention == SymmetricRange::full);
}

}  // namespace

ScaleRules activation_rules(const QuantArgs& args, float global_scale) {
  return make_scale_rules(args, args.scale_dtype.value_or(DType::F32), global_scale);
}

void RowQuantizer::dynamic(std::span<float> row, std::uint64_t group) {
  if (row.empty()) return;
  const std::size_t groups = linalg::pieces(row.size(), group);
  const bool zero_points = !rules_.symmetric;
  scales_.resize(groups);
  maxima_.resize(groups);
  zero_points_.resize(zero_points ? groups : 0);
  if (needs_range(rules_)) {
    minima_.resize(groups);
    kernels().group_range(row.data(), WeightType::f32, row.size(), group, minima_.data(), maxima_.data());
    scales_of_ranges(rules_, minima_, maxima_, scales_, zero_points_);
  } else {
    kernels().group_absmax(row.data(), WeightType::f32, row.size(), group, maxima_.data());
    scales_of_absmax(rules_, maxima_, scales_);
  }
  effective_scales(rules_, scales_, scales_);
  kernels().math.fake_quantize({row.data(), rules_.element, row.size(), group, scales_.data(),
                                zero_points ? zero_points_.data() : nullptr, rules_.code_min, rules_.code_max});
}

void RowQuantizer::without_outliers(std::span<float> row, float threshold, std::span<const char> keep) {
  if (row.empty()) return;
  float largest = 0;
  bool finite = true;
  kept_.assign(row.begin(), row.end());
  for (const float value : row) {
    const float size = std::fabs(value);
    finite = finite && size <= std::numeric_limits<float>::max();
    if (size < threshold) largest = std::max(largest, size);
  }
  if (!finite) {
    std::fill(row.begin(), row.end(), std::numeric_limits<float>::quiet_NaN());
    return;
  }
  float scale = 0;
  scales_of_absmax(rules_, {&largest, 1}, {&scale, 1});
  fixed(row, scale, 0.0F);
  for (std::size_t c = 0; c < row.size(); ++c) {
    if (keep[c] != 0) row[c] = kept_[c];
  }
}

void RowQuantizer::fixed(std::span<float> row, float scale, float zero_point) const {
  if (row.empty()) return;
  const float* zero = zero_point == 0.0F ? nullptr : &zero_point;
  kernels().math.fake_quantize(
      {row.data(), rules_.element, row.size(), row.size(), &scale, zero, rules_.code_min, rules_.code_max});
}

// The tasks' findings are joined, in whatever order.
std::vector<char> outlier_columns(std::span<const float> x, std::uint64_t rows, float threshold, int threads) {
  const std::uint64_t cols = x.size() / rows, step = std::max<std::uint64_t>(1, kElements / cols);
  const std::uint64_t tasks = linalg::pieces(rows, step);
  std::vector<std::vector<char>> found(tasks);
  linalg::for_tasks(threads, tasks, [&](std::size_t task) {
    std::vector<char> marks(cols, 0);
    for (std::uint64_t r = task * step; r < std::min(rows, (task + 1) * step); ++r) {
      const float* row = x.data() + r * cols;
      char* mark = marks.data();
      for (std::uint64_t c = 0; c < cols; ++c) mark[c] |= std::fabs(row[c]) >= threshold ? 1 : 0;
    }
    found[task] = std::move(marks);
  });
  for (std::size_t task = 1; task < tasks; ++task) {
    for (std::uint64_t c = 0; c < cols; ++c) found[0][c] |= found[task][c];
  }
  return found[0];
}

}  // namespace forward

namespace {

using forward::kElements;
using forward::RowQuantizer;

// body(quantizer, row) for every row; one quantizer per task.
template <class Body>
void for_rows(std::span<float> x, std::uint64_t rows, const ScaleRules& rules, int threads, const Body& body) {
  const std::uint64_t cols = x.size() / rows;
  const std::uint64_t step = std::max<std::uint64_t>(1, kElements / std::max<std::uint64_t>(1, cols));
  linalg::for_tasks(threads, linalg::pieces(rows, step), [&](std::size_t task) {
    RowQuantizer quantizer(rules);
    for (std::uint64_t r = task * step; r < std::min(rows, (task + 1) * step); ++r) {
      body(quantizer, x.subspan(r * cols, cols));
    }
  });
}

struct Extent {
  float least = 0.0F, most = 0.0F;
};

// Least and largest value, zero included; NaN if one is not finite.
Extent extent_of(std::span<const float> x, int threads) {
  const std::uint64_t tasks = linalg::pieces(x.size(), kElements);
  std::vector<float> minima(tasks), maxima(tasks);
  linalg::for_tasks(threads, tasks, [&](std::size_t task) {
    const std::uint64_t first = task * kElements, count = std::min(kElements, x.size() - first);
    kernels().group_range(x.data() + first, WeightType::f32, count, count, &minima[task], &maxima[task]);
  });
  Extent extent;
  for (std::uint64_t i = 0; i < tasks; ++i) {
    if (std::isnan(maxima[i]) || std::isnan(extent.most)) {
      extent = {maxima[i] + extent.most, maxima[i] + extent.most};
      continue;
    }
    extent.least = std::min(extent.least, minima[i]);
    extent.most = std::max(extent.most, maxima[i]);
  }
  return extent;
}

void quantize_whole(std::span<float> x, std::uint64_t rows, const InputQuantizer& q, int threads) {
  const ScaleRules rules = forward::activation_rules(q.args, 1.0F);
  float scale = q.scale, zero_point = q.zero_point;
  if (scale == 0.0F) {
    Extent extent = extent_of(x, threads);
    zero_point = 0.0F;
    scales_of_ranges(rules, {&extent.least, 1}, {&extent.most, 1}, {&scale, 1},
                     q.args.symmetric ? std::span<float>() : std::span<float>(&zero_point, 1));
  }
  for_rows(x, rows, rules, threads,
           [&](RowQuantizer& quantizer, std::span<float> row) { quantizer.fixed(row, scale, zero_point); });
}

void quantize_tokens(std::span<float> x, std::uint64_t rows, const InputQuantizer& q, int threads) {
  const ScaleRules rules = forward::activation_rules(q.args, 1.0F);
  if (q.args.outlier_threshold == 0) {
    return for_rows(x, rows, rules, threads,
                    [](RowQuantizer& quantizer, std::span<float> row) { quantizer.dynamic(row, row.size()); });
  }
  const auto threshold = static_cast<float>(q.args.outlier_threshold);
  const std::vector<char> keep = forward::outlier_columns(x, rows, threshold, threads);
  for_rows(x, rows, rules, threads,
           [&](RowQuantizer& quantizer, std::span<float> row) { quantizer.without_outliers(row, threshold, keep); });
}

// NVFP4's factor: 448 * 6 / absmax, as compressed-tensors' generate_gparam rounds it (torch divides a number by a
// tensor by way of the reciprocal); 1 where that is no number.
float global_scale_of(std::span<const float> x, int threads) {
  const Extent extent = extent_of(x, threads);
  const float scale = 1.0F / std::max(-extent.least, extent.most) * (448.0F * 6.0F);
  return std::isfinite(scale) ? scale : 1.0F;
}

void quantize_groups(std::span<float> x, std::uint64_t rows, const InputQuantizer& q, int threads) {
  const std::int64_t group = q.args.group_size.value_or(0);
  if (group <= 0) {
    throw Error(ErrorCode::usage, fmt::format("activations in groups of {} columns", group),
                "give a positive group_size");
  }
  float global = 1.0F;
  if (is_nvfp4(q.args)) global = q.scale != 0.0F ? q.scale : global_scale_of(x, threads);
  for_rows(x, rows, forward::activation_rules(q.args, global), threads,
           [&](RowQuantizer& quantizer, std::span<float> row) {
             quantizer.dynamic(row, static_cast<std::uint64_t>(group));
           });
}

}  // namespace

void fake_quantize_rows(std::span<float> x, std::uint64_t rows, const InputQuantizer& quantizer, int threads) {
  if (rows == 0 || x.empty()) return;
  if (x.size() % rows != 0) {
    throw Error(ErrorCode::internal, fmt::format("{} values are no {} rows", x.size(), rows));
  }
  switch (quantizer.args.strategy) {
    case Strategy::tensor:
      return quantize_whole(x, rows, quantizer, threads);
    case Strategy::token:
      return quantize_tokens(x, rows, quantizer, threads);
    case Strategy::group:
    case Strategy::tensor_group:
      return quantize_groups(x, rows, quantizer, threads);
    default:
      throw Error(ErrorCode::unsupported,
                  fmt::format("activations cannot be quantized by {}", to_string(quantizer.args.strategy)),
                  "use tensor, token, group or tensor_group");
  }
}

std::string problem_of_inputs(const QuantArgs& inputs) {
  const bool is_static = inputs.dynamic == Dynamic::no;
  if (is_nvfp4(inputs)) return is_static ? "scales of groups cannot be static" : "";
  const Strategy strategy = inputs.strategy;
  if (strategy != Strategy::tensor && strategy != Strategy::token && strategy != Strategy::group) {
    return fmt::format("strategy {} is not computed here", to_string(strategy));
  }
  return is_static && strategy != Strategy::tensor ? "static scales are per tensor only" : "";
}

}  // namespace quant
