// The interfaces of algorithms that look at the inputs of linears: error-compensating quantizers and transforms.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/algorithm.h"

namespace quant {

/// Statistics of the inputs X [tokens, cols] that one or several linears read. Parts that nobody asked for are empty.
struct InputStatistics {
  std::uint64_t tokens = 0;
  std::uint64_t cols = 0;
  std::vector<float> absmax;      ///< [cols]: max |x|
  std::vector<float> minimum;     ///< [cols]: min x; with absmax
  std::vector<float> maximum;     ///< [cols]: max x; with absmax
  std::vector<float> mean_abs;    ///< [cols]: mean |x|
  std::vector<float> mean;        ///< [cols]: mean x
  std::vector<float> square;      ///< [cols]: mean x^2; also the diagonal of `gram`, which stands in for it if empty
  std::vector<float> gram;        ///< [cols, cols]: H = X^T X / tokens, symmetric, both halves
  std::vector<float> cross_gram;  ///< [cols, cols]: (F - X)^T X / tokens, F the inputs in the unquantized model
  std::vector<float> residual;    ///< [outputs, cols]: (R_F - R)^T X / tokens, R what the one linear that reads X is
                                  ///< added to, and R_F the same in the unquantized model
  std::vector<float> rows;        ///< [n, cols]: rows of X at even distances, n <= kSampleRows
};
inline constexpr std::uint64_t kSampleRows = 512;

struct RunContext {
  int threads = 1;
  const std::atomic<bool>* stop = nullptr;  ///< set: leave soon with Error{interrupted}
};

/// What a solver says about one linear, for the report.
struct SolveRecord {
  double damping = 0;              ///< fraction of the mean diagonal that was added; 0: none
  std::string fallback;            ///< what was done instead of the method, and why; empty: the method itself
  std::vector<std::string> notes;  ///< remarks for the report
};

/// One linear of a group that reads the same inputs.
struct LinearTask {
  std::string module;
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  std::span<float> weight;  ///< [rows, cols] float32, finite; quantizers may overwrite it, transforms must not
  QuantArgs args;           ///< how it is (or will be) quantized
  std::optional<QuantArgs> input_args;  ///< how its inputs are (or will be) quantized; empty: they stay float
  bool quantized = true;                ///< false: a reader that keeps its float weight (a router); args mean nothing
  DType scale_dtype = DType::F32;
  TensorParams params;             ///< from Quantizer::prepare of the modifier's own range rule, or empty
  QuantizedTensor* out = nullptr;  ///< quantizers: the result
  SolveRecord record;
};

/// Chooses codes with the inputs in view: GPTQ and its kin. Objects are immutable.
class CalibratedQuantizer : public Algorithm {
 public:
  Role role() const final { return Role::quantize; }
  /// Codes all linears of a group, which share `inputs`, so that work that depends on the inputs alone (a factor of H)
  /// is done once. Never fails for what the data are: singular H, no tokens, dead channels end in a recorded fallback.
  /// The result does not depend on context.threads. Each out->codes are exact and its group_index is set for
  /// ActOrder::group. Throws Error{numerical} only for weights that are not finite.
  virtual void quantize(std::span<LinearTask> group, const InputStatistics& inputs,
                        const RunContext& context) const = 0;
  /// Multiplications and additions of quantize() for a group of linears with `rows` rows together and `cols` columns,
  /// where `parts` of the statistics are there. Orders time estimates and progress; need not be exact. This one is that
  /// of one factor of H and one sweep over the columns.
  virtual double operations(std::uint64_t rows, std::uint64_t cols, const CalibrationNeeds& parts) const;
};

/// How the tensor that a group of linears reads is made: what a smoothing factor is divided out of.
enum class ProducerKind {
  norm,           ///< weight (and bias) of a normalization
  value,          ///< value projection through attention: rows of v_proj; query heads of a group share channels
  gated_product,  ///< act(gate) * up: rows of up_proj
  relu,           ///< a linear through a ReLU: its rows (positive factors pass a ReLU)
  linear          ///< a linear directly
};

/// Linears that read one tensor whose channels can be rescaled.
struct SmoothingGroup {
  ProducerKind producer = ProducerKind::norm;
  std::string smooth_layer;       ///< module of the producer: "model.layers.0.input_layernorm"
  std::span<LinearTask> balance;  ///< every reader of the tensor, quantized or not
  std::vector<std::uint32_t>
      channel;  ///< [cols]: channel of the producer that feeds this column; empty: the same number
};

/// Rescales channels between a producer and its readers; the model's function stays. Objects are immutable.
class Transform : public Algorithm {
 public:
  Role role() const final { return Role::transform; }
  /// Whether this algorithm wants to rescale such a group (by kind and by its mappings).
  virtual bool wants(const SmoothingGroup& group) const = 0;
  /// Factors s [cols], positive and finite: the producer's channels are divided by s, the readers' columns multiplied.
  /// Equal for columns that the same channel feeds. Empty: leave the group as it is. `record`: for the report.
  virtual std::vector<float> factors(const SmoothingGroup& group, const InputStatistics& inputs,
                                     const RunContext& context, SolveRecord& record) const = 0;
  /// After folding, with `inputs` of the rescaled tensor: may change quantized readers' weights further (AWQ's
  /// clipping).
  virtual void adjust(std::span<LinearTask> readers, const InputStatistics& inputs, const RunContext& context) const {
    static_cast<void>(readers), static_cast<void>(inputs), static_cast<void>(context);
  }
};

/// Statistics of inputs whose channels are divided by s: what a new pass over the data would collect.
void rescale(InputStatistics& statistics, std::span<const float> s);

}  // namespace quant
