// GPTQ: codes that compensate each other's errors on given inputs. Library quant::algorithms.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "quant/calibrated.h"
#include "quant/quantized_tensor.h"

namespace quant {

/// In which order the columns of a weight are coded; later ones compensate earlier ones' errors.
enum class ColumnOrder {
  none,        ///< as they are
  weight,      ///< by falling diagonal of H; scales belong to the columns as they are
  group,       ///< the same, and groups are formed in that order: the result has a group_index
  group_aware  ///< groups by falling diagonal, and columns within each; the result needs no group_index
};
std::string_view to_string(ColumnOrder order);

/// How scales are chosen before the first column is coded.
enum class ScaleSearch {
  none,      ///< by the scheme's observer
  diagonal,  ///< by least squared error, each column weighted with its diagonal element of H
  solve      ///< per row the best of several ranges, each tried with a whole solve
};
std::string_view to_string(ScaleSearch search);

struct GptqOptions {
  std::uint64_t block_size = 128;           ///< columns whose errors are passed on together; 1..65536
  double dampening_frac = 0.01;             ///< of the mean diagonal of H, added to the diagonal; >= 0
  double dampening_increment = 0.01;        ///< first step of the ladder if H is not positive definite then; > 0
  ColumnOrder order = ColumnOrder::weight;  ///< where the scheme has no actorder of its own
  bool static_groups = true;                ///< false: a group's scales follow from its weights when it is reached
                                            ///< (where the order keeps groups together)
  bool zero_dead_columns = false;           ///< true: weights of inputs that were always 0 become 0
  std::uint64_t fallback_threshold = 32;    ///< fewer tokens than these: round to nearest
  ScaleSearch scale_search = ScaleSearch::none;
  std::uint64_t refine_rounds =
      0;                     ///< passes over codes (and scales) after the last column: coordinate descent; <= 1000
  bool refit_scales = true;  ///< a round gives each group the scale that suits its codes best
  double asymmetric = 0;     ///< 0..1: how much of the error of earlier layers is compensated (GPTAQ's alpha); 0: none
  double residual = 0;       ///< 0..1: how much of the error of what its outputs are added to is compensated; 0: none
};

/// The result of coding one matrix.
struct GptqResult {
  QuantizedTensor tensor;
  SolveRecord record;
};

/// Quantizes `weight` [rows, cols] so that tr((W - Q) H (W - Q)^T) is small, H = `inputs`.gram = X^T X / tokens
/// [cols, cols]. Uses the parts of `inputs` that gptq_needs(options) names. Scales are stored as args.scale_dtype, else
/// F32. The result does not depend on `threads`. Never fails for what H is: see SolveRecord. Throws Error{usage} for
/// arguments or options that break a rule or sizes that do not fit, Error{numerical} for NaN or infinite weights.
/// Source: Frantar et al., "GPTQ" (arXiv 2210.17323); asymmetric: Li et al., "GPTAQ" (arXiv 2504.02692).
GptqResult gptq_quantize(std::span<const float> weight, std::uint64_t rows, const InputStatistics& inputs,
                         QuantArgs args, const GptqOptions& options = {}, int threads = 1);

/// The statistics that gptq_quantize reads with these options.
CalibrationNeeds gptq_needs(const GptqOptions& options);

/// The same as an algorithm object, for pipelines. Throws Error{usage} for options out of range.
std::unique_ptr<CalibratedQuantizer> make_gptq(const GptqOptions& options = {});

}  // namespace quant
