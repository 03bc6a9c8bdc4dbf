// Speeds of products with packed weights beside their limits: what `quant bench kernels` prints.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quant/packed_linear.h"

namespace quant {

struct KernelSpeed {
  std::uint64_t bytes = 0;    ///< of the packed weights, scales included
  double seconds = 0;         ///< of one product, median over the rounds
  double byte_rate = 0;       ///< bytes per second, from that median
  double read_rate = 0;       ///< at which the same threads read as many bytes of memory
  double operation_rate = 0;  ///< 2 * batch * rows * cols per second
  double product_rate = 0;    ///< of oneDNN's product of that shape, weights dequantized beforehand
  double read_ratio = 0;      ///< median over the rounds of the ratio within one round
  double product_ratio = 0;   ///< likewise
};

/// One codec and shape. Weights are made up; several copies of them take turns, so that a few tokens find them in
/// memory rather than in the cache.
class KernelBenchmark {
 public:
  /// Throws Error{usage} for a codec that is not in codecs(), or sizes outside 1 .. 2^20.
  KernelBenchmark(std::string_view codec, std::uint64_t rows, std::uint64_t cols, int threads);
  ~KernelBenchmark();

  /// "int8 channel", "w8a8", "int4 g128", ...
  static const std::vector<std::string_view>& codecs();
  /// Which inputs there are kernels for.
  std::vector<Activations> activations() const;
  /// The limits and the product in turns, each for a few milliseconds at least. The product's limit has the type of
  /// the inputs: float32, BF16, or 8-bit integers. With one thread the time is what the processor spent.
  KernelSpeed measure(Activations activations, std::uint64_t batch, int rounds) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The same on a CUDA device. Its limits are other ones: read_rate is that of copying on the device, bytes read and
/// written counted, and product_rate cuBLASLt's FP16 product with dequantized weights (0 where the library is not
/// found). Inputs and results stay on the device; times are those of its clock.
class CudaKernelBenchmark {
 public:
  /// Throws as KernelBenchmark and CudaLinear do.
  CudaKernelBenchmark(std::string_view codec, std::uint64_t rows, std::uint64_t cols, int device);
  ~CudaKernelBenchmark();

  std::vector<Activations> activations() const;
  KernelSpeed measure(Activations activations, std::uint64_t batch, int rounds) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// "f32", "bf16", "int8".
std::string_view to_string(Activations activations);

}  // namespace quant
