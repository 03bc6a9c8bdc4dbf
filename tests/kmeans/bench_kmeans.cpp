// Seconds of exact weighted k-means per channel on a Gaussian matrix: bench_kmeans [BITS [SIZE]]. Not run by CTest.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "quant/kmeans.h"

int main(int argc, char** argv) {
  const int bits = argc > 1 ? std::atoi(argv[1]) : 4;
  const std::uint64_t size = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 4096;
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<float> weight(size * size), importance(size);
  for (float& w : weight) w = normal(random);
  for (float& h : importance) h = std::exp(50 * normal(random));
  quant::QuantArgs args;
  args.type = quant::NumberType::codebook;
  args.num_bits = bits;
  args.strategy = quant::Strategy::channel;
  for (const auto method : {quant::KMeansMethod::exact, quant::KMeansMethod::lloyd}) {
    const auto start = std::chrono::steady_clock::now();
    const auto out = quant::kmeans_quantize(quant::f32_view(weight, size, size), args, importance, {method, false});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    double error = 0;
    std::vector<float> row(size);
    for (std::uint64_t r = 0; r < size; ++r) {
      quant::dequantize_row(out, r, row);
      for (std::uint64_t c = 0; c < size; ++c) {
        const double e = static_cast<double>(weight[r * size + c]) - static_cast<double>(row[c]);
        error += static_cast<double>(importance[c]) * e * e;
      }
    }
    std::printf("%d bits, %llu x %llu, %s: %.2f s, weighted error %.6g\n", bits, static_cast<unsigned long long>(size),
                static_cast<unsigned long long>(size), std::string(to_string(method)).c_str(), seconds, error);
  }
}
