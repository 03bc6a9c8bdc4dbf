#include "packed/benchmark_codecs.h"

#include <fmt/format.h>

#include <algorithm>

#include "quant/error.h"

namespace quant::packed {
namespace {

QuantArgs integers(int bits, std::int64_t group, bool symmetric = true) {
  QuantArgs args;
  args.num_bits = bits;
  args.symmetric = symmetric;
  args.strategy = group > 0 ? Strategy::group : Strategy::channel;
  if (group > 0) args.group_size = group;
  return args;
}

QuantArgs other(NumberType type, int bits, Strategy strategy, std::int64_t group) {
  QuantArgs args = integers(bits, group);
  args.type = type;
  args.strategy = strategy;
  return args;
}

std::vector<BenchmarkCodec> make_codecs() {
  using enum Activations;
  QuantArgs nf4 = other(NumberType::codebook, 4, Strategy::flat, 64);
  nf4.codebook = Codebook::nf4;
  QuantArgs mxfp4 = other(NumberType::floating, 4, Strategy::group, 32);
  mxfp4.scale_dtype = DType::F8_E8M0;
  QuantArgs ternary = integers(2, 0);
  ternary.observer_kwargs["symmetric_range"] = std::string("restricted");
  return {{"int8 channel", integers(8, 0), {f32, bf16, int8}},
          {"w8a8", integers(8, 0), {int8}, true},
          {"llm_int8", integers(8, 0), {int8}, true, 6.0},
          {"int6 g128", integers(6, 128), {f32, bf16}},
          {"int5 g128", integers(5, 128), {f32, bf16}},
          {"int4 g128", integers(4, 128), {f32, bf16, int8}},
          {"int4 g128 asym", integers(4, 128, false), {f32, bf16, int8}},
          {"int3 g128", integers(3, 128), {f32, bf16}},
          {"int2 g64", integers(2, 64), {f32, bf16, int8}},
          {"ternary", ternary, {f32, bf16, int8}},
          {"nf4 g64", nf4, {f32, bf16}},
          {"kmeans8 channel", other(NumberType::codebook, 8, Strategy::channel, 0), {f32, bf16}},
          {"kmeans6 channel", other(NumberType::codebook, 6, Strategy::channel, 0), {f32, bf16}},
          {"kmeans5 channel", other(NumberType::codebook, 5, Strategy::channel, 0), {f32, bf16}},
          {"kmeans4 channel", other(NumberType::codebook, 4, Strategy::channel, 0), {f32, bf16}},
          {"kmeans3 channel", other(NumberType::codebook, 3, Strategy::channel, 0), {f32, bf16}},
          {"fp8 channel", other(NumberType::floating, 8, Strategy::channel, 0), {f32, bf16}},
          {"mxfp4", mxfp4, {f32, bf16}},
          {"nvfp4", other(NumberType::floating, 4, Strategy::tensor_group, 16), {f32, bf16}}};
}

const std::vector<BenchmarkCodec>& all_codecs() {
  static const std::vector<BenchmarkCodec> codecs = make_codecs();
  return codecs;
}

}  // namespace

const BenchmarkCodec& benchmark_codec(std::string_view name) {
  for (const BenchmarkCodec& one : all_codecs()) {
    if (one.name == name) return one;
  }
  throw Error(ErrorCode::usage, fmt::format("There is no benchmark of a codec '{}'.", name),
              fmt::format("use one of: {}", fmt::join(benchmark_codec_names(), ", ")));
}

const std::vector<std::string_view>& benchmark_codec_names() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> list;
    for (const BenchmarkCodec& codec : all_codecs()) list.push_back(codec.name);
    return list;
  }();
  return names;
}

void check_benchmark_shape(std::uint64_t rows, std::uint64_t cols) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 20;
  if (rows > 0 && cols > 0 && rows <= kMost && cols <= kMost) return;
  throw Error(ErrorCode::usage, fmt::format("The shape {} x {} is not within 1 .. {} each.", rows, cols, kMost));
}

QuantizedTensor made_up_weight(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  QuantizedTensor tensor;
  tensor.resize(args, rows, cols);
  std::uint32_t state = 1;
  const bool integer = args.type == NumberType::integer;
  const int mask = args.num_bits == 8 && args.type != NumberType::codebook ? 0x7F : (1 << args.num_bits) - 1;
  const int least = integer ? code_min(args) : 0, most = integer ? code_max(args) : mask;
  for (std::int8_t& code : tensor.codes) {
    state = state * 1664525U + 1013904223U;
    const int bits = static_cast<int>(state >> 16) & mask;
    code = static_cast<std::int8_t>(
        args.type == NumberType::floating && args.num_bits == 8 ? bits % 0x7F : std::min(bits + least, most));
  }
  for (std::size_t i = 0; i < tensor.scales.size(); ++i) tensor.scales[i] = i % 2 == 0 ? 0x1p-6F : 0x1p-7F;
  std::fill(tensor.zero_points.begin(), tensor.zero_points.end(), std::int8_t{1});
  for (std::size_t i = 0; has_learned_codebook(args) && i < tensor.codebook.size(); ++i) {
    tensor.codebook[i] = static_cast<float>(i % 16) * 0x1p-8F;
  }
  return tensor;
}

std::vector<float> made_up_inputs(std::uint64_t count, double threshold) {
  std::vector<float> values(count);
  std::uint32_t state = 7;
  for (float& value : values) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<float>(state >> 8) * 0x1p-24F - 0.5F;
  }
  for (std::uint64_t i = 0; threshold > 0 && i < count; i += 256) values[i] = static_cast<float>(threshold) + 1.0F;
  return values;
}

}  // namespace quant::packed
