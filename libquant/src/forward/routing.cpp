#include "forward/routing.h"

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

constexpr std::uint64_t kTokens = 64;  // of a task

std::uint64_t expert_at(ConstFloats routing, std::uint64_t at, std::uint64_t experts) {
  const float number = routing[at];
  if (number >= 0.0F && number < static_cast<float>(experts)) return static_cast<std::uint64_t>(number);
  throw Error(ErrorCode::internal, fmt::format("a routing value names expert {} of {}", number, experts));
}

// The places of the k largest values, the first of equal ones first. NaN is chosen last.
void choose(const float* values, std::uint64_t n, std::uint64_t k, std::vector<char>& taken, float* numbers) {
  std::fill(taken.begin(), taken.end(), char{0});
  for (std::uint64_t i = 0; i < k; ++i) {
    std::uint64_t best = n;
    for (std::uint64_t e = 0; e < n; ++e) {
      if (taken[e] != 0) continue;
      if (best == n || values[e] > values[best] || (std::isnan(values[best]) && !std::isnan(values[e]))) best = e;
    }
    taken[best] = 1;
    numbers[i] = static_cast<float>(best);
  }
}

void weigh(const RouteOp& op, const float* logits, std::vector<float>& scratch, float* out) {
  const std::uint64_t k = op.top_k;
  const float* numbers = out;
  float* weights = out + k;
  if (op.softmax_first) {
    std::copy_n(logits, op.experts, scratch.begin());
    const double sum = kernels().math.softmax(scratch.data(), op.experts);
    for (std::uint64_t i = 0; i < k; ++i) {
      weights[i] = static_cast<float>(static_cast<double>(scratch[static_cast<std::size_t>(numbers[i])]) / sum);
    }
  } else {
    for (std::uint64_t i = 0; i < k; ++i) weights[i] = logits[static_cast<std::size_t>(numbers[i])];
    const double sum = kernels().math.softmax(weights, k);
    for (std::uint64_t i = 0; i < k; ++i) weights[i] = static_cast<float>(static_cast<double>(weights[i]) / sum);
  }
  double total = 0;
  for (std::uint64_t i = 0; i < k; ++i) total += static_cast<double>(weights[i]);
  for (std::uint64_t i = 0; i < k; ++i) {
    if (op.normalize) weights[i] = static_cast<float>(static_cast<double>(weights[i]) / total);
    weights[i] *= op.factor;
  }
}

// Rows of chosen experts, sorted by expert and then by token.
void index_chosen(ConstFloats routing, std::uint64_t tokens, std::uint64_t experts, RouteIndex& index) {
  const std::uint64_t k = index.top_k;
  for (std::uint64_t t = 0; t < tokens; ++t) {
    for (std::uint64_t i = 0; i < k; ++i) ++index.offsets[expert_at(routing, t * 2 * k + i, experts) + 1];
  }
  for (std::uint64_t e = 0; e < experts; ++e) index.offsets[e + 1] += index.offsets[e];
  std::vector<std::uint64_t> next(index.offsets.begin(), index.offsets.end() - 1);
  index.tokens.resize(tokens * k);
  for (std::uint64_t t = 0; t < tokens; ++t) {
    for (std::uint64_t i = 0; i < k; ++i) {
      const std::uint64_t row = next[static_cast<std::size_t>(routing[t * 2 * k + i])]++;
      index.tokens[row] = t;
      index.rows[t * k + i] = row;
    }
  }
}

void index_all(ConstFloats routing, std::uint64_t tokens, std::uint64_t experts, RouteIndex& index) {
  const std::uint64_t k = index.top_k;
  index.tokens.resize(checked_mul(tokens, experts, "rows of all experts"));
  for (std::uint64_t e = 0; e < experts; ++e) {
    index.offsets[e + 1] = (e + 1) * tokens;
    for (std::uint64_t t = 0; t < tokens; ++t) index.tokens[e * tokens + t] = t;
  }
  for (std::uint64_t t = 0; t < tokens; ++t) {
    for (std::uint64_t i = 0; i < k; ++i) {
      index.rows[t * k + i] = expert_at(routing, t * 2 * k + i, experts) * tokens + t;
    }
  }
}

}  // namespace

RouteIndex index_routes(ConstFloats routing, std::uint64_t tokens, std::uint64_t experts, bool all) {
  RouteIndex index;
  index.top_k = tokens == 0 ? 0 : routing.size() / tokens / 2;
  index.offsets.assign(experts + 1, 0);
  index.rows.resize(tokens * index.top_k);
  if (all) {
    index_all(routing, tokens, experts, index);
  } else {
    index_chosen(routing, tokens, experts, index);
  }
  return index;
}

void route(const RouteOp& op, ConstFloats logits, Floats out, int threads) {
  if (op.top_k == 0 || op.top_k > op.experts) {
    throw Error(ErrorCode::internal, fmt::format("{} of {} experts cannot be chosen", op.top_k, op.experts));
  }
  const std::uint64_t tokens = logits.size() / op.experts;
  for_tasks(threads, pieces(tokens, kTokens), [&](std::size_t task) {
    std::vector<char> taken(op.experts);
    std::vector<float> scratch(op.experts);
    for (std::uint64_t t = task * kTokens; t < std::min(tokens, (task + 1) * kTokens); ++t) {
      float* at = out.data() + t * 2 * op.top_k;
      choose(logits.data() + t * op.experts, op.experts, op.top_k, taken, at);
      weigh(op, logits.data() + t * op.experts, scratch, at);
    }
  });
}

void gather(const RouteIndex& index, ConstFloats in, std::uint64_t width, Floats out, int threads) {
  const std::uint64_t rows = index.tokens.size();
  for_tasks(threads, pieces(rows, kTokens), [&](std::size_t task) {
    for (std::uint64_t r = task * kTokens; r < std::min(rows, (task + 1) * kTokens); ++r) {
      std::copy_n(in.data() + index.tokens[r] * width, width, out.data() + r * width);
    }
  });
}

void combine(const RouteIndex& index, ConstFloats routing, ConstFloats in, std::uint64_t width, Floats out,
             int threads) {
  const std::uint64_t k = index.top_k;
  const std::uint64_t tokens = k == 0 ? 0 : index.rows.size() / k;
  for_tasks(threads, pieces(tokens, kTokens), [&](std::size_t task) {
    for (std::uint64_t t = task * kTokens; t < std::min(tokens, (task + 1) * kTokens); ++t) {
      float* to = out.data() + t * width;
      std::fill_n(to, width, 0.0F);
      for (std::uint64_t i = 0; i < k; ++i) {
        const float weight = routing[t * 2 * k + k + i];
        const float* from = in.data() + index.rows[t * k + i] * width;
        for (std::uint64_t c = 0; c < width; ++c) to[c] += weight * from[c];
      }
    }
  });
}

}  // namespace quant::forward
