#include "quant/outliers.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "quant/error.h"
#include "quant/weight_rows.h"

namespace quant {
namespace {

bool wants_sparse(const QuantArgs& args) { return args.outlier_percent > 0 || args.sensitive_percent > 0; }

// Scores are floats >= 0, whose bits are in the same order.
std::uint32_t bits_of(float score) {
  if (std::isnan(score)) return std::bit_cast<std::uint32_t>(std::numeric_limits<float>::infinity());
  return std::bit_cast<std::uint32_t>(score);
}

constexpr std::uint32_t kHalf = 16;
constexpr std::uint64_t kHistogramBytes = sizeof(std::uint64_t) << kHalf;

struct Threshold {
  std::uint32_t bits = 0;    ///< the smallest score that is taken
  std::uint64_t equals = 0;  ///< how many of exactly that score
};

// Radix selection of the `count` largest of the scores that `visit` gives to its argument, in two visits.
template <class Visit>
Threshold select_largest(std::uint64_t count, const Visit& visit) {
  std::vector<std::uint64_t> histogram(std::size_t{1} << kHalf);
  std::uint32_t prefix = 0;
  const auto walk = [&](std::uint64_t wanted) {
    std::uint32_t bin = static_cast<std::uint32_t>(histogram.size());
    while (bin > 0 && wanted > histogram[bin - 1]) wanted -= histogram[--bin];
    return std::pair(bin == 0 ? 0U : bin - 1, wanted);
  };
  visit([&](std::uint32_t bits) { ++histogram[bits >> kHalf]; });
  const auto [high, left] = walk(count);
  prefix = high;
  std::fill(histogram.begin(), histogram.end(), 0);
  visit([&](std::uint32_t bits) {
    if (bits >> kHalf == prefix) ++histogram[bits & 0xFFFFU];
  });
  const auto [low, equals] = walk(left);
  return {prefix << kHalf | low, equals};
}

// Scores of the weights, row by row.
class Scores {
 public:
  Scores(const TensorView& weight, std::span<const float> importance)
      : rows_(weight), importance_(importance), row_(weight.cols()) {}

  std::uint64_t rows() const { return rows_.rows(); }
  std::span<const float> magnitudes(std::uint64_t row) {
    rows_.read(row, 0, row_);
    for (float& value : row_) value = std::fabs(value);
    return row_;
  }
  std::span<const float> sensitivities(std::uint64_t row) {
    magnitudes(row);
    const bool each = importance_.size() > row_.size();
    for (std::size_t c = 0; c < row_.size(); ++c) {
      const float factor = importance_.empty() ? 1.0F : std::max(0.0F, importance_[each ? row * row_.size() + c : c]);
      row_[c] = each ? factor : factor * row_[c] * row_[c];
    }
    return row_;
  }

 private:
  WeightRows rows_;
  std::span<const float> importance_;
  std::vector<float> row_;
};

// Whether score `bits` is among the largest, seen in row-major order.
bool is_taken(std::uint32_t bits, Threshold& threshold) {
  if (bits > threshold.bits) return true;
  if (bits < threshold.bits || threshold.equals == 0) return false;
  --threshold.equals;
  return true;
}

// Marks the `count` weights of largest score among those that are not marked yet.
template <class Row>
void mark_largest(std::uint64_t count, std::uint64_t rows, std::uint64_t cols, const Row& row_of,
                  std::vector<bool>& marked) {
  if (count == 0) return;
  const auto visit = [&](const auto& see) {
    for (std::uint64_t r = 0; r < rows; ++r) {
      const std::span<const float> row = row_of(r);
      for (std::uint64_t c = 0; c < cols; ++c) {
        if (!marked[r * cols + c]) see(bits_of(row[c]));
      }
    }
  };
  Threshold threshold = select_largest(count, visit);
  for (std::uint64_t r = 0; r < rows; ++r) {
    const std::span<const float> row = row_of(r);
    for (std::uint64_t c = 0; c < cols; ++c) {
      if (!marked[r * cols + c] && is_taken(bits_of(row[c]), threshold)) marked[r * cols + c] = true;
    }
  }
}

class WithSparsePart final : public Quantizer {
 public:
  explicit WithSparsePart(const Quantizer& dense) : dense_(dense) {}

  CalibrationNeeds needs() const override { return dense_.needs(); }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override {
    return dense_.unsupported(weights);
  }
  bool weighs_each() const override { return dense_.weighs_each(); }
  bool weighs(const QuantArgs& args) const override { return args.sensitive_percent > 0 || dense_.weighs(args); }

  TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                       int threads) const override {
    if (!wants_sparse(args)) return dense_.prepare(weight, args, importance, threads);
    const auto choice = choose_sparse(weight, args, importance);
    TensorParams params;
    if (needs_whole_tensor(args)) {
      Part part = without(weight, *choice, 0, importance);
      params = dense_.prepare(f32_view(part.values, weight.rows(), weight.cols()), args, part.importance, threads);
    }
    params.sparse = choice;
    return params;
  }

