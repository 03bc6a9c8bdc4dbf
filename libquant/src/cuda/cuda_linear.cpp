#include "quant/cuda_linear.h"

#include <fmt/format.h>

#include <algorithm>

#include "cuda/device_linear.h"
#include "cuda/devices.h"
#include "linalg/check.h"
#include "quant/error.h"

namespace quant {
namespace cuda {

void check_device(int wanted) {
  if (!has_cuda_kernels()) {
    throw Error(ErrorCode::unsupported, "This build has no CUDA kernels.",
                "build with -DQUANT_CUDA=ON where nvcc is installed", "NoCudaKernels");
  }
  const std::vector<CudaDevice> found = cuda_devices();
  if (found.empty()) {
    const std::string trouble = device_trouble();
    throw Error(ErrorCode::unsupported,
                fmt::format("There is no CUDA device of compute capability 8.0 or later on this machine{}.",
                            trouble.empty() ? "" : fmt::format(" (CUDA says: {})", trouble)),
                "check that the driver is installed and nvidia-smi lists the device, or use the processor",
                "NoCudaDevice");
  }
  if (std::ranges::any_of(found, [&](const CudaDevice& one) { return one.index == wanted; })) return;
  std::vector<int> indices;
  for (const CudaDevice& one : found) indices.push_back(one.index);
  throw Error(ErrorCode::usage, fmt::format("There is no CUDA device {}.", wanted),
              fmt::format("use one of: {}", fmt::join(indices, ", ")));
}

}  // namespace cuda

struct CudaLinear::State {
  std::shared_ptr<cuda::Backend> backend;
  cuda::DeviceLinear linear;

  State(std::shared_ptr<cuda::Backend> device, const QuantizedTensor& weight, std::span<const float> bias, bool tuned,
        int threads)
      : backend(std::move(device)), linear(*backend, weight, bias, tuned, threads) {}
  // Products on streams of the caller may still read the weights.
  ~State() { backend->wait(); }
};

std::vector<CudaDevice> cuda_devices() { return cuda::devices(); }
bool has_cuda_kernels() { return cuda::has_kernels(); }

const std::vector<std::string_view>& cuda_kernels() {
  static const std::vector<std::string_view> names{"reference", "tuned"};
  return names;
}

CudaLinear::CudaLinear(const QuantizedTensor& weight, std::span<const float> bias)
    : CudaLinear(weight, bias, Setup{}) {}

CudaLinear::CudaLinear(const QuantizedTensor& weight, std::span<const float> bias, const Setup& setup) {
  check_sizes(weight);
  if (!bias.empty()) linalg::check_matrix("CudaLinear", "bias", bias.size(), weight.rows, 1);
  if (std::ranges::find(cuda_kernels(), setup.kernels) == cuda_kernels().end()) {
    throw Error(ErrorCode::usage, fmt::format("There are no CUDA kernels '{}'.", setup.kernels),
                fmt::format("use one of: {}", fmt::join(cuda_kernels(), ", ")));
  }
  cuda::check_device(setup.device);
  state_ =
      std::make_unique<State>(cuda::backend_of(setup.device), weight, bias, setup.kernels == "tuned", setup.threads);
}

CudaLinear::~CudaLinear() = default;
CudaLinear::CudaLinear(CudaLinear&&) noexcept = default;
CudaLinear& CudaLinear::operator=(CudaLinear&&) noexcept = default;

std::uint64_t CudaLinear::rows() const { return state_->linear.rows(); }
std::uint64_t CudaLinear::cols() const { return state_->linear.cols(); }
std::uint64_t CudaLinear::bytes() const { return state_->linear.bytes(); }
bool CudaLinear::has_tuned_kernel() const { return state_->linear.tuned(); }
bool CudaLinear::has_int8_kernel() const { return state_->linear.int8(); }

void CudaLinear::multiply(std::span<const float> x, std::uint64_t tokens, std::span<float> y,
                          const PackedOptions& options) const {
  linalg::check_matrix("CudaLinear::multiply", "x", x.size(), tokens, cols());
  linalg::check_matrix("CudaLinear::multiply", "y", y.size(), tokens, rows());
  if (y.empty()) return;
  cuda::Backend& backend = *state_->backend;
  const cuda::DeviceBuffer inputs(backend, x.size_bytes(), nullptr), results(backend, y.size_bytes(), nullptr);
  if (!x.empty()) backend.to_device(inputs.as<void>(), x.data(), x.size_bytes(), nullptr);
  state_->linear.multiply(inputs.as<float>(), tokens, results.as<float>(), options, nullptr);
  backend.to_host(y.data(), results.as<void>(), y.size_bytes(), nullptr);
}

void CudaLinear::multiply_on_device(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options,
                                    void* stream) const {
  const auto aligned = [](const float* place) { return reinterpret_cast<std::uintptr_t>(place) % 16 == 0; };
  if (!aligned(x) || !aligned(y)) {
    throw Error(ErrorCode::usage, "CudaLinear::multiply_on_device: x and y have to be aligned to 16 bytes.");
  }
  state_->linear.multiply(x, tokens, y, options, stream);
}

}  // namespace quant
