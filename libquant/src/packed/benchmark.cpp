#include "quant/benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <map>

#include "kernels/packed/packed_dispatch.h"
#include "linalg/parallel.h"
#include "packed/aligned_buffer.h"
#include "quant/error.h"
#include "quant/kernel_benchmark.h"

namespace quant {
namespace {

using linalg::pieces;

// More than caches hold.
constexpr std::uint64_t kMemory = std::uint64_t{192} << 20;
constexpr std::uint64_t kManyTokens = 16;  // from here on weights are read once for many products

struct Codec {
  std::string_view name;
  QuantArgs args;
  std::vector<Activations> activations;
  bool token_inputs = false;  // the scheme quantizes them, with a scale per token
  double threshold = 0;       // of columns that stay float: one in 256 of the inputs does
};

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

std::vector<Codec> make_codecs() {
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

const std::vector<Codec>& all_codecs() {
  static const std::vector<Codec> codecs = make_codecs();
  return codecs;
}

// Codes without a pattern, scales that BF16 holds.
QuantizedTensor made_up(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
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

}  // namespace

struct KernelBenchmark::State {
  const Codec* codec = nullptr;
  std::uint64_t rows = 0, cols = 0;
  int threads = 1;
  std::vector<PackedLinear> copies;
  packed::AlignedBuffer memory;
  mutable std::size_t turn = 0;
  mutable std::atomic<std::uint32_t> sink = 0;  // keeps reads from being dropped

  void read() const;
  std::function<void()> product_limit_of(Activations activations, std::uint64_t batch) const;
};

// As many bytes as the weights have, from a place that was not read lately.
void KernelBenchmark::State::read() const {
  constexpr std::uint64_t kStep = std::uint64_t{1} << 18;
  const std::uint64_t bytes = std::max(copies.front().bytes() / 1024 * 1024, std::uint64_t{1024});
  const std::uint64_t places = memory.size() / bytes, first = turn++ % places * bytes;
  linalg::for_tasks(threads, pieces(bytes, kStep), [&](std::size_t task) {
    const std::uint64_t begin = task * kStep, count = std::min(kStep, bytes - begin);
    sink ^= cpu::packed_table({}).read(memory.data() + first + begin, count);
  });
}

std::function<void()> KernelBenchmark::State::product_limit_of(Activations activations, std::uint64_t batch) const {
  if (activations == Activations::int8) return integer_product_limit(batch, rows, cols, threads);
  const ProductType type = activations == Activations::bf16 ? ProductType::bf16 : ProductType::f32;
  return product_limit(batch, rows, cols, type, threads);
}

KernelBenchmark::KernelBenchmark(std::string_view codec, std::uint64_t rows, std::uint64_t cols, int threads)
    : state_(std::make_unique<State>()) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 20;
  if (rows == 0 || cols == 0 || rows > kMost || cols > kMost) {
    throw Error(ErrorCode::usage, fmt::format("The shape {} x {} is not within 1 .. {} each.", rows, cols, kMost));
  }
  for (const Codec& one : all_codecs()) {
    if (one.name == codec) state_->codec = &one;
  }
  if (state_->codec == nullptr) {
    throw Error(ErrorCode::usage, fmt::format("There is no benchmark of a codec '{}'.", codec),
                fmt::format("use one of: {}", fmt::join(codecs(), ", ")));
  }
  state_->rows = rows;
  state_->cols = cols;
  state_->threads = threads;
  const QuantizedTensor tensor = made_up(state_->codec->args, rows, cols);
  state_->copies.emplace_back(tensor, std::span<const float>{}, threads);
  const std::uint64_t bytes = std::max<std::uint64_t>(1024, state_->copies.front().bytes());
  const std::uint64_t copies = std::clamp<std::uint64_t>(kMemory / bytes, 1, 64);
  while (state_->copies.size() < copies) state_->copies.emplace_back(tensor, std::span<const float>{}, threads);
  state_->memory = packed::AlignedBuffer(std::max(kMemory, bytes));
}

KernelBenchmark::~KernelBenchmark() = default;

const std::vector<std::string_view>& KernelBenchmark::codecs() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> list;
    for (const Codec& codec : all_codecs()) list.push_back(codec.name);
    return list;
  }();
  return names;
}

std::vector<Activations> KernelBenchmark::activations() const { return state_->codec->activations; }

KernelSpeed KernelBenchmark::measure(Activations activations, std::uint64_t batch, int rounds) const {
  if (rounds < 1 || batch < 1) throw Error(ErrorCode::usage, "A benchmark needs at least one token and one round.");
  const std::vector<float> x = made_up_inputs(batch * state_->cols, state_->codec->threshold);
  std::vector<float> y(batch * state_->rows);
  InputQuantizer per_token;
  per_token.args.strategy = Strategy::token;
  per_token.args.outlier_threshold = state_->codec->threshold;
  const PackedOptions options{activations, state_->threads, state_->codec->token_inputs ? &per_token : nullptr};
  const std::size_t copies = batch < kManyTokens ? state_->copies.size() : 1;
  std::size_t turn = 0;
  const std::array<std::function<void()>, 3> actions{
      [&] { state_->read(); }, state_->product_limit_of(activations, batch),
      [&] { state_->copies[turn++ % copies].multiply(x, batch, y, options); }};
  for (const auto& action : actions) action();
  std::array<std::vector<double>, 3> seconds;
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < 3; ++i) {  // each comes first, second and third in turn
      const std::size_t which = (i + static_cast<std::size_t>(round)) % 3;
      seconds[which].push_back(seconds_of_one({}, actions[which], state_->threads));
    }
  }
  std::vector<double> read_ratios, product_ratios;
  for (std::size_t i = 0; i < seconds[2].size(); ++i) {
    read_ratios.push_back(seconds[0][i] / seconds[2][i]);
    product_ratios.push_back(seconds[1][i] / seconds[2][i]);
  }
  KernelSpeed speed;
  speed.bytes = state_->copies.front().bytes();
  speed.seconds = median(seconds[2]);
  const auto bytes = static_cast<double>(speed.bytes);
  const double operations =
      2.0 * static_cast<double>(batch) * static_cast<double>(state_->rows) * static_cast<double>(state_->cols);
  speed.byte_rate = bytes / speed.seconds;
  speed.read_rate = bytes / median(seconds[0]);
  speed.operation_rate = operations / speed.seconds;
  speed.product_rate = operations / median(seconds[1]);
  speed.read_ratio = median(read_ratios);
  speed.product_ratio = median(product_ratios);
  return speed;
}

std::string_view to_string(Activations activations) {
  return activations == Activations::f32 ? "f32" : activations == Activations::bf16 ? "bf16" : "int8";
}

}  // namespace quant
