// Linears: quantization of their inputs, products, biases; one weight, or one per expert.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "forward/execution.h"
#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant::forward {
namespace {

constexpr std::uint64_t kElements = 1U << 16;  // of a task

bool same(const InputQuantizer* a, const InputQuantizer* b) {
  if (a == nullptr || b == nullptr) return a == b;
  return a->args == b->args && a->scale == b->scale && a->zero_point == b->zero_point;
}

bool same(const std::vector<const InputQuantizer*>& a, const std::vector<const InputQuantizer*>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const InputQuantizer* x, const InputQuantizer* y) { return same(x, y); });
}

// One scale, or the columns that stay float, follow from all rows, so that it matters which rows come together.
bool looks_at_all_rows(const InputQuantizer& q) {
  if (q.args.outlier_threshold > 0) return true;
  const bool whole = q.args.strategy == Strategy::tensor || is_nvfp4(q.args);
  return whole && q.scale == 0.0F;
}

void copy_values(ConstFloats from, float* to, int threads) {
  linalg::for_tasks(threads, linalg::pieces(from.size(), kElements), [&](std::size_t task) {
    const std::uint64_t first = task * kElements;
    std::copy_n(from.data() + first, std::min(kElements, from.size() - first), to + first);
  });
}

}  // namespace

// Ends of the runs of rows in [first, end) that belong to one sequence.
std::vector<std::uint64_t> Execution::segment_ends(std::uint64_t first, std::uint64_t end,
                                                   const RouteIndex* index) const {
  std::vector<std::uint64_t> ends;
  const auto sequence_of = [&](std::uint64_t row) {
    const std::uint64_t token = index == nullptr ? row : index->tokens[row];
    const auto after = std::upper_bound(sequences_.begin(), sequences_.end(), token,
                                        [](std::uint64_t t, const Sequence& s) { return t < s.first; });
    return after - sequences_.begin();
  };
  for (std::uint64_t row = first; row < end; ++row) {
    if (row + 1 == end || sequence_of(row) != sequence_of(row + 1)) ends.push_back(row + 1);
  }
  return ends;
}

// Rows [first, end) of x. Scales that look at all rows look at those of one sequence, whatever the batch.
void Execution::quantize_rows(const InputQuantizer& quantizer, Floats x, std::uint64_t first, std::uint64_t end,
                              const RouteIndex* index) {
  if (first == end) return;
  const std::uint64_t rows = index == nullptr ? tokens_ : index->tokens.size();
  const std::uint64_t columns = x.size() / rows;
  const std::vector<std::uint64_t> ends =
      looks_at_all_rows(quantizer) ? segment_ends(first, end, index) : std::vector<std::uint64_t>{end};
  for (const std::uint64_t segment_end : ends) {
    fake_quantize_rows(x.subspan(first * columns, (segment_end - first) * columns), segment_end - first, quantizer,
                       threads_);
    first = segment_end;
  }
}

// The input as the products see it: quantized where a quantizer is set for the module.
ConstFloats Execution::quantized_input(const LinearOp& op, ConstFloats in) {
  std::vector<const InputQuantizer*> quantizers;
  bool any = false;
  for (const LinearWeight& weight : op.weights) {
    const auto found = state_.input_quantizers.find(weight.module);
    quantizers.push_back(found == state_.input_quantizers.end() ? nullptr : &found->second);
    any = any || quantizers.back() != nullptr;
  }
  if (!any) return in;
  if (quantized_.id == op.in && same(quantized_.quantizers, quantizers)) return quantized_.values;
  pool_.give(std::exchange(quantized_.values, {}));
  quantized_.id = op.in;
  quantized_.values = pool_.take(in.size());
  copy_values(in, quantized_.values.data(), threads_);
  if (op.routing < 0) {
    quantize_rows(*quantizers.front(), quantized_.values, 0, tokens_, nullptr);
  } else {
    const RouteIndex& index = routes(op.routing);
    for (std::size_t e = 0; e < quantizers.size(); ++e) {
      if (quantizers[e] == nullptr) continue;
      quantize_rows(*quantizers[e], quantized_.values, index.offsets[e], index.offsets[e + 1], &index);
    }
  }
  quantized_.quantizers = std::move(quantizers);
  return quantized_.values;
}

