// y = x W^T + bias. The rows are cut into pairs of strips, which threads take; what a pair computes depends on nothing
// else. A token alone is bound by reading the weights once; few tokens share the decoded weights in registers; many
// share panels of dequantized weights that stay in the cache.
#include "quant/packed_linear.h"

#include <algorithm>
#include <cstring>

#include "kernels/packed/packed_dispatch.h"
#include "linalg/check.h"
#include "linalg/parallel.h"
#include "packed/inputs.h"
#include "packed/packed_matrix.h"
#include "packed/row_matrix.h"
#include "quant/error.h"

namespace quant {
namespace {

using cpu::kChunk;
using cpu::kStripRows;
using linalg::for_tasks;
using linalg::pieces;
using packed::InputColumns;
using packed::TokenBlocks;

constexpr std::uint64_t kPairRows = 2 * kStripRows;
constexpr std::uint64_t kFewLimit = 16;       // tokens up to which panels do not pay
constexpr std::uint64_t kPanelChunks = 64;    // of a panel: 256 KiB in float32
constexpr std::uint64_t kRoundChunks = 4;     // that are rounded to BF16 at once
constexpr std::uint64_t kTokensAtOnce = 504;  // whose inputs are interleaved at once; divisible by 12, 6 and 4

// Pairs of strips that a thread takes at once: enough bytes to be worth it, and many tasks in large matrices.
std::uint64_t pairs_of_task(std::uint64_t columns) { return std::clamp<std::uint64_t>(16384 / columns, 1, 8); }

}  // namespace

struct PackedLinear::State {
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  std::vector<float> bias;
  SparseRows sparse;
  const cpu::PackedTable* table = nullptr;
  std::optional<packed::PackedMatrix> matrix;
  std::optional<packed::RowMatrix> by_rows;
  QuantizedTensor general;  // where there is no kernel; its sparse part included
  std::vector<std::int32_t> in_order;

  InputColumns columns() const {
    if (matrix) return {cols, matrix->columns, &matrix->source};
    return {cols, by_rows ? by_rows->columns() : pieces(cols, kChunk) * kChunk, &in_order};
  }
  float factor() const { return matrix ? matrix->factor : 1.0F; }

  void run(std::span<const float> x, std::uint64_t tokens, float* y, const PackedOptions& options) const;
  void run_one(std::span<const float> x, float* y, int threads) const;
  void run_few(std::span<const float> x, std::uint64_t tokens, float* y, int threads) const;
  void run_panels(std::span<const float> x, std::uint64_t tokens, float* y, bool bf16, int threads) const;
  void run_integers(std::span<const float> x, std::uint64_t tokens, float* y, const PackedOptions& options,
                    const packed::OutlierColumns& outliers) const;

