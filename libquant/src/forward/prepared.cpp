#include "forward/prepared.h"

#include <fmt/format.h>

#include <algorithm>

#include "packed/inputs.h"
#include "quant/error.h"

namespace quant::forward {
namespace {

// A bias of `rows` values; of experts in a 3-D tensor: their row of a matrix.
std::vector<float> read_bias(const LinearWeight& linear, const ModelWeights& weights, int threads) {
  if (linear.bias.empty()) return {};
  std::vector<float> bias = weights.read(linear.bias, threads);
  const auto slice = static_cast<std::uint64_t>(std::max<std::int64_t>(linear.slice, 0));
  if (bias.size() == linear.rows && slice == 0) return bias;
  if (linear.slice < 0 || bias.size() / std::max<std::uint64_t>(1, linear.rows) <= slice) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("'{}' has {} values, but '{}' has {} outputs", linear.bias, bias.size(), linear.module,
                            linear.rows),
                "config.json and the tensors do not fit together", "WeightShape");
  }
  const auto begin = bias.begin() + static_cast<std::ptrdiff_t>(slice * linear.rows);
  return {begin, begin + static_cast<std::ptrdiff_t>(linear.rows)};
}

PreparedLinear prepare_linear(const LinearWeight& linear, const ModelWeights& weights, const ForwardOptions& options) {
  if (options.packed) {
    if (const auto stored = weights.read_quantized(linear, options.threads)) {
      PackedLinear packed(*stored, {}, options.threads);
      if (packed.has_kernel()) return {std::move(packed), options.product};
    }
  }
  return PreparedLinear(
      Product(weights.read(linear, options.threads), linear.rows, linear.cols, options.product, options.threads));
}

}  // namespace

void PreparedLinear::run(std::span<const float> x, std::uint64_t tokens, std::span<float> y, int threads) const {
  if (const auto* product = std::get_if<Product>(&weight_)) return product->run(x, tokens, y, threads);
  std::get<PackedLinear>(weight_).multiply(x, tokens, y, {.activations = activations_, .threads = threads});
}

bool PreparedLinear::takes_integers(const InputQuantizer& quantizer) const {
  const auto* packed = std::get_if<PackedLinear>(&weight_);
  return packed != nullptr && packed->has_int8_kernel() && packed::multiplies_as_integers(quantizer);
}

void PreparedLinear::run_integers(std::span<const float> x, std::uint64_t tokens, std::span<float> y,
                                  const InputQuantizer& quantizer, int threads) const {
  const PackedOptions options{Activations::int8, threads, &quantizer};
  std::get<PackedLinear>(weight_).multiply(x, tokens, y, options);
}

std::uint64_t PreparedLinear::bytes() const {
  return std::visit([](const auto& weight) { return weight.bytes(); }, weight_);
}

std::uint64_t PreparedOp::bytes() const {
  std::uint64_t values = weight.size() + bias.size();
  for (const auto& one : biases) values += one.size();
  std::uint64_t total = values * sizeof(float);
  for (const PreparedLinear& product : products) total += product.bytes();
  return total;
}

PreparedOp prepare_op(const Op& op, const ModelWeights& weights, const ForwardOptions& options) {
  PreparedOp prepared;
  prepared.ready = true;
  if (const auto* norm = std::get_if<NormOp>(&op)) {
    if (!norm->weight.empty()) prepared.weight = weights.read(norm->weight, options.threads);
    for (const std::string& part : norm->group_weights) {
      const std::vector<float> values = weights.read(part, options.threads);
      prepared.weight.insert(prepared.weight.end(), values.begin(), values.end());
    }
    if (!norm->bias.empty()) prepared.bias = weights.read(norm->bias, options.threads);
  } else if (const auto* linear = std::get_if<LinearOp>(&op)) {
    for (const LinearWeight& weight : linear->weights) {
      prepared.products.push_back(prepare_linear(weight, weights, options));
      prepared.biases.push_back(read_bias(weight, weights, options.threads));
    }
  }
  return prepared;
}

}  // namespace quant::forward
