#include "forward/rotary.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant::forward {
namespace {

using linalg::for_tasks;
using linalg::pieces;

constexpr std::uint64_t kPositions = 32;  // of a task
constexpr std::size_t kTables = 8;        // kept: dynamic frequencies differ by the sequence's length

void rotate_head(const RotaryOp& op, const float* cosine, const float* sine, const float* in, float* out) {
  const std::uint64_t half = op.rotary_dim / 2;
  if (op.interleaved) {
    for (std::uint64_t i = 0; i < half; ++i) {
      const float a = in[2 * i], b = in[2 * i + 1];
      out[2 * i] = a * cosine[i] - b * sine[i];
      out[2 * i + 1] = b * cosine[i] + a * sine[i];
    }
  } else {
    for (std::uint64_t i = 0; i < half; ++i) {
      const float a = in[i], b = in[i + half];
      out[i] = a * cosine[i] - b * sine[i];
      out[i + half] = b * cosine[i] + a * sine[i];
    }
  }
  if (out != in) std::copy(in + 2 * half, in + op.head_dim, out + 2 * half);
}

void check(const RotaryOp& op) {
  if (op.rotary_dim % 2 == 0 && op.rotary_dim <= op.head_dim && op.inverse_frequency.size() == op.rotary_dim / 2 &&
      (op.long_inverse_frequency.empty() || op.long_inverse_frequency.size() == op.rotary_dim / 2)) {
    return;
  }
  throw Error(ErrorCode::internal, fmt::format("a rotation of {} columns of heads of {} with {} frequencies",
                                               op.rotary_dim, op.head_dim, op.inverse_frequency.size()));
}

}  // namespace

std::vector<float> frequencies(const RotaryOp& op, std::uint64_t length) {
  if (length > op.dynamic_length && !op.long_inverse_frequency.empty()) return op.long_inverse_frequency;
  if (op.dynamic_base <= 0 || length <= op.dynamic_length) return op.inverse_frequency;
  const auto dim = static_cast<double>(op.rotary_dim);
  const double stretch = op.dynamic_factor * static_cast<double>(length) / static_cast<double>(op.dynamic_length) -
                         (op.dynamic_factor - 1);
  const double base = op.dynamic_base * std::pow(stretch, dim / (dim - 2));
  std::vector<float> out(op.rotary_dim / 2);
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(1.0 / std::pow(base, 2.0 * static_cast<double>(i) / dim));
  }
  return out;
}

const RotaryTables::Table& RotaryTables::table(const RotaryOp& op, const std::vector<float>& frequency,
                                               std::uint64_t first, std::uint64_t end, int threads) {
  for (const Table& table : tables_) {
    if (table.first <= first && end <= table.end && table.magnitude == op.magnitude && table.frequency == frequency) {
      return table;
    }
  }
  if (tables_.size() == kTables) tables_.pop_front();
  const std::size_t width = frequency.size();
  Table& table = tables_.emplace_back();
  table.frequency = frequency;
  table.magnitude = op.magnitude;
  table.first = first;
  table.end = end;
  table.cosine.resize((end - first) * width);
  table.sine.resize(table.cosine.size());
  for_tasks(threads, pieces(end - first, kPositions), [&](std::size_t task) {
    for (std::uint64_t p = task * kPositions; p < std::min(end - first, (task + 1) * kPositions); ++p) {
      for (std::size_t i = 0; i < width; ++i) {
        // The angle is a float32 product: models are trained with its rounding.
        const double angle = static_cast<double>(static_cast<float>(first + p) * frequency[i]);
        table.cosine[p * width + i] = static_cast<float>(std::cos(angle)) * op.magnitude;
        table.sine[p * width + i] = static_cast<float>(std::sin(angle)) * op.magnitude;
      }
    }
  });
  return table;
}

void RotaryTables::rotate(const RotaryOp& op, const Sequences& sequences, ConstFloats in, Floats out, int threads) {
  check(op);
  const std::uint64_t half = op.rotary_dim / 2, width = op.heads * op.head_dim;
  std::uint64_t first = ~std::uint64_t{0}, end = 0;
  for (const Sequence& s : sequences) {
    first = std::min(first, s.position);
    end = std::max(end, s.end_position());
  }
  for (const Sequence& s : sequences) {
    const std::vector<float> frequency = frequencies(op, s.end_position());
    const bool shared = frequency == op.inverse_frequency;
    const Table& t = table(op, frequency, shared ? first : s.position, shared ? end : s.end_position(), threads);
    for_tasks(threads, pieces(s.tokens, kPositions), [&](std::size_t task) {
      for (std::uint64_t i = task * kPositions; i < std::min(s.tokens, (task + 1) * kPositions); ++i) {
        const std::uint64_t row = (s.first + i) * width, at = (s.position + i - t.first) * half;
        for (std::uint64_t h = 0; h < op.heads; ++h) {
          const std::uint64_t head = row + h * op.head_dim;
          rotate_head(op, t.cosine.data() + at, t.sine.data() + at, in.data() + head, out.data() + head);
        }
      }
    });
  }
}

}  // namespace quant::forward
