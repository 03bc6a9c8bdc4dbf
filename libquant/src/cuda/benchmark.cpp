// Products on a device beside copying and cuBLASLt, each in turns.
#include "quant/benchmark.h"

#include <algorithm>
#include <array>
#include <functional>

#include "cuda/cuda_backend.h"
#include "cuda/devices.h"
#include "linalg/parallel.h"
#include "packed/benchmark_codecs.h"
#include "quant/cuda_linear.h"
#include "quant/error.h"
#include "quant/kernel_benchmark.h"

namespace quant {
namespace {

constexpr std::uint64_t kMemory = std::uint64_t{256} << 20;  // of weights that take turns: several times the L2 cache
constexpr double kLeastSeconds = 2e-3;                       // of one measurement

}  // namespace

struct CudaKernelBenchmark::State {
  const packed::BenchmarkCodec* codec = nullptr;
  std::uint64_t rows = 0, cols = 0;
  std::shared_ptr<cuda::CudaBackend> backend;
  std::vector<CudaLinear> copies;
  cuda::DeviceBuffer memory;       // half of it is copied to the other half
  cuda::DeviceBuffer half_weight;  // F16 numbers

  std::uint64_t bytes() const { return copies.front().bytes(); }
  double seconds_of_one(const std::function<void()>& action) const;
  KernelSpeed speed_of(const std::array<std::vector<double>, 3>& seconds, std::uint64_t batch) const;
  void copy() const { backend->copy_on_device(memory.as<std::byte>() + kMemory, memory.as<void>(), kMemory, nullptr); }
};

// As many calls as take a few milliseconds.
double CudaKernelBenchmark::State::seconds_of_one(const std::function<void()>& action) const {
  for (int count = 1;; count *= 2) {
    const double seconds = backend->seconds_of([&] {
      for (int i = 0; i < count; ++i) action();
    });
    if (seconds >= kLeastSeconds || count >= 1 << 16) return seconds / count;
  }
}

KernelSpeed CudaKernelBenchmark::State::speed_of(const std::array<std::vector<double>, 3>& seconds,
                                                 std::uint64_t batch) const {
  KernelSpeed speed;
  speed.bytes = bytes();
  speed.seconds = median(seconds[2]);
  const auto count = static_cast<double>(speed.bytes), copied = 2.0 * static_cast<double>(kMemory);
  const double operations = 2.0 * static_cast<double>(batch) * static_cast<double>(rows) * static_cast<double>(cols);
  std::vector<double> copy_ratios, product_ratios;
  for (std::size_t i = 0; i < seconds[2].size(); ++i) {
    copy_ratios.push_back(count / seconds[2][i] * seconds[0][i] / copied);
    product_ratios.push_back(seconds[1][i] / seconds[2][i]);
  }
  speed.byte_rate = count / speed.seconds;
  speed.read_rate = copied / median(seconds[0]);
  speed.operation_rate = operations / speed.seconds;
  const double product = median(seconds[1]);
  speed.product_rate = product > 0.0 ? operations / product : 0.0;
  speed.read_ratio = median(copy_ratios);
  speed.product_ratio = median(product_ratios);
  return speed;
}

CudaKernelBenchmark::CudaKernelBenchmark(std::string_view codec, std::uint64_t rows, std::uint64_t cols, int device)
    : state_(std::make_unique<State>()) {
  packed::check_benchmark_shape(rows, cols);
  state_->codec = &packed::benchmark_codec(codec);
  cuda::check_device(device);
  state_->rows = rows;
  state_->cols = cols;
  state_->backend = std::static_pointer_cast<cuda::CudaBackend>(cuda::backend_of(device));
  const int threads = linalg::team_size(1 << 10, 1 << 10);
  const QuantizedTensor tensor = packed::made_up_weight(state_->codec->args, rows, cols);
  const CudaLinear::Setup setup{.device = device, .kernels = "tuned", .threads = threads};
  state_->copies.emplace_back(tensor, std::span<const float>{}, setup);
  const std::uint64_t copies = std::clamp<std::uint64_t>(kMemory / std::max<std::uint64_t>(1, state_->bytes()), 1, 64);
  while (state_->copies.size() < copies) state_->copies.emplace_back(tensor, std::span<const float>{}, setup);
  state_->memory = cuda::DeviceBuffer(*state_->backend, 2 * kMemory, nullptr);
  std::vector<std::uint16_t> halves;
  for (const float value : packed::made_up_inputs(rows * cols)) halves.push_back(f32_to_f16(value));
  state_->half_weight = cuda::DeviceBuffer(*state_->backend, halves.size() * sizeof(std::uint16_t), nullptr);
  state_->backend->to_device(state_->half_weight.as<void>(), halves.data(), state_->half_weight.size(), nullptr);
}

CudaKernelBenchmark::~CudaKernelBenchmark() = default;

std::vector<Activations> CudaKernelBenchmark::activations() const { return state_->codec->activations; }

KernelSpeed CudaKernelBenchmark::measure(Activations activations, std::uint64_t batch, int rounds) const {
  if (rounds < 1 || batch < 1) throw Error(ErrorCode::usage, "A benchmark needs at least one token and one round.");
  const State& state = *state_;
  cuda::CudaBackend& backend = *state.backend;
  const std::vector<float> inputs = packed::made_up_inputs(batch * state.cols, state.codec->threshold);
  const cuda::DeviceBuffer x(backend, inputs.size() * sizeof(float), nullptr);
  const cuda::DeviceBuffer y(backend, batch * state.rows * sizeof(float), nullptr);
  backend.to_device(x.as<void>(), inputs.data(), x.size(), nullptr);
  InputQuantizer per_token;
  per_token.args.strategy = Strategy::token;
  per_token.args.outlier_threshold = state.codec->threshold;
  const PackedOptions options{activations, 1, state.codec->token_inputs ? &per_token : nullptr};
  const bool library = backend.multiplies_dense();
  // The library's inputs are the float ones' bytes: which numbers they are changes no time.
  const cuda::DenseProduct dense{
      state.half_weight.as<void>(), x.as<void>(), y.as<float>(), state.rows, batch, state.cols, state.rows, false};
  std::size_t turn = 0;
  const std::array<std::function<void()>, 3> actions{[&] { state.copy(); },
                                                     [&] {
                                                       if (library)
                                                         backend.multiply_dense(dense, cuda::DenseType::f16, nullptr);
                                                     },
                                                     [&] {
                                                       state.copies[turn++ % state.copies.size()].multiply_on_device(
                                                           x.as<float>(), batch, y.as<float>(), options);
                                                     }};
  std::array<std::vector<double>, 3> seconds;
  for (const auto& action : actions) action();
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < 3; ++i) {  // each comes first, second and third in turn
      const std::size_t which = (i + static_cast<std::size_t>(round)) % 3;
      seconds[which].push_back(which == 1 && !library ? 0.0 : state.seconds_of_one(actions[which]));
    }
  }
  return state.speed_of(seconds, batch);
}

}  // namespace quant
