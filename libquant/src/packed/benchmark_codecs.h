// What benchmarks of products with packed weights multiply, on processors and on devices.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "quant/packed_linear.h"

namespace quant::packed {

struct BenchmarkCodec {
  std::string_view name;
  QuantArgs args;
  std::vector<Activations> activations;
  bool token_inputs = false;  ///< the scheme quantizes them, with a scale per token
  double threshold = 0;       ///< of columns that stay float: one in 256 of the inputs does
};

/// Throws Error{usage} for another name than those of benchmark_codec_names().
const BenchmarkCodec& benchmark_codec(std::string_view name);
const std::vector<std::string_view>& benchmark_codec_names();
/// Throws Error{usage} unless both are within 1 .. 2^20.
void check_benchmark_shape(std::uint64_t rows, std::uint64_t cols);

/// Codes without a pattern, scales that BF16 holds.
QuantizedTensor made_up_weight(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);
/// Numbers in [-0.5, 0.5), and with a threshold one in 256 beyond it.
std::vector<float> made_up_inputs(std::uint64_t count, double threshold = 0);

}  // namespace quant::packed
