#include "linalg/onednn.h"

#include <fmt/format.h>

#include <new>

#include "quant/error.h"

namespace quant::linalg {
namespace {

dnnl::memory::dim dim(std::uint64_t value) { return static_cast<dnnl::memory::dim>(value); }

dnnl::matmul::primitive_desc describe(const dnnl::memory::desc& source, const dnnl::memory::desc& weights,
                                      const dnnl::memory::desc& result, bool accumulate) {
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  if (accumulate) {
    dnnl::post_ops operations;
    operations.append_sum(1.0F);
    attributes.set_post_ops(operations);
  }
  return {dnnl::matmul::desc(source, weights, result), attributes, cpu_engine()};
}

}  // namespace

void throw_onednn(const dnnl::error& error) {
  if (error.status == dnnl_out_of_memory) throw std::bad_alloc();
  throw Error(ErrorCode::internal, fmt::format("oneDNN refused a matrix product: {}.", error.what()),
              "This is a defect: please report it with the processor's name.");
}

void Sgemm::operator()(std::uint64_t m, std::uint64_t n, std::uint64_t k, const float* a, std::uint64_t lda,
                       const float* b, std::uint64_t ldb, float* c, std::uint64_t ldc) const {
  const auto status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', dim(m), dim(n), dim(k), alpha, a,
                                 dim(lda), b, dim(ldb), beta, c, dim(ldc));
  if (status != dnnl_success) throw_onednn(dnnl::error(status, "sgemm failed"));
}

bool has_native_bf16() {
  // Names of instruction sets are sets of bits: one that has another's bits can do what that other can.
  constexpr auto kBf16 = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
  return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & kBf16) == kBf16;
}

const dnnl::engine& cpu_engine() {
  static const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  return engine;
}

dnnl::stream& cpu_stream() {
  thread_local dnnl::stream stream(cpu_engine());
  return stream;
}

Matmul::Matmul(const dnnl::memory::desc& source, const dnnl::memory::desc& weights, const dnnl::memory::desc& result,
               bool accumulate) {
  const auto description = describe(source, weights, result, accumulate);
  source_ = description.src_desc();
  weights_ = description.weights_desc();
  result_ = description.dst_desc();
  scratchpad_ = description.scratchpad_desc();
  primitive_ = dnnl::matmul(description);
}

void Matmul::run(const void* source, const void* weights, float* result, std::vector<std::byte>& scratch) const {
  if (scratch.size() < scratchpad_.get_size()) scratch.resize(scratchpad_.get_size());
  // oneDNN's handles are not const, but a product does not write its operands.
  dnnl::memory in(source_, cpu_engine(), const_cast<void*>(source));
  dnnl::memory by(weights_, cpu_engine(), const_cast<void*>(weights));
  dnnl::memory out(result_, cpu_engine(), result);
  dnnl::memory extra(scratchpad_, cpu_engine(), scratch.data());
  primitive_.execute(cpu_stream(),
                     {{DNNL_ARG_SRC, in}, {DNNL_ARG_WEIGHTS, by}, {DNNL_ARG_DST, out}, {DNNL_ARG_SCRATCHPAD, extra}});
}

dnnl::memory::desc matrix(std::uint64_t rows, std::uint64_t cols, Type type, std::uint64_t row_stride,
                          std::uint64_t col_stride) {
  return {{dim(rows), dim(cols)}, type, dnnl::memory::dims{dim(row_stride), dim(col_stride)}};
}

dnnl::memory::desc any_matrix(std::uint64_t rows, std::uint64_t cols, Type type) {
  return {{dim(rows), dim(cols)}, type, dnnl::memory::format_tag::any};
}

}  // namespace quant::linalg
