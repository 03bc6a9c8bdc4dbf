// oneDNN behind the few calls that this folder makes. All of them must run inside for_tasks or beside a OneThread.
#pragma once

#include <cstdint>
#include <dnnl.hpp>
#include <span>
#include <vector>

namespace quant::linalg {

/// c [m, n] = alpha op(a) op(b) + beta c, row-major; op transposes where the flag says so. One thread.
struct Sgemm {
  bool transpose_a = false;
  bool transpose_b = false;
  float alpha = 1.0F;
  float beta = 0.0F;

  void operator()(std::uint64_t m, std::uint64_t n, std::uint64_t k, const float* a, std::uint64_t lda, const float* b,
                  std::uint64_t ldb, float* c, std::uint64_t ldc) const;
};

/// True where the processor multiplies pairs of BF16 and adds them in float32, and oneDNN makes use of it.
bool has_native_bf16();

const dnnl::engine& cpu_engine();
/// One stream per thread.
dnnl::stream& cpu_stream();

/// The Error for what oneDNN threw; std::bad_alloc if memory ran out.
[[noreturn]] void throw_onednn(const dnnl::error& error);

/// Calls `action`, with oneDNN's exceptions turned into ours.
template <class Action>
auto with_onednn(const Action& action) {
  try {
    return action();
  } catch (const dnnl::error& error) {
    throw_onednn(error);
  }
}

using Type = dnnl::memory::data_type;

/// A matrix product of one shape: source [m, k], weights [k, n], float32 result [m, n].
class Matmul {
 public:
  /// `accumulate`: adds to the result instead of setting it.
  Matmul(const dnnl::memory::desc& source, const dnnl::memory::desc& weights, const dnnl::memory::desc& result,
         bool accumulate);

  dnnl::memory::desc weights() const { return weights_; }
  /// `scratch` is the calling thread's, and grows as needed.
  void run(const void* source, const void* weights, float* result, std::vector<std::byte>& scratch) const;

 private:
  dnnl::memory::desc source_, weights_, result_, scratchpad_;
  dnnl::matmul primitive_;
};

/// A row-major matrix, or one with the given strides.
dnnl::memory::desc matrix(std::uint64_t rows, std::uint64_t cols, Type type, std::uint64_t row_stride,
                          std::uint64_t col_stride);
/// A matrix whose layout oneDNN chooses.
dnnl::memory::desc any_matrix(std::uint64_t rows, std::uint64_t cols, Type type);

}  // namespace quant::linalg
