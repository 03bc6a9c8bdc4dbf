// Devices of this machine: with CUDA (cuda_backend.cpp) or without (no_cuda.cpp).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cuda/backend.h"
#include "quant/cuda_linear.h"

namespace quant::cuda {

bool has_kernels();
std::vector<CudaDevice> devices();
/// Why CUDA cannot say which devices there are (no driver, too old a one, ...), or nothing.
std::string device_trouble();
/// Throws the errors of CudaLinear's constructor unless devices() has that one.
void check_device(int wanted);
/// One backend per device for the whole process; `device` is one of devices().
std::shared_ptr<Backend> backend_of(int device);

}  // namespace quant::cuda
