#include "cuda/devices.h"
#include "quant/error.h"

namespace quant::cuda {

bool has_kernels() { return false; }
std::vector<CudaDevice> devices() { return {}; }
std::shared_ptr<Backend> backend_of(int) {
  throw Error(ErrorCode::internal, "A build without CUDA kernels was asked for a device.");
}

}  // namespace quant::cuda