// A row that is alone with its expert is multiplied beside a row of zeros: products of one token may round otherwise,
// and how many rows an expert gets depends on the batch.
void Execution::run_experts(const LinearOp& op, const PreparedOp& prepared, ConstFloats in, Floats out) {
  const RouteIndex& index = routes(op.routing);
  const std::uint64_t in_width = width(op.in), out_width = width(op.out);
  if (index.offsets.size() != op.weights.size() + 1 || in.size() != index.tokens.size() * in_width) {
    throw Error(ErrorCode::internal,
                fmt::format("'{}' has {} experts and {} rows; its routing has {} and {}", name(op.in),
                            op.weights.size(), in.size() / in_width, index.offsets.size() - 1, index.tokens.size()));
  }
  for (std::size_t e = 0; e < op.weights.size(); ++e) {
    const std::uint64_t first = index.offsets[e], rows = index.offsets[e + 1] - first;
    if (rows == 0) continue;
    const ConstFloats x = in.subspan(first * in_width, rows * in_width);
    const Floats y = out.subspan(first * out_width, rows * out_width);
    if (rows == 1 && tokens_ > 1) {
      std::vector<float> two(2 * in_width, 0.0F), result(2 * out_width);
      std::copy(x.begin(), x.end(), two.begin());
      prepared.products[e].run(two, 2, result, threads_);
      std::copy_n(result.begin(), out_width, y.begin());
    } else {
      prepared.products[e].run(x, rows, y, threads_);
    }
    if (!prepared.biases[e].empty()) add_bias(prepared.biases[e], y, threads_);
  }
}

// Inputs that the scheme quantizes to integers, if there is a kernel that multiplies them as such.
bool Execution::run_integers(const LinearOp& op, const PreparedOp& prepared) {
  const auto found = state_.input_quantizers.find(op.weights.front().module);
  const PreparedLinear& product = prepared.products.at(0);
  if (found == state_.input_quantizers.end() || !product.takes_integers(found->second)) return false;
  const ConstFloats in = token_input(op.in);
  const std::uint64_t in_width = width(op.in), out_width = width(op.out);
  const Floats out = output(op.out, tokens_);
  std::uint64_t first = 0;
  const bool all = looks_at_all_rows(found->second);
  for (const std::uint64_t end : all ? segment_ends(0, tokens_, nullptr) : std::vector<std::uint64_t>{tokens_}) {
    product.run_integers(in.subspan(first * in_width, (end - first) * in_width), end - first,
                         out.subspan(first * out_width, (end - first) * out_width), found->second, threads_);
    first = end;
  }
  if (!prepared.biases[0].empty()) add_bias(prepared.biases[0], out, threads_);
  return true;
}

void Execution::execute(const LinearOp& op) {
  for (const LinearWeight& weight : op.weights) {
    if (weight.cols == width(op.in) && weight.rows == width(op.out)) continue;
    throw Error(ErrorCode::internal, fmt::format("'{}' [{}, {}] does not fit '{}' and '{}'", weight.module, weight.rows,
                                                 weight.cols, name(op.in), name(op.out)));
  }
  const PreparedOp& prepared = state_.prepare(current_);
  const bool experts = op.routing >= 0;
  if (!experts && run_integers(op, prepared)) return;
  const ConstFloats in = quantized_input(op, experts ? input(op.in) : token_input(op.in));
  const Floats out = output(op.out, in.size() / width(op.in));
  if (experts) return run_experts(op, prepared, in, out);
  prepared.products.at(0).run(in, tokens_, out, threads_);
  if (!prepared.biases[0].empty()) add_bias(prepared.biases[0], out, threads_);
}

}  // namespace quant::forward
