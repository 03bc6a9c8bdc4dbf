// LLM.int8(): 8-bit weights with a scale per row, for products whose outlier columns stay float.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "quant/algorithm.h"
#include "quant/calibrated.h"

namespace quant {

/// Codes `weight` [rows, cols] as bitsandbytes' int8_vectorwise_quant does: code = round(w * (127 / m)), ties to even,
/// in float32, with m the largest magnitude of the row; the scale is m / 127. `args`: 8-bit integers, symmetric, of the
/// restricted range, strategy channel. A row of zeros gets the smallest scale. Uses all processors; the result does not
/// depend on their number.
/// Errors: Error{usage} for other arguments, Error{numerical} for a weight that is not finite.
/// Source: Dettmers et al. 2022, LLM.int8() (arXiv 2208.07339), section 2; bitsandbytes, int8_vectorwise_quant.
QuantizedTensor llm_int8_quantize(const TensorView& weight, QuantArgs args);
std::unique_ptr<Quantizer> make_llm_int8();

/// Of the inputs of a linear: columns that reach the threshold in any token.
struct OutlierColumns {
  std::uint64_t count = 0;
  std::uint64_t columns = 0;
  float largest = 0;  ///< magnitude of all columns
};
/// `absmax`: of each column. A threshold of 0 finds none.
OutlierColumns count_outlier_columns(std::span<const float> absmax, double threshold);

/// The same codes, and a note for the report that counts outlier columns with the threshold of each linear's inputs
/// (QuantArgs::outlier_threshold). Needs calibration data.
std::unique_ptr<CalibratedQuantizer> make_llm_int8_with_statistics();

}  // namespace quant
