#include "tensor_params.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "parallel_for.h"
#include "quant/error.h"
#include "quant/kernels.h"
#include "quant/weight_rows.h"
#include "scale_search.h"

namespace quant::rtn {
namespace {

// Rows in pieces of about 2^18 weights, the same for any number of threads.
struct Pieces {
  std::uint64_t rows, rows_per_piece;
  std::size_t count;

  Pieces(std::uint64_t all_rows, std::uint64_t cols)
      : rows(all_rows),
        rows_per_piece(std::max<std::uint64_t>(1, (1U << 18) / std::max<std::uint64_t>(cols, 1))),
        count(static_cast<std::size_t>((all_rows + rows_per_piece - 1) / rows_per_piece)) {}

  template <class Body>
  void each_row_of(std::size_t piece, const Body& body) const {
    const std::uint64_t first = piece * rows_per_piece;
    const std::uint64_t end = std::min(rows, first + rows_per_piece);
    for (std::uint64_t r = first; r < end; ++r) body(r, piece);
  }

  // Calls body(row, piece) for every row, the rows of a piece in order and by one thread.
  template <class Body>
  void each_row(int threads, const Body& body) const {
    parallel_for(threads, count, [&](std::size_t piece) { each_row_of(piece, body); });
  }
};

struct Extremes {
  float smallest = 0, largest = 0;
};

Extremes tensor_range(const TensorView& weight, int threads) {
  const WeightRows rows(weight);
  const Pieces pieces(rows.rows(), rows.cols());
  std::vector<Extremes> found(pieces.count);
  pieces.each_row(threads, [&](std::uint64_t r, std::size_t piece) {
    static thread_local std::vector<float> scratch;
    Extremes row;
    kernels().group_range(rows.row(r, scratch), rows.type(), rows.cols(), rows.cols(), &row.smallest, &row.largest);
    Extremes& all = found[piece];
    if (std::isnan(row.smallest) || std::isnan(all.smallest)) {
      all.smallest = std::numeric_limits<float>::quiet_NaN();
    } else {
      all = {std::min(all.smallest, row.smallest), std::max(all.largest, row.largest)};
    }
  });
  Extremes all;
  for (const Extremes& piece : found) {
    if (std::isnan(piece.smallest)) reject_non_finite(weight, 0);
    all = {std::min(all.smallest, piece.smallest), std::max(all.largest, piece.largest)};
  }
  return all;
}

// Float bits as unsigned numbers of the same order.
std::uint32_t sort_key(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

float key_value(std::uint32_t key) { return std::bit_cast<float>((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key); }

// The value of that rank among all weights (or their magnitudes), exactly, by counting the upper and then the lower
// halves of the keys. No copy of the tensor, no sort.
class RankFinder {
 public:
  RankFinder(const TensorView& weight, bool magnitudes, int threads)
      : rows_(weight), magnitudes_(magnitudes), threads_(threads) {}

  float value_at(std::uint64_t rank) const {
    const std::uint32_t upper = find_bin(
        rank, [](std::uint32_t key) { return key >> 16; }, [](std::uint32_t) { return true; });
    const std::uint32_t lower = find_bin(
        rank, [](std::uint32_t key) { return key & 0xFFFFU; },
        [upper](std::uint32_t key) { return key >> 16 == upper; });
    return key_value(upper << 16 | lower);
  }

 private:
  // One thread's share.
  struct Counts {
    explicit Counts(std::uint64_t cols) : bins(65536, 0), row(cols) {}
    std::vector<std::uint64_t> bins;
    std::vector<float> row;
  };

  // The bin in which the key of that rank falls; `rank` becomes its rank within the bin.
  template <class Bin, class Use>
  std::uint32_t find_bin(std::uint64_t& rank, Bin bin, Use use) const {
    std::vector<std::uint64_t> total(65536, 0);
    const Pieces pieces(rows_.rows(), rows_.cols());
    const auto count_piece = [&](Counts& counts, std::size_t piece) {
      pieces.each_row_of(piece, [&](std::uint64_t r, std::size_t) {
        rows_.read(r, 0, counts.row);
        for (const float value : counts.row) {
          const std::uint32_t key = sort_key(magnitudes_ ? std::fabs(value) : value);
          if (use(key)) ++counts.bins[bin(key)];
        }
      });
    };
    const auto add_up = [&](const Counts& counts) {
      for (std::size_t i = 0; i < total.size(); ++i) total[i] += counts.bins[i];
    };
    parallel_for(
        threads_, pieces.count, [this] { return Counts(rows_.cols()); }, count_piece, add_up);
    std::uint32_t found = 0;
    while (rank >= total[found]) rank -= total[found++];
    return found;
  }

  WeightRows rows_;
  bool magnitudes_;
  int threads_;
};

class TensorErrors final : public CandidateErrors {
 public:
  TensorErrors(const TensorView& weight, const Rules& rules, const Observer& observer,
               std::span<const float> importance, int threads)
      : rows_(weight), rules_(rules), observer_(observer), importance_(importance), threads_(threads) {}

  void evaluate(std::span<const float> effective, std::span<const float> zero_points, float unit,
                std::span<double> errors) override {
    const Pieces pieces(rows_.rows(), rows_.cols());
    std::vector<std::vector<double>> sums(pieces.count, std::vector<double>(effective.size(), 0.0));
    pieces.each_row(threads_, [&](std::uint64_t r, std::size_t piece) {
      static thread_local std::vector<float> row;
      row.resize(rows_.cols());
      rows_.read(r, 0, row);
      kernels().search({row.data(), importance_.empty() ? nullptr : importance_.data(), row.size(), rules_.element,
                        rules_.code_min, rules_.code_max, effective.data(),
                        zero_points.empty() ? nullptr : zero_points.data(), effective.size(), unit, &observer_.power,
                        sums[piece].data()});
    });
    for (const auto& piece : sums) {
      for (std::size_t i = 0; i < errors.size(); ++i) errors[i] += piece[i];
    }
  }

 private:
  WeightRows rows_;
  const Rules& rules_;
  const Observer& observer_;
  std::span<const float> importance_;
  int threads_;
};

Extremes tensor_percentile(const TensorView& weight, const QuantArgs& args, double quantile, int threads) {
  const std::uint64_t count = weight.rows() * weight.cols();
  const RankFinder finder(weight, args.symmetric, threads);
  const std::uint64_t rank = quantile_rank(quantile, count);
  if (args.symmetric) return {0, finder.value_at(rank)};
  return {finder.value_at(count - 1 - rank), finder.value_at(rank)};
}

}  // namespace

DType default_scale_dtype(const QuantArgs& args, DType weight) {
  if (args.scale_dtype) return *args.scale_dtype;
  return weight == DType::F16 || weight == DType::BF16 ? weight : DType::F32;
}

void reject_non_finite(const TensorView& weight, std::uint64_t first_row) {
  const auto place = find_non_finite(weight).value_or(ElementPlace{});
  throw Error(ErrorCode::numerical,
              "the weight at row " + std::to_string(first_row + place.row) + ", column " + std::to_string(place.col) +
                  " of " + to_string(weight.shape) + " is " + (std::isnan(place.value) ? "NaN" : "infinite"),
              "repair the checkpoint, or leave this layer unquantized", "NonFiniteWeight");
}

void check_importance(std::span<const float> importance, std::uint64_t cols) {
  if (importance.empty()) return;
  if (importance.size() != cols) {
    throw Error(ErrorCode::usage, "importance has " + std::to_string(importance.size()) + " values for " +
                                      std::to_string(cols) + " columns");
  }
  for (std::size_t c = 0; c < importance.size(); ++c) {
    if (!(importance[c] >= 0) || std::isinf(importance[c])) {
      throw Error(ErrorCode::usage,
                  "importance of column " + std::to_string(c) + " is " + std::to_string(importance[c]));
    }
  }
}

void check_weight(const TensorView& weight) {
  if (is_floating(weight.dtype) && weight.dtype != DType::F6_E2M3 && weight.dtype != DType::F6_E3M2) return;
  throw Error(ErrorCode::unsupported,
              "weights of type " + std::string(dtype_name(weight.dtype)) + " cannot be quantized",
              "leave this layer out with 'ignore'");
}

int useful_threads(int threads, std::uint64_t count) {
  const std::uint64_t worth = 1 + (count >> 16);
  return static_cast<int>(std::min<std::uint64_t>(worth, static_cast<std::uint64_t>(std::max(threads, 1))));
}

std::uint64_t quantile_rank(double quantile, std::uint64_t count) {
  const double rank = std::ceil(quantile * static_cast<double>(count)) - 1;
  return std::min(count - 1, static_cast<std::uint64_t>(std::max(rank, 0.0)));
}

TensorParams tensor_params(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                           int threads) {
  check_weight(weight);
  check_importance(importance, weight.cols());
  TensorParams params;
  if (weight.rows() == 0 || weight.cols() == 0) return params;
  threads = useful_threads(threads, weight.rows() * weight.cols());
  kernels();  // throws for a wrong QUANT_ISA, here rather than once per thread
  if (is_nvfp4(args)) {
    const Extremes range = tensor_range(weight, threads);
    const float absmax = std::max({-range.smallest, range.largest, std::numeric_limits<float>::min()});
    const float global = (1.0F / absmax) * 2688.0F;  // 448 * 6, in the order that PyTorch divides a number by a tensor
    // A tensor without a nonzero weight asks for none, so that it does not decide for those it shares one with.
    if (std::isfinite(global)) params.global_scale = global;
  }
  if (args.strategy != Strategy::tensor) return params;
  const Observer observer = make_observer(args);
  const Rules rules = make_rules(args, default_scale_dtype(args, weight.dtype), 1.0F);
  Extremes range = tensor_range(weight, threads);
  if (observer.kind == Observer::Kind::percentile)
    range = tensor_percentile(weight, args, observer.percentile, threads);
  TensorErrors errors(weight, rules, observer, importance, threads);
  ScaleSearch search;
  const ScaleChoice choice = search.choose(rules, observer, range.smallest, range.largest, errors);
  params.scale = choice.scale;
  if (!args.symmetric) params.zero_point = static_cast<std::int8_t>(choice.zero_point);
  return params;
}

}  // namespace quant::rtn
