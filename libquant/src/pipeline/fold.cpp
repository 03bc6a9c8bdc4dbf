#include "pipeline/fold.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace quant {
namespace {

using Floats = std::vector<float>;

DType dtype_of(const ModelWeights& weights, const std::string& tensor) { return weights.tensors().find(tensor)->dtype; }

bool finite(const Floats& values) {
  return std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
}

void round_all(DType type, Floats& values) {
  for (float& value : values) value = round_to_dtype(type, value);
}

// Changed tensors, applied together once all of them are known to be representable.
class Changes {
 public:
  explicit Changes(const FoldTarget& target) : target_(target) {}

  bool is_coded(const std::string& tensor) const { return target_.quantized->contains(tensor); }

  void tensor(const std::string& name, Floats values) {
    valid_ = valid_ && finite(values);
    tensors_.emplace_back(name, std::move(values));
  }
  void linear(const LinearWeight& weight, Floats values) {
    if (!is_coded(weight.tensor)) round_all(dtype_of(*target_.weights, weight.tensor), values);
    valid_ = valid_ && finite(values);
    linears_.emplace_back(&weight, std::move(values));
  }
  bool apply() {
    if (!valid_) return false;
    for (auto& [name, values] : tensors_) {
      target_.changed->insert(name);
      if (target_.reference != nullptr) target_.reference->set(name, values);
      target_.weights->set(name, std::move(values));
    }
    for (auto& [weight, values] : linears_) {
      if (!is_coded(weight->tensor)) target_.changed->insert(weight->tensor);
      if (target_.reference != nullptr) target_.reference->set(*weight, values);
      target_.weights->set(*weight, std::move(values));
    }
    return true;
  }

 private:
  const FoldTarget& target_;
  bool valid_ = true;
  std::vector<std::pair<std::string, Floats>> tensors_;
  std::vector<std::pair<const LinearWeight*, Floats>> linears_;
};

// The stored weight of a norm divided by the factors; `factors` become what the division really was. Where the quotient
// is stored as 0 (in FP16, or beside a 1 that is added), no factor of the readers could make up for it: the channel
// stays as it is.
Floats divide_norm(const FoldTarget& target, const NormOp& norm, Floats& factors) {
  Floats stored = target.weights->read(norm.weight, target.threads);
  const DType type = dtype_of(*target.weights, norm.weight);
  const float offset = norm.plus_one ? 1.0F : 0.0F;
  for (std::size_t c = 0; c < stored.size(); ++c) {
    const float before = stored[c] + offset;
    if (before == 0.0F) continue;
    const float quotient = round_to_dtype(type, before / factors[c] - offset);
    const float after = quotient + offset;
    const float real = before / after;
    const bool usable = after != 0.0F && std::isfinite(after) && std::isfinite(real) && real > 0.0F;
    if (!usable && std::isfinite(after)) {
      factors[c] = 1.0F;
      continue;
    }
    stored[c] = quotient;
    if (usable) factors[c] = real;
  }
  return stored;
}

void divide_linear(const FoldTarget& target, const SmoothingSite& site, std::span<const float> factors,
                   Changes& changes) {
  const LinearWeight& weight = weight_at(*target.program, site.linear);
  Floats row_factor(weight.rows, 1.0F);
  for (std::size_t c = 0; c < factors.size(); ++c) row_factor[site.rows[c]] = factors[c];
  Floats values = target.weights->read(weight, target.threads);
  for (std::uint64_t r = 0; r < weight.rows; ++r) {
    for (std::uint64_t c = 0; c < weight.cols; ++c) values[r * weight.cols + c] /= row_factor[r];
  }
  changes.linear(weight, std::move(values));
  if (weight.bias.empty()) return;
  Floats bias = target.weights->read(weight.bias, target.threads);
  const DType type = dtype_of(*target.weights, weight.bias);
  for (std::size_t r = 0; r < bias.size(); ++r) bias[r] = round_to_dtype(type, bias[r] / row_factor[r]);
  changes.tensor(weight.bias, std::move(bias));
}

}  // namespace

std::vector<float> fold(const FoldTarget& target, const SmoothingSite& site, std::span<const float> factors) {
  Floats real(factors.begin(), factors.end());
  Changes changes(target);
  if (site.kind == ProducerKind::norm) {
    const auto& norm = std::get<NormOp>(target.program->ops[site.norm]);
    changes.tensor(norm.weight, divide_norm(target, norm, real));
    if (!norm.bias.empty()) {
      Floats bias = target.weights->read(norm.bias, target.threads);
      const DType type = dtype_of(*target.weights, norm.bias);
      for (std::size_t c = 0; c < bias.size(); ++c) bias[c] = round_to_dtype(type, bias[c] / real[c]);
      changes.tensor(norm.bias, std::move(bias));
    }
  } else {
    divide_linear(target, site, factors, changes);
  }
  for (const LinearPlace& reader : site.readers) {
    const LinearWeight& weight = weight_at(*target.program, reader);
    Floats values = target.weights->read(weight, target.threads);
    for (std::uint64_t r = 0; r < weight.rows; ++r) {
      for (std::uint64_t c = 0; c < weight.cols; ++c) values[r * weight.cols + c] *= real[c];
    }
    changes.linear(weight, std::move(values));
  }
  if (!changes.apply()) return {};
  return real;
}

}  // namespace quant
