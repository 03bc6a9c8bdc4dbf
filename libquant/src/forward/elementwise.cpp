#include "forward/elementwise.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "linalg/parallel.h"
#include "quant/error.h"
#include "quant/kernels.h"

namespace quant::forward {
namespace {

using linalg::for_tasks;
using linalg::pieces;

constexpr std::uint64_t kElements = 1U << 16;  // of a task: enough to be worth a thread's while

// body(first, count) for ranges of elements.
template <class Body>
void for_elements(std::uint64_t total, int threads, const Body& body) {
  for_tasks(threads, pieces(total, kElements), [&](std::size_t task) {
    const std::uint64_t first = task * kElements;
    body(first, std::min(kElements, total - first));
  });
}

// body(row) for rows of `width` elements.
template <class Body>
void for_rows(std::uint64_t rows, std::uint64_t width, int threads, const Body& body) {
  const std::uint64_t step = std::max<std::uint64_t>(1, kElements / std::max<std::uint64_t>(1, width));
  for_tasks(threads, pieces(rows, step), [&](std::size_t task) {
    const std::uint64_t end = std::min(rows, (task + 1) * step);
    for (std::uint64_t row = task * step; row < end; ++row) body(row);
  });
}

MathFunction math_function(Activation function) {
  switch (function) {
    case Activation::silu:
      return MathFunction::silu;
    case Activation::gelu:
      return MathFunction::gelu;
    case Activation::gelu_tanh:
      return MathFunction::gelu_tanh;
    case Activation::quick_gelu:
      return MathFunction::quick_gelu;
    case Activation::relu:
      return MathFunction::relu;
    case Activation::relu2:
      return MathFunction::relu2;
    case Activation::tanh:
      return MathFunction::tanh;
    case Activation::sigmoid:
      return MathFunction::sigmoid;
  }
  throw Error(ErrorCode::internal, "an activation function without a kernel");
}

struct Moments {
  float mean = 0.0F;
  float inverse = 0.0F;  // 1 / sqrt(mean square + epsilon)
};

Moments moments(const NormOp& op, const float* x, std::uint64_t n) {
  const MathKernels& math = kernels().math;
  Moments m;
  if (op.kind == NormKind::layer) m.mean = static_cast<float>(math.sum(x, n) / static_cast<double>(n));
  const double square = math.sum_squares(x, m.mean, n) / static_cast<double>(n);
  m.inverse = static_cast<float>(1.0 / std::sqrt(square + static_cast<double>(op.epsilon)));
  return m;
}

// out = (x - mean) * inverse * weight + bias for one piece; weight and bias may be null.
void normalize_piece(const Moments& m, const float* x, const float* weight, const float* bias, float plus, float* out,
                     std::uint64_t n) {
  if (weight == nullptr) {
    for (std::uint64_t i = 0; i < n; ++i) out[i] = (x[i] - m.mean) * m.inverse;
  } else if (bias == nullptr) {
    for (std::uint64_t i = 0; i < n; ++i) out[i] = (x[i] - m.mean) * m.inverse * (weight[i] + plus);
  } else {
    for (std::uint64_t i = 0; i < n; ++i) out[i] = (x[i] - m.mean) * m.inverse * (weight[i] + plus) + bias[i];
  }
}

void check_norm(const NormOp& op, ConstFloats values, const char* what, std::uint64_t group, std::uint64_t width) {
  if (values.empty() || values.size() == group || values.size() == width) return;
  throw Error(ErrorCode::corrupt_file,
              fmt::format("the {} of '{}' has {} values for rows of {}", what, op.module, values.size(), width),
              "config.json and the tensors do not fit together", "WeightShape");
}

}  // namespace

void normalize(const NormOp& op, ConstFloats weight, ConstFloats bias, ConstFloats in, std::uint64_t width, Floats out,
               int threads) {
  const std::uint64_t group = op.group == 0 ? width : op.group;
  if (group == 0 || width % group != 0) {
    throw Error(ErrorCode::internal,
                fmt::format("'{}' normalizes groups of {} in rows of {}", op.module, group, width));
  }
  check_norm(op, weight, "weight", group, width);
  check_norm(op, bias, "bias", group, width);
  if (weight.empty() && !bias.empty()) {
    throw Error(ErrorCode::unsupported, fmt::format("'{}' has a bias but no weight", op.module));
  }
  const float plus = op.plus_one ? 1.0F : 0.0F;
  for_rows(in.size() / width, width, threads, [&](std::uint64_t row) {
    for (std::uint64_t first = 0; first < width; first += group) {
      const float* x = in.data() + row * width + first;
      const auto piece = [&](ConstFloats v) {
        return v.empty() ? nullptr : v.data() + (v.size() == width ? first : 0);
      };
      normalize_piece(moments(op, x, group), x, piece(weight), piece(bias), plus, out.data() + row * width + first,
                      group);
    }
  });
}

void activate(Activation function, ConstFloats in, Floats out, int threads) {
  const MathFunction math = math_function(function);
  for_elements(in.size(), threads, [&](std::uint64_t first, std::uint64_t count) {
    kernels().math.apply(math, in.data() + first, out.data() + first, count);
  });
}

void multiply(ConstFloats a, ConstFloats b, std::uint64_t width, Floats out, int threads) {
  if (a.size() == b.size()) {
    for_elements(a.size(), threads, [&](std::uint64_t first, std::uint64_t count) {
      for (std::uint64_t i = first; i < first + count; ++i) out[i] = a[i] * b[i];
    });
    return;
  }
  for_rows(b.size(), width, threads, [&](std::uint64_t row) {
    const float factor = b[row];
    for (std::uint64_t i = row * width; i < (row + 1) * width; ++i) out[i] = a[i] * factor;
  });
}

void add(ConstFloats a, ConstFloats b, Floats out, int threads) {
  for_elements(a.size(), threads, [&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = first; i < first + count; ++i) out[i] = a[i] + b[i];
  });
}

void scale(float factor, ConstFloats in, Floats out, int threads) {
  for_elements(in.size(), threads, [&](std::uint64_t first, std::uint64_t count) {
    for (std::uint64_t i = first; i < first + count; ++i) out[i] = in[i] * factor;
  });
}

void softcap(float cap, ConstFloats in, Floats out, int threads) {
  for_elements(in.size(), threads, [&](std::uint64_t first, std::uint64_t count) {
    kernels().math.softcap(cap, in.data() + first, out.data() + first, count);
  });
}

void add_bias(ConstFloats bias, Floats x, int threads) {
  const std::uint64_t width = bias.size();
  for_rows(width == 0 ? 0 : x.size() / width, width, threads, [&](std::uint64_t row) {
    float* at = x.data() + row * width;
    for (std::uint64_t i = 0; i < width; ++i) at[i] += bias[i];
  });
}

void slice(const SliceOp& op, ConstFloats in, std::uint64_t in_width, Floats out, int threads) {
  const std::uint64_t out_width = op.width * op.repeat;
  for_rows(out_width == 0 ? 0 : out.size() / out_width, out_width, threads, [&](std::uint64_t row) {
    const float* from = in.data() + row * in_width + op.first;
    float* to = out.data() + row * out_width;
    for (std::uint64_t i = 0; i < op.repeat; ++i) std::copy_n(from + i * op.stride, op.width, to + i * op.width);
  });
}

}  // namespace quant::forward
