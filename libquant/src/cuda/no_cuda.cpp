#include "cuda/devices.h"
#include "quant/error.h"
#include "quant/kernel_benchmark.h"

namespace quant::cuda {

bool has_kernels() { return false; }
std::vector<CudaDevice> devices() { return {}; }
std::string device_trouble() { return {}; }
std::shared_ptr<Backend> backend_of(int) {
  throw Error(ErrorCode::internal, "A build without CUDA kernels was asked for a device.");
}

}  // namespace quant::cuda

namespace quant {

struct CudaKernelBenchmark::State {};
CudaKernelBenchmark::CudaKernelBenchmark(std::string_view, std::uint64_t, std::uint64_t, int device) {
  cuda::check_device(device);
}
CudaKernelBenchmark::~CudaKernelBenchmark() = default;
std::vector<Activations> CudaKernelBenchmark::activations() const { return {}; }
KernelSpeed CudaKernelBenchmark::measure(Activations, std::uint64_t, int) const { return {}; }

}  // namespace quant
