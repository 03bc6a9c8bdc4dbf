#include "evaluate/run_schemes.h"

#include <fmt/format.h>

#include <cmath>

#include "quant/error.h"

namespace quant::evaluate {
namespace {

constexpr const char* kInputHint = "--no-activation-quantization evaluates the quantized weights alone";

constexpr const char* kCacheHint = "--kv-cache none evaluates without a quantized cache";

// Two models may be open.
std::string place_of(const LogicalTensors& tensors) { return tensors.checkpoint().location().string(); }

[[noreturn]] void refuse_input(const std::string& place, const StoredLinear& linear, const std::string& problem) {
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: the inputs of '{}' are quantized as {}: {}", place, linear.shape.module,
                          describe(linear.input->args), problem),
              kInputHint, "UnsupportedActivations");
}

float positive(const std::string& place, const StoredLinear& linear, std::string_view suffix, float value) {
  if (std::isfinite(value) && value > 0) return value;
  throw Error(
      ErrorCode::corrupt_file,
      fmt::format("{}: tensor {}.{} {}, where the inputs are quantized as {}", place, linear.shape.module, suffix,
                  value == 0 ? "is missing or zero" : fmt::format("holds {}", value), describe(linear.input->args)),
      kInputHint, "BadInputScale");
}

float zero_point(const std::string& place, const StoredLinear& linear) {
  const StoredInput& input = *linear.input;
  const auto least = static_cast<float>(code_min(input.args));
  const auto most = static_cast<float>(code_max(input.args));
  const float zero = input.zero_point;
  if (zero >= least && zero <= most && zero == std::nearbyint(zero)) return zero;
  throw Error(ErrorCode::corrupt_file,
              fmt::format("{}: tensor {}.input_zero_point holds {}, not an integer from {} to {}", place,
                          linear.shape.module, zero, least, most),
              kInputHint, "BadInputZeroPoint");
}

InputQuantizer input_quantizer(const std::string& place, const StoredLinear& linear) {
  const StoredInput& input = *linear.input;
  const QuantArgs& args = input.args;
  if (const std::string problem = problem_of_inputs(args); !problem.empty()) refuse_input(place, linear, problem);
  if (is_nvfp4(args) && args.dynamic != Dynamic::yes) {
    return {args, positive(place, linear, "input_global_scale", input.global_scale), 0};
  }
  if (args.dynamic != Dynamic::no) return {args, 0, 0};
  return {args, positive(place, linear, "input_scale", input.scale), args.symmetric ? 0.0F : zero_point(place, linear)};
}

float static_scale(const LogicalTensors& tensors, const std::string& name) {
  const LogicalTensor* tensor = tensors.find(name);
  if (tensor == nullptr) return 0;
  if (tensor->count() != 1) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: tensor {} has shape {}; only one scale per tensor is computed here", place_of(tensors),
                            name, to_string(tensor->shape)),
                kCacheHint, "UnsupportedKvScale");
  }
  float scale = 0;
  tensors.read_rows(*tensor, 0, 1, std::span(&scale, 1));
  if (!std::isfinite(scale) || scale <= 0) {
    throw Error(ErrorCode::corrupt_file,
                fmt::format("{}: tensor {} holds {}, not a positive number", place_of(tensors), name, scale),
                kCacheHint, "BadKvScale");
  }
  return scale;
}

}  // namespace

std::map<std::string, InputQuantizer> input_quantizers(const LogicalTensors& tensors) {
  std::map<std::string, InputQuantizer> quantizers;
  for (const StoredLinear& linear : tensors.linears()) {
    if (linear.input) quantizers.emplace(linear.shape.module, input_quantizer(place_of(tensors), linear));
  }
  return quantizers;
}

std::optional<StoredCache> stored_kv_scheme(const LogicalTensors& tensors) {
  if (tensors.layout() == nullptr) return std::nullopt;
  const auto args = tensors.layout()->kv_cache_scheme(tensors.checkpoint().config());
  if (!args) return std::nullopt;
  StoredCache cache;
  KvQuantizer& kv = cache.kv;
  kv.bits = args->num_bits;
  kv.type = args->type;
  kv.symmetric = args->symmetric;
  kv.group = args->strategy == Strategy::group ? static_cast<std::uint64_t>(args->group_size.value_or(0)) : 0;
  if (args->strategy == Strategy::tensor) {
    kv.keys = kv.values = KvQuantizer::Scale::tensor;
  } else if (args->strategy == Strategy::token || args->strategy == Strategy::group) {
    kv.keys = kv.values = KvQuantizer::Scale::token;
  } else {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: config.json: kv_cache_scheme has strategy {}, which is not computed here",
                            place_of(tensors), to_string(args->strategy)),
                kCacheHint, "UnsupportedKvScheme");
  }
  // Serving engines store FP8 without scales as it is; integers mean nothing then.
  cache.needs_scales =
      args->strategy == Strategy::tensor && args->dynamic == Dynamic::no && args->type == NumberType::integer;
  return cache;
}

KvQuantizer with_scales(const KvQuantizer& kv, const LogicalTensors& tensors, const std::string& attention,
                        bool needs_scales) {
  const auto scale = [&](KvQuantizer::Scale kind, float given, const char* suffix) {
    if (kind != KvQuantizer::Scale::tensor || given != 0) return given;
    const float stored = static_scale(tensors, attention + suffix);
    if (stored == 0 && needs_scales) {
      throw Error(ErrorCode::corrupt_file,
                  fmt::format("{}: tensor {}{} is missing, where kv_cache_scheme says that the scale is stored",
                              place_of(tensors), attention, suffix),
                  kCacheHint, "MissingKvScale");
    }
    return stored == 0 && kv.type == NumberType::floating ? 1.0F : stored;
  };
  KvQuantizer scaled = kv;
  scaled.key_scale = scale(kv.keys, kv.key_scale, ".k_scale");
  scaled.value_scale = scale(kv.values, kv.value_scale, ".v_scale");
  return scaled;
}

}  // namespace quant::evaluate
