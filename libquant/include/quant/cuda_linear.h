// y = x W^T + bias straight from packed weights, on a CUDA device.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/packed_linear.h"

namespace quant {

struct CudaDevice {
  int index = 0;
  std::string name;
  std::uint64_t memory = 0;  ///< bytes, of the whole device
  int major = 0, minor = 0;  ///< compute capability; the kernels need 8.0
};

/// The devices that the kernels run on; none where there is no driver, or this build has no CUDA kernels.
std::vector<CudaDevice> cuda_devices();
/// This build has CUDA kernels (QUANT_CUDA).
bool has_cuda_kernels();

/// "reference" (one kernel that takes everything, as plain as can be) and "tuned" (tensor cores, where there is a
/// kernel).
const std::vector<std::string_view>& cuda_kernels();

/// A quantized matrix in the memory of a device. Immutable; usable by several threads at once.
///
/// Results are those of dequantize_row's weights up to rounding, with the bounds of PackedLinear twice over, since
/// tensor cores cut sums off where others round them. The same call gives the same bits. Up to 64 tokens, 2 at least, a
/// token's result does not depend on those beside it (input scales that look at all tokens aside). Other than on
/// processors, Activations::bf16 rounds a single token, too, and Activations::int8 multiplies all integers with whole
/// zero points.
class CudaLinear {
 public:
  struct Setup {
    int device = 0;
    std::string_view kernels = "tuned";  ///< one of cuda_kernels()
    int threads = 1;                     ///< that pack the weights
  };

  /// Packs `weight`, which is not needed afterwards, and copies it to the device. `bias` [rows], or empty. Throws
  /// Error{usage} for sizes that do not fit together, an unknown device or kernels; Error{unsupported} where there is
  /// no device, or no CUDA in this build; Error{io} if the device refuses, for lack of memory in particular.
  explicit CudaLinear(const QuantizedTensor& weight, std::span<const float> bias = {});
  CudaLinear(const QuantizedTensor& weight, std::span<const float> bias, const Setup& setup);
  ~CudaLinear();
  CudaLinear(CudaLinear&&) noexcept;
  CudaLinear& operator=(CudaLinear&&) noexcept;

  std::uint64_t rows() const;
  std::uint64_t cols() const;
  std::uint64_t bytes() const;    ///< device memory of the packed weights, scales, sparse part and bias included
  bool has_tuned_kernel() const;  ///< false: the reference computes it
  bool has_int8_kernel() const;   ///< Activations::int8 multiplies integers

  /// y [tokens, rows] = x [tokens, cols] W^T + bias, row-major, in host memory. Throws Error{usage} if the sizes do not
  /// fit. options.threads is used for inputs that the host quantizes: see multiply_on_device.
  void multiply(std::span<const float> x, std::uint64_t tokens, std::span<float> y, const PackedOptions& options) const;

  /// The same with x and y in the device's memory, aligned to 16 bytes. `stream`: a cudaStream_t of the device, null
  /// for its default stream; work is put on it and not waited for, unless options.input quantizes in a way that no
  /// kernel knows (anything but symmetric 8-bit integers with a scale per token or a static one, multiplied as
  /// integers): then the inputs make a detour through the host.
  void multiply_on_device(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options,
                          void* stream = nullptr) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quant
