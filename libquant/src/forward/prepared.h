// What operations need of the weights, in the form in which they use it.
#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "quant/forward.h"
#include "quant/packed_linear.h"

namespace quant::forward {

/// A linear's weight: floats in the form that products read fastest, or packed.
class PreparedLinear {
 public:
  explicit PreparedLinear(Product product) : weight_(std::move(product)) {}
  PreparedLinear(PackedLinear packed, ProductType type)
      : weight_(std::move(packed)), activations_(type == ProductType::bf16 ? Activations::bf16 : Activations::f32) {}

  void run(std::span<const float> x, std::uint64_t tokens, std::span<float> y, int threads) const;
  /// Whether run_integers multiplies what such a quantizer makes of the inputs as integers.
  bool takes_integers(const InputQuantizer& quantizer) const;
  /// The same with inputs that are not quantized yet.
  void run_integers(std::span<const float> x, std::uint64_t tokens, std::span<float> y, const InputQuantizer& quantizer,
                    int threads) const;
  std::uint64_t bytes() const;

 private:
  std::variant<Product, PackedLinear> weight_;
  Activations activations_ = Activations::f32;
};

/// The weights of one operation. Empty for those that have none.
struct PreparedOp {
  bool ready = false;
  std::vector<PreparedLinear> products;    ///< of a LinearOp, in the order of its weights
  std::vector<std::vector<float>> biases;  ///< likewise; empty where there is none
  std::vector<float> weight, bias;         ///< of a NormOp

  std::uint64_t bytes() const;
};

PreparedOp prepare_op(const Op& op, const ModelWeights& weights, const ForwardOptions& options);

}  // namespace quant::forward
