#include "sensitivity/rounding.h"

#include <fmt/format.h>

#include <algorithm>

#include "linalg/parallel.h"
#include "plan/calibration_work.h"
#include "quant/error.h"

namespace quant::sensitivity {
namespace {

constexpr std::uint64_t kSliceRows = 64;

/// Rows of a slice: fixed, so that sums are added in the same order for any number of threads.
std::uint64_t slice_rows(const QuantArgs& args) {
  const std::uint64_t block = args.block_structure ? (*args.block_structure)[0] : 1;
  return (kSliceRows + block - 1) / block * block;
}

std::unique_ptr<Algorithm> create(const AlgorithmEntry* entry, const Parameters& parameters) {
  return entry != nullptr && entry->create ? entry->create(parameters) : nullptr;
}

}  // namespace

WeightRounder::WeightRounder(const RecipeModifier& modifier, const Registry& registry, const Layout& layout,
                             int threads)
    : layout_(layout), ragged_allowed_(modifier.bypass_divisibility_checks), threads_(threads) {
  algorithm_ = create(registry.modifier(modifier.type), modifier.parameters);
  quantizer_ = dynamic_cast<const Quantizer*>(algorithm_.get());
  if (quantizer_ != nullptr) return;
  algorithm_ = create(registry.algorithm("rtn"), {});
  quantizer_ = dynamic_cast<const Quantizer*>(algorithm_.get());
  if (quantizer_ != nullptr) return;
  throw Error(ErrorCode::unsupported,
              fmt::format("{} looks at data, and this build has no plain rounding to measure with", modifier.type));
}

std::optional<std::string> WeightRounder::unsupported(const Scheme& scheme, const LinearShape& linear) const {
  const QuantArgs& args = *scheme.weights;
  const auto group = static_cast<std::uint64_t>(std::max<std::int64_t>(args.group_size.value_or(0), 0));
  if (group > 0 && linear.cols % group != 0 && !ragged_allowed_) {
    return fmt::format("{} columns are no multiple of group_size {}", linear.cols, group);
  }
  if (auto reason = quantizer_->unsupported(args)) return reason;
  // Ranges of inputs that the scheme does not give come from calibration.
  return layout_.unsupported(needs_input_range(scheme) ? with_input_range(scheme) : scheme, linear);
}

std::vector<float> WeightRounder::rounded(const std::vector<float>& weight, const Scheme& scheme,
                                          const LinearShape& linear, ErrorSums& sums) const {
  const QuantArgs& args = *scheme.weights;
  const TensorView view = f32_view(weight, linear.rows, linear.cols);
  const TensorParams params = quantizer_->prepare(view, args, {}, threads_);
  const DType scale_dtype = layout_.scale_dtype(args, linear.dtype);
  const std::uint64_t step = slice_rows(args);
  std::vector<float> result(weight.size());
  std::vector<ErrorSums> rows(linear.rows);
  linalg::for_tasks(threads_, linalg::pieces(linear.rows, step), [&](std::size_t task) {
    const std::uint64_t first = task * step;
    const std::uint64_t count = std::min(step, linear.rows - first);
    QuantizedTensor codes;
    quantizer_->quantize_rows(view.slice_rows(first, count), args, scale_dtype, params, {}, codes,
                              {std::span(rows).subspan(first, count), {}, {}});
    for (std::uint64_t r = 0; r < count; ++r) {
      dequantize_row(codes, r, std::span(result).subspan((first + r) * linear.cols, linear.cols));
    }
  });
  for (const ErrorSums& row : rows) sums += row;
  return result;
}

}  // namespace quant::sensitivity
