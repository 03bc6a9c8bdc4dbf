#include "quant/weight_rows.h"

#include <cmath>

#include "quant/kernels.h"

namespace quant {
namespace {

WeightType weight_type(DType type) {
  return type == DType::F16 ? WeightType::f16 : type == DType::BF16 ? WeightType::bf16 : WeightType::f32;
}

}  // namespace

WeightRows::WeightRows(const TensorView& view)
    : view_(view),
      type_(weight_type(view.dtype)),
      direct_(view.dtype == DType::F32 || view.dtype == DType::F16 || view.dtype == DType::BF16),
      rows_(view.rows()),
      cols_(view.cols()) {}

const void* WeightRows::row(std::uint64_t row, std::vector<float>& scratch) const {
  if (direct_) return view_.bytes.data() + row * cols_ * (dtype_bits(view_.dtype) / 8);
  scratch.resize(cols_);
  read_f32(view_, row * cols_, scratch);
  return scratch.data();
}

void WeightRows::read(std::uint64_t row, std::uint64_t first, std::span<float> out) const {
  read_f32(view_, row * cols_ + first, out);
}

std::optional<ElementPlace> find_non_finite(const TensorView& view) {
  const WeightRows weights(view);
  if (weights.cols() == 0) return std::nullopt;
  std::vector<float> scratch, values(weights.cols());
  for (std::uint64_t r = 0; r < weights.rows(); ++r) {
    float absmax = 0;
    kernels().group_absmax(weights.row(r, scratch), weights.type(), weights.cols(), weights.cols(), &absmax);
    if (std::isfinite(absmax)) continue;
    weights.read(r, 0, values);
    for (std::uint64_t c = 0; c < values.size(); ++c) {
      if (!std::isfinite(values[c])) return ElementPlace{r, c, values[c]};
    }
  }
  return std::nullopt;
}

}  // namespace quant
