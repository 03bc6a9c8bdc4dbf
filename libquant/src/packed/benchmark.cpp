#include "quant/benchmark.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>

#include "kernels/packed/packed_dispatch.h"
#include "linalg/parallel.h"
#include "packed/aligned_buffer.h"
#include "packed/benchmark_codecs.h"
#include "quant/error.h"
#include "quant/kernel_benchmark.h"

namespace quant {
namespace {

using linalg::pieces;
using packed::BenchmarkCodec;

// More than caches hold.
constexpr std::uint64_t kMemory = std::uint64_t{192} << 20;
constexpr std::uint64_t kManyTokens = 16;  // from here on weights are read once for many products

}  // namespace

struct KernelBenchmark::State {
  const BenchmarkCodec* codec = nullptr;
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
  packed::check_benchmark_shape(rows, cols);
  state_->codec = &packed::benchmark_codec(codec);
  state_->rows = rows;
  state_->cols = cols;
  state_->threads = threads;
  const QuantizedTensor tensor = packed::made_up_weight(state_->codec->args, rows, cols);
  state_->copies.emplace_back(tensor, std::span<const float>{}, threads);
  const std::uint64_t bytes = std::max<std::uint64_t>(1024, state_->copies.front().bytes());
  const std::uint64_t copies = std::clamp<std::uint64_t>(kMemory / bytes, 1, 64);
  while (state_->copies.size() < copies) state_->copies.emplace_back(tensor, std::span<const float>{}, threads);
  state_->memory = packed::AlignedBuffer(std::max(kMemory, bytes));
}

KernelBenchmark::~KernelBenchmark() = default;

const std::vector<std::string_view>& KernelBenchmark::codecs() { return packed::benchmark_codec_names(); }

std::vector<Activations> KernelBenchmark::activations() const { return state_->codec->activations; }

KernelSpeed KernelBenchmark::measure(Activations activations, std::uint64_t batch, int rounds) const {
  if (rounds < 1 || batch < 1) throw Error(ErrorCode::usage, "A benchmark needs at least one token and one round.");
  const std::vector<float> x = packed::made_up_inputs(batch * state_->cols, state_->codec->threshold);
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