  std::uint64_t prepare_bytes(const QuantArgs& args, DType weight, std::uint64_t rows, std::uint64_t cols,
                              int threads) const override {
    if (!wants_sparse(args)) return dense_.prepare_bytes(args, weight, rows, cols, threads);
    // The choice and the marks that it is made from; then the weights without the chosen ones.
    const std::uint64_t choice = 2 * (sparse_count(args, rows, cols) * sizeof(std::uint32_t) + rows * 8);
    const std::uint64_t marks = rows * cols / 8 + kHistogramBytes;
    if (!needs_whole_tensor(args)) return choice + marks;
    const std::uint64_t copies = part_bytes(rows, cols);
    return choice + std::max(marks, copies + dense_.prepare_bytes(args, DType::F32, rows, cols, threads));
  }
  std::uint64_t slice_bytes(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) const override {
    return dense_.slice_bytes(args, rows, cols) + (wants_sparse(args) ? part_bytes(rows, cols) : 0);
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> importance, QuantizedTensor& out, SliceErrors errors) const override {
    if (!wants_sparse(args)) {
      return dense_.quantize_rows(rows, args, scale_dtype, params, importance, out, errors);
    }
    if (params.sparse == nullptr || params.first_row + rows.rows() >= params.sparse->starts.size()) {
      throw Error(ErrorCode::usage, "a sparse part needs the choice that prepare() makes");
    }
    if (const auto bad = find_non_finite(rows)) {
      throw Error(ErrorCode::numerical, "the weight in row " + std::to_string(bad->row) + ", column " +
                                            std::to_string(bad->col) + " is NaN or infinite");
    }
    const Part part = without(rows, *params.sparse, params.first_row, importance);
    dense_.quantize_rows(f32_view(part.values, rows.rows(), rows.cols()), args, scale_dtype, params, part.importance,
                         out, {});
    store_rest(rows, *params.sparse, params.first_row, out);
    if (errors.wanted()) measure_rows(rows, out, errors);
  }

 private:
  struct Part {
    std::vector<float> values;
    std::vector<float> importance_store;
    std::span<const float> importance;
  };

  std::uint64_t part_bytes(std::uint64_t rows, std::uint64_t cols) const {
    return rows * cols * sizeof(float) * (dense_.weighs_each() ? 2 : 1);
  }

  // The weights with zeros for those that are stored apart.
  Part without(const TensorView& rows, const SparseChoice& choice, std::uint64_t first_row,
               std::span<const float> importance) const {
    Part part;
    const std::uint64_t count = rows.rows(), cols = rows.cols();
    part.values.resize(count * cols);
    read_f32(rows, 0, part.values);
    // What the dense part has no use for has made the choice all the same.
    if (importance.size() == cols || dense_.weighs_each()) part.importance = importance;
    if (dense_.weighs_each()) {
      part.importance_store.assign(count * cols, 1.0F);
      for (std::size_t i = 0; i < part.importance_store.size() && !importance.empty(); ++i) {
        part.importance_store[i] = importance[importance.size() == cols ? i % cols : i];
      }
    }
    for (std::uint64_t r = 0; r < count; ++r) {
      for (std::uint64_t i = choice.starts[first_row + r]; i < choice.starts[first_row + r + 1]; ++i) {
        part.values[r * cols + choice.columns[i]] = 0;
        if (!part.importance_store.empty()) part.importance_store[r * cols + choice.columns[i]] = 0;
      }
    }
    if (!part.importance_store.empty()) part.importance = part.importance_store;
    return part;
  }

  static void store_rest(const TensorView& rows, const SparseChoice& choice, std::uint64_t first_row,
                         QuantizedTensor& out) {
    const DType scales = out.scale_dtype;
    const bool half = scales == DType::F16 || scales == DType::BF16;
    SparseRows sparse;
    sparse.dtype = half ? scales : DType::F32;
    sparse.first = choice.starts[first_row];
    sparse.starts.push_back(0);
    std::vector<float> values(out.cols), weights(out.cols);
    for (std::uint64_t r = 0; r < out.rows; ++r) {
      dequantize_row(out, r, values);
      read_f32(rows, r * out.cols, weights);
      for (std::uint64_t i = choice.starts[first_row + r]; i < choice.starts[first_row + r + 1]; ++i) {
        const std::uint32_t column = choice.columns[i];
        const float rest = round_to_dtype(sparse.dtype, weights[column] - values[column]);
        sparse.columns.push_back(column);
        sparse.values.push_back(std::isfinite(rest) ? rest : std::copysign(largest_f16(), rest));
      }
      sparse.starts.push_back(sparse.columns.size());
    }
    out.sparse = std::move(sparse);
  }

  // Only F16 is narrower than the weights' own range.
  static float largest_f16() { return 65504.0F; }

  const Quantizer& dense_;
};

}  // namespace

std::shared_ptr<const SparseChoice> choose_sparse(const TensorView& weight, const QuantArgs& args,
                                                  std::span<const float> importance) {
  if (!wants_sparse(args)) return nullptr;
  const std::uint64_t rows = weight.rows(), cols = weight.cols();
  QuantArgs outliers_only = args;
  outliers_only.sensitive_percent = 0;
  const std::uint64_t total = std::min(sparse_count(args, rows, cols), rows * cols);
  const std::uint64_t outliers = std::min(sparse_count(outliers_only, rows, cols), total);
  std::vector<bool> marked(rows * cols);
  Scores scores(weight, importance);
  mark_largest(
      outliers, rows, cols, [&](std::uint64_t r) { return scores.magnitudes(r); }, marked);
  mark_largest(
      total - outliers, rows, cols, [&](std::uint64_t r) { return scores.sensitivities(r); }, marked);
  auto choice = std::make_shared<SparseChoice>();
  choice->starts.push_back(0);
  for (std::uint64_t r = 0; r < rows; ++r) {
    for (std::uint64_t c = 0; c < cols; ++c) {
      if (marked[r * cols + c]) choice->columns.push_back(static_cast<std::uint32_t>(c));
    }
    choice->starts.push_back(choice->columns.size());
  }
  return choice;
}

std::unique_ptr<Quantizer> with_sparse_part(const Quantizer& dense) { return std::make_unique<WithSparsePart>(dense); }

}  // namespace quant
