// Biases that make up for what a changed weight takes from the mean of its outputs.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "quant/dtype.h"
#include "quant/report.h"

namespace quant {

struct BiasCorrection {
  std::vector<float> values;        ///< [rows]: the bias as it is stored
  std::vector<double> change;       ///< [rows]: it less what it was
  std::vector<double> error_mean;   ///< [rows]: (W - V) mean
  std::vector<double> output_mean;  ///< [rows]: V mean
  std::string note;                 ///< for the report
};

/// bias + (W - V) mean, rounded to `type`: `weight` W and `values` V [rows, cols], `mean` [cols] the mean inputs. Rows
/// where that is not finite keep their bias. Sums are in float64 and in order: threads do not change them.
BiasCorrection correct_bias(std::span<const float> bias, std::span<const float> weight, std::span<const float> values,
                            std::span<const float> mean, DType type, int threads);
/// What the outputs' errors, which are those of weights alone, become with it.
void include_bias(const BiasCorrection& bias, OutputErrors& errors);

}  // namespace quant
