#include "layouts/bitsandbytes/int8.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "layouts/stored/tensor_parts.h"
#include "quant/error.h"

namespace quant::bitsandbytes {
namespace {

constexpr float kLargestCode = 127.0F;
constexpr std::string_view kScbSuffix = ".SCB";

enum Place : std::size_t { kWeight, kScb, kFormat };

bool restricted_int8(const QuantArgs& args) {
  return args.type == NumberType::integer && args.num_bits == 8 && args.symmetric &&
         symmetric_range(args) == SymmetricRange::restricted;
}

QuantArgs int8_args(Strategy strategy) {
  QuantArgs args;
  args.strategy = strategy;
  args.observer_kwargs["symmetric_range"] = std::string("restricted");
  return args;
}

// The file holds the largest magnitude m of a row, and a reader takes m / 127 for the scale. That of a row of weights
// is a weight itself, so m is looked for among the values of their type first; of the floats nearby that give the
// scale, else, any is as good. (A scale that is no such quotient, which only other methods make, is met within a unit
// of its last place.)
float row_absmax(float scale, DType weight_dtype) {
  const float product = std::fabs(scale) * kLargestCode;
  if (!std::isfinite(product)) return std::numeric_limits<float>::max();
  const DType type = weight_dtype == DType::F16 || weight_dtype == DType::BF16 ? weight_dtype : DType::F32;
  const float weight = round_to_dtype(type, product);
  for (const float candidate : {weight, product, std::nextafter(product, 0.0F), std::nextafter(product, 1e38F)}) {
    if (candidate / kLargestCode == scale) return candidate;
  }
  return product;
}

void check_slice(const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice) {
  const std::uint64_t end = checked_add(first_row, slice.rows, "rows");
  if (slice.cols == linear.cols && slice.rows > 0 && end <= linear.rows && restricted_int8(slice.args) &&
      slice.codes.size() == slice.rows * slice.cols && slice.scales.size() == slice.rows) {
    return;
  }
  throw Error(ErrorCode::internal, fmt::format("{}: rows {} to {} cannot be stored so", linear.module, first_row, end));
}

StoredLinear inspect(const Checkpoint& checkpoint, const TensorInfo& scb, double threshold) {
  StoredLinear linear;
  linear.shape.module = scb.name.substr(0, scb.name.size() - kScbSuffix.size());
  const TensorInfo& weight = stored::need_tensor(checkpoint, linear.shape.module + ".weight", {DType::I8}, nullptr);
  if (weight.shape.size() != 2 || element_count(weight.shape) == 0) {
    stored::fail(checkpoint, weight.name, fmt::format("has shape {}, not [rows, columns]", to_string(weight.shape)));
  }
  linear.shape.rows = weight.shape[0];
  linear.shape.cols = weight.shape[1];
  const DType type = checkpoint.config().dtype.value_or(DType::F16);
  linear.shape.dtype = type == DType::BF16 || type == DType::F32 ? type : DType::F16;
  const Shape rows = {linear.shape.rows};
  stored::need_tensor(checkpoint, scb.name, {DType::F32}, &rows);
  linear.tensors = {weight.name, scb.name};
  const std::string format_name = linear.shape.module + ".weight_format";
  if (checkpoint.find(format_name) != nullptr) {
    const TensorInfo& format = stored::need_tensor(checkpoint, format_name, {DType::U8}, nullptr);
    if (element_count(format.shape) != 1) stored::fail(checkpoint, format_name, "is not a single number");
    const auto number = static_cast<unsigned>(stored::bytes_of(checkpoint, format, 0, 1)[0]);
    if (number != 0) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("tensor {} holds {}; only the row-major weights of 0 can be read", format_name, number),
                  "save the checkpoint with a newer bitsandbytes");
    }
    linear.tensors.push_back(format_name);
  }
  linear.args = int8_args(Strategy::channel);
  linear.format = "int8";
  StoredInput input;
  input.args = int8_args(Strategy::token);
  input.args.dynamic = Dynamic::yes;
  input.args.outlier_threshold = threshold;
  linear.input = input;
  return linear;
}

}  // namespace

