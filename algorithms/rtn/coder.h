// Codes rows of a matrix with given or chosen scales.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "observer.h"
#include "quant/algorithm.h"
#include "quant/weight_rows.h"
#include "rules.h"
#include "scale_search.h"

namespace quant::rtn {

/// Where the results of a slice go: pointers to its first row.
struct SliceTarget {
  std::int8_t* codes;
  float* scales;
  std::int8_t* zero_points;  ///< null if symmetric
};

/// Quantizes slices of whole rows of one tensor. An object serves one thread; it keeps its buffers.
class Coder {
 public:
  /// Codes `rows`. `first_row` is the number of its first row in error messages. See Quantizer::quantize_rows.
  void code(const TensorView& rows, std::uint64_t first_row, const QuantArgs& args, DType scale_dtype,
            const TensorParams& params, std::span<const float> importance, const SliceTarget& target,
            const SliceErrors& errors);

 private:
  struct Job;  // what stays the same over a slice

  void find_scales(const Job& job, std::uint64_t scale_row);
  void find_ranges(const Job& job, std::uint64_t first, std::uint64_t end);
  void find_absmax(const Job& job, std::uint64_t first, std::uint64_t end);
  void search_scales(const Job& job, std::uint64_t first, std::uint64_t end);
  void gather(const Job& job, std::uint64_t first, std::uint64_t end, std::uint64_t group);
  void store_scales(const Job& job, std::uint64_t scale_row, const SliceTarget& target) const;
  void code_row(const Job& job, std::uint64_t row, const SliceTarget& target, const SliceErrors& errors);

  Observer observer_;
  QuantArgs observer_args_;
  bool has_observer_ = false;
  ScaleSearch search_;
  std::vector<float> converted_, minima_, maxima_, row_minima_, row_maxima_, scales_, zero_points_, effective_;
  std::vector<float> values_, importance_;
};

}  // namespace quant::rtn