  template <class Body>
  void for_pairs(int threads, const Body& body) const;
  void unpack(std::uint64_t pair, std::uint64_t first, std::uint64_t count, float* panel) const;
  void fill_general(std::uint64_t pair, std::vector<float>& rows32) const;
  void finish(std::uint64_t pair, const float* sums, std::span<const float> x, std::uint64_t tokens, float* y) const;
};

// body(pair) for all pairs of strips.
template <class Body>
void PackedLinear::State::for_pairs(int threads, const Body& body) const {
  const std::uint64_t pairs = pieces(rows, kPairRows), step = pairs_of_task(std::max<std::uint64_t>(1, cols));
  for_tasks(threads, pieces(pairs, step), [&](std::size_t task) {
    for (std::uint64_t pair = task * step; pair < std::min(pairs, (task + 1) * step); ++pair) body(pair);
  });
}

// Sums [tokens][32] of a pair of strips become results.
void PackedLinear::State::finish(std::uint64_t pair, const float* sums, std::span<const float> x, std::uint64_t tokens,
                                 float* y) const {
  const std::uint64_t first = pair * kPairRows, count = std::min(kPairRows, rows - first);
  for (std::uint64_t t = 0; t < tokens; ++t) {
    float* out = y + t * rows + first;
    for (std::uint64_t r = 0; r < count; ++r) out[r] = sums[t * kPairRows + r] * factor();
    if (!sparse.empty()) {
      for (std::uint64_t r = 0; r < count; ++r) {
        float sum = 0.0F;
        for (std::uint64_t i = sparse.starts[first + r]; i < sparse.starts[first + r + 1]; ++i) {
          sum += sparse.values[i] * x[t * cols + sparse.columns[i]];
        }
        out[r] += sum;
      }
    }
    if (bias.empty()) continue;
    for (std::uint64_t r = 0; r < count; ++r) out[r] += bias[first + r];
  }
}

void PackedLinear::State::run_one(std::span<const float> x, float* y, int threads) const {
  const InputColumns from = columns();
  std::vector<float> input(from.packed, 0.0F);
  from.gather(x.data(), input.data());
  std::vector<float> sums;
  if (matrix && matrix->zeros.size() != 0) {
    const cpu::PackedShape& shape = matrix->shape;
    const std::uint64_t width = shape.half_groups ? kChunk / 2 : shape.group_chunks * kChunk;
    for (std::uint64_t first = 0; first < from.packed; first += width) {
      double sum = 0.0;
      for (std::uint64_t c = first; c < std::min(from.packed, first + width); ++c) sum += static_cast<double>(input[c]);
      sums.push_back(static_cast<float>(sum));
    }
  }
  for_pairs(threads, [&](std::uint64_t pair) {
    float result[kPairRows];
    for (std::uint64_t s = 0; s < 2; ++s) {
      float* out = result + s * kStripRows;
      if (by_rows) {
        table->one_rows(by_rows->strip(2 * pair + s), input.data(), out);
      } else {
        table->one(matrix->shape, matrix->strip(2 * pair + s), input.data(), sums.data(), out);
      }
    }
    finish(pair, result, x, 1, y);
  });
}

void PackedLinear::State::run_few(std::span<const float> x, std::uint64_t tokens, float* y, int threads) const {
  const InputColumns from = columns();
  const std::uint64_t width = tokens <= 2 ? 2 : tokens <= 4 ? 4 : 8;
  const TokenBlocks blocks{tokens, width};
  const std::vector<float> inputs = packed::interleave(from, x, blocks, threads);
  for_pairs(threads, [&](std::uint64_t pair) {
    std::vector<float> result(blocks.padded() * kPairRows);
    for (std::uint64_t b = 0; b < blocks.count(); ++b) {
      table->few(matrix->shape, matrix->strip(2 * pair), inputs.data() + b * width * from.packed, width,
                 result.data() + b * width * kPairRows);
    }
    finish(pair, result.data(), x, tokens, y);
  });
}

// Chunks [first, first + count) of a pair of strips.
void PackedLinear::State::unpack(std::uint64_t pair, std::uint64_t first, std::uint64_t count, float* panel) const {
  if (matrix) return table->unpack(matrix->shape, matrix->strip(2 * pair), first, count, panel);
  constexpr std::uint64_t kRuns = kChunk / 16;
  table->unpack_rows(by_rows->strip(2 * pair), by_rows->strip(2 * pair + 1), first * kRuns, count * kRuns, panel);
}

// All columns [packed][32] of a pair of strips without a kernel.
void PackedLinear::State::fill_general(std::uint64_t pair, std::vector<float>& panel) const {
  panel.assign(columns().packed * kPairRows, 0.0F);
  std::vector<float> row(cols);
  for (std::uint64_t r = 0; r < kPairRows && pair * kPairRows + r < rows; ++r) {
    dequantize_row(general, pair * kPairRows + r, row);
    for (std::uint64_t c = 0; c < cols; ++c) panel[c * kPairRows + r] = row[c];
  }
}

void PackedLinear::State::run_panels(std::span<const float> x, std::uint64_t tokens, float* y, bool bf16,
                                     int threads) const {
  const InputColumns from = columns();
  const TokenBlocks blocks{tokens, table->panel_tokens};
  std::vector<float> inputs;
  std::vector<std::uint32_t> rounded;
  if (bf16) {
    rounded = packed::interleave_bf16(from, x, blocks, threads);
  } else {
    inputs = packed::interleave(from, x, blocks, threads);
  }
  const std::uint64_t chunks = from.packed / kChunk;
  const bool decodes = matrix || by_rows;
  for_pairs(threads, [&](std::uint64_t pair) {
    std::vector<float> sums(blocks.padded() * kPairRows, 0.0F);
    std::vector<float> panel, whole;
    std::vector<std::uint32_t> pairs;
    if (!decodes) fill_general(pair, whole);
    if (decodes) panel.resize((bf16 ? kRoundChunks : std::min(kPanelChunks, chunks)) * kChunk * kPairRows);
    if (bf16) pairs.resize(std::min(kPanelChunks, chunks) * kChunk / 2 * kPairRows);
    for (std::uint64_t first = 0; first < chunks; first += kPanelChunks) {
      const std::uint64_t count = std::min(kPanelChunks, chunks - first), step = bf16 ? kRoundChunks : count;
      const float* values = whole.data() + (decodes ? 0 : first * kChunk * kPairRows);
      for (std::uint64_t at = 0; at < count; at += step) {
        const std::uint64_t part = std::min(step, count - at);
        const float* from_panel = values + (decodes ? 0 : at * kChunk * kPairRows);
        if (decodes) {
          unpack(pair, first + at, part, panel.data());
          from_panel = panel.data();
        }
        if (bf16) table->round_panel(from_panel, part * kChunk, pairs.data() + at * kChunk / 2 * kPairRows);
      }
      if (decodes) values = panel.data();
      for (std::uint64_t b = 0; b < blocks.count(); ++b) {
        const std::uint64_t column = (b * from.packed + first * kChunk) * blocks.width;
        float* out = sums.data() + b * blocks.width * kPairRows;
        if (bf16) {
          const std::uint64_t start = (b * from.packed + first * kChunk) / 2 * blocks.width;
          table->panel_bf16(pairs.data(), count * kChunk, rounded.data() + start, out);
        } else {
          table->panel_f32(values, count * kChunk, inputs.data() + column, out);
        }
      }
    }
    finish(pair, sums.data(), x, tokens, y);
  });
}

void PackedLinear::State::run_integers(std::span<const float> x, std::uint64_t tokens, float* y,
                                       const PackedOptions& options, const packed::OutlierColumns& outliers) const {
  const InputColumns from = columns();
  const std::uint64_t small = tokens <= 2 ? tokens : tokens <= 4 ? 4 : 8;
  const TokenBlocks blocks{tokens, tokens <= cpu::kFewTokens ? small : table->panel_tokens};
  const packed::IntegerInputs inputs =
      packed::quantize_inputs(from, matrix->shape, x, blocks, options.input, outliers, options.threads);
  const std::uint64_t kept = outliers.places.size();
  const TokenBlocks wide{tokens, table->panel_tokens};
  const std::vector<float> floats = packed::interleave_outliers(from, outliers, x, wide);
  for_pairs(options.threads, [&](std::uint64_t pair) {
    std::vector<float> result(std::max(blocks.padded(), wide.padded()) * kPairRows);
    for (std::uint64_t b = 0; b < blocks.count(); ++b) {
      table->int8(matrix->shape, matrix->strip(2 * pair), inputs.block(b, blocks, from.packed), blocks.width,
                  result.data() + b * blocks.width * kPairRows);
    }
    if (kept > 0) {
      std::vector<float> panel(kept * kPairRows);
      table->columns(matrix->shape, matrix->strip(2 * pair), outliers.places.data(), kept, panel.data());
      for (std::uint64_t b = 0; b < wide.count(); ++b) {
        table->panel_f32(panel.data(), kept, floats.data() + b * kept * wide.width,
                         result.data() + b * wide.width * kPairRows);
      }
    }
    finish(pair, result.data(), x, tokens, y);
  });
}

void PackedLinear::State::run(std::span<const float> x, std::uint64_t tokens, float* y,
                              const PackedOptions& options) const {
  const bool integers = options.activations == Activations::int8 && matrix && matrix->int8;
  if (options.input != nullptr && !(integers && packed::multiplies_as_integers(*options.input) && sparse.empty())) {
    std::vector<float> rounded(x.begin(), x.end());
    fake_quantize_rows(rounded, tokens, *options.input, options.threads);
    PackedOptions plain = options;
    plain.input = nullptr;
    if (plain.activations == Activations::int8) plain.activations = Activations::f32;
    return run(rounded, tokens, y, plain);
  }
  const packed::OutlierColumns outliers =
      integers ? packed::find_outliers(columns(), x, tokens, options.input, options.threads) : packed::OutlierColumns{};
  for (std::uint64_t first = 0; first < tokens; first += kTokensAtOnce) {
    const std::uint64_t count = std::min(kTokensAtOnce, tokens - first);
    const auto part = x.subspan(first * cols, count * cols);
    float* out = y + first * rows;
    const bool alone = tokens == 1;
    const bool bf16 = options.activations == Activations::bf16 && !alone;
    if (integers) {
      run_integers(part, count, out, options, outliers);
    } else if ((matrix || by_rows) && alone) {
      run_one(part, out, options.threads);
    } else if (matrix && !bf16 && count > 1 && count <= kFewLimit) {
      run_few(part, count, out, options.threads);
    } else {
      run_panels(part, count, out, bf16, options.threads);
    }
  }
}

PackedLinear::PackedLinear(const QuantizedTensor& weight, std::span<const float> bias, int threads,
                           std::string_view isa)
    : state_(std::make_unique<State>()) {
  check_sizes(weight);
  if (!bias.empty()) linalg::check_matrix("PackedLinear", "bias", bias.size(), weight.rows, 1);
  state_->rows = weight.rows;
  state_->cols = weight.cols;
  state_->bias.assign(bias.begin(), bias.end());
  state_->table = &cpu::packed_table(isa);
  if (weight.codes.empty() && weight.blocks.empty()) return;
  state_->matrix = packed::pack_matrix(weight, threads);
  if (!state_->matrix) state_->by_rows = packed::pack_rows(weight, state_->table->half_tables, threads);
  if (has_kernel()) {
    state_->sparse = weight.sparse;
  } else {
    state_->general = weight;
  }
}

PackedLinear::~PackedLinear() = default;
PackedLinear::PackedLinear(PackedLinear&&) noexcept = default;
PackedLinear& PackedLinear::operator=(PackedLinear&&) noexcept = default;

std::uint64_t PackedLinear::rows() const { return state_->rows; }
std::uint64_t PackedLinear::cols() const { return state_->cols; }
std::string_view PackedLinear::isa() const { return state_->table->isa; }
bool PackedLinear::has_kernel() const { return state_->matrix || state_->by_rows; }
bool PackedLinear::has_int8_kernel() const { return state_->matrix && state_->matrix->int8; }

std::uint64_t PackedLinear::bytes() const {
  const auto sparse_bytes = [](const SparseRows& rows) {
    return rows.starts.size() * sizeof(rows.starts[0]) + rows.values.size() * (sizeof(float) + sizeof(std::uint32_t));
  };
  const std::uint64_t other = state_->bias.size() * sizeof(float) + sparse_bytes(state_->sparse);
  if (state_->matrix) return state_->matrix->bytes() + other;
  if (state_->by_rows) return state_->by_rows->bytes() + other;
  const QuantizedTensor& general = state_->general;
  return other + sparse_bytes(general.sparse) + general.codes.size() + general.zero_points.size() +
         sizeof(float) * (general.scales.size() + general.real_zero_points.size() + general.codebook.size());
}

void PackedLinear::multiply(std::span<const float> x, std::uint64_t tokens, std::span<float> y,
                            const PackedOptions& options) const {
  linalg::check_matrix("PackedLinear::multiply", "x", x.size(), tokens, cols());
  linalg::check_matrix("PackedLinear::multiply", "y", y.size(), tokens, rows());
  if (y.empty()) return;
  if (cols() == 0) {
    for (std::uint64_t i = 0; i < y.size(); ++i) y[i] = state_->bias.empty() ? 0.0F : state_->bias[i % rows()];
    return;
  }
  state_->run(x, tokens, y.data(), options);
}

const std::vector<std::string_view>& packed_isas() {
  static const std::vector<std::string_view> names = [] {
    std::vector<std::string_view> list;
    for (const cpu::PackedTable* table : cpu::packed_tables()) list.emplace_back(table->isa);
    return list;
  }();
  return names;
}

}  // namespace quant