bool is_int8(const QuantArgs& weights) { return weights.type == NumberType::integer; }

std::optional<std::string> why_int8_unsupported(const Scheme& scheme, const LinearShape& linear) {
  const QuantArgs& args = *scheme.weights;
  if (!restricted_int8(args) || args.strategy != Strategy::channel) {
    return std::string(
        "weights: integers of bitsandbytes have 8 bits, symmetric_range restricted and strategy channel "
        "(LLMInt8Modifier)");
  }
  if (args.outlier_percent > 0 || args.sensitive_percent > 0) {
    return std::string("weights: bitsandbytes has no place for a sparse part; use --layout libquant");
  }
  if (args.scale_dtype && *args.scale_dtype != DType::F32) {
    return std::string("weights: scales of bitsandbytes are float32; leave scale_dtype out");
  }
  if (!is_floating(linear.dtype)) return fmt::format("{} holds {}", linear.module, dtype_name(linear.dtype));
  const auto& inputs = scheme.input_activations;
  if (!inputs || !restricted_int8(*inputs) || inputs->strategy != Strategy::token || inputs->dynamic != Dynamic::yes) {
    return std::string(
        "input_activations: bitsandbytes multiplies 8-bit weights with inputs of 8 bits per token, dynamic, "
        "symmetric_range restricted; say so, with outlier_threshold: 6.0");
  }
  if (scheme.output_activations) return std::string("output_activations: bitsandbytes leaves outputs float");
  return std::nullopt;
}

std::vector<StoredTensor> int8_tensors(const LinearShape& linear) {
  return {{linear.module + ".weight", DType::I8, {linear.rows, linear.cols}},
          {linear.module + std::string(kScbSuffix), DType::F32, {linear.rows}},
          {linear.module + ".weight_format", DType::U8, {}}};
}

void write_int8_rows(const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                     StoredBytesSink& sink) {
  check_slice(linear, first_row, slice);
  sink.write(kWeight, first_row * linear.cols, std::as_bytes(std::span(slice.codes)));
  std::vector<float> absmax;
  for (const float scale : slice.scales) absmax.push_back(row_absmax(scale, linear.dtype));
  sink.write(kScb, first_row * sizeof(float), std::as_bytes(std::span(absmax)));
  const std::byte row_major{0};
  if (first_row == 0) sink.write(kFormat, 0, std::span(&row_major, 1));
}

std::vector<StoredLinear> find_int8_linears(const Checkpoint& checkpoint, double threshold) {
  std::vector<StoredLinear> linears;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (tensor.name.ends_with(kScbSuffix)) linears.push_back(inspect(checkpoint, tensor, threshold));
  }
  return linears;
}

void read_int8_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    std::uint64_t count, QuantizedTensor& out) {
  out.resize(linear.args, count, linear.shape.cols);
  out.scale_dtype = DType::F32;
  const TensorInfo& weight = stored::need_tensor(checkpoint, linear.tensors[kWeight], {}, nullptr);
  const auto codes = stored::bytes_of(checkpoint, weight, first_row * linear.shape.cols, out.codes.size());
  std::memcpy(out.codes.data(), codes.data(), codes.size());
  const TensorInfo& scb = stored::need_tensor(checkpoint, linear.tensors[kScb], {}, nullptr);
  stored::read_floats(checkpoint, scb, first_row, out.scales);
  for (float& scale : out.scales) {
    if (scale < 0) stored::fail(checkpoint, scb.name, fmt::format("holds {}, which is no largest magnitude", scale));
    // bitsandbytes gives rows of zeros the magnitude 0.
    scale = std::max(scale / kLargestCode, std::numeric_limits<float>::min());
  }
}

}  // namespace quant::bitsandbytes
