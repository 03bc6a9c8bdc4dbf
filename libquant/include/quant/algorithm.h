// The interface that every compression algorithm implements.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quant/metrics.h"
#include "quant/quantized_tensor.h"
#include "quant/tensor.h"

namespace quant {

enum class Role {
  transform,  ///< rewrites float weights and keeps the model's function
  sparsify,   ///< sets weights to zero
  quantize    ///< chooses codes
};

/// Statistics of a linear's inputs that an algorithm asks the pipeline to collect.
struct CalibrationNeeds {
  bool absmax = false;
  bool mean_abs = false;
  bool gram = false;
  bool cross_gram = false;  ///< also runs the unquantized model beside the quantized one
  bool rows = false;
  bool residual = false;  ///< also runs the unquantized model, for linears whose output is added to the residual stream
  bool mean = false;
  bool square = false;  ///< mean x^2: what `gram` has as its diagonal, without the cost of a Gram matrix
  bool any() const { return absmax || mean_abs || mean || square || gram || cross_gram || residual || rows; }
  CalibrationNeeds& operator|=(const CalibrationNeeds& other);
};

/// Which weights of a tensor are stored apart, in row-major order: row r's columns are columns[starts[r]..starts[r +
/// 1]).
struct SparseChoice {
  std::vector<std::uint64_t> starts;   ///< [rows + 1]
  std::vector<std::uint32_t> columns;  ///< ascending within a row
};

/// What the rows of a tensor share and must be known before the first row is coded.
struct TensorParams {
  std::optional<float> scale;                          ///< Strategy::tensor
  std::optional<std::int8_t> zero_point;               ///< Strategy::tensor, asymmetric
  std::optional<float> global_scale;                   ///< NVFP4; empty means 1: a tensor of zeros has no range
  std::optional<float> scale_offset;                   ///< double_quant: CodedScales::offset
  std::shared_ptr<const std::vector<float>> codebook;  ///< learned, Strategy::tensor: 2^bits values
  std::shared_ptr<const SparseChoice> sparse;          ///< weights that are stored apart
  std::uint64_t first_row = 0;  ///< of the slice that is being coded; set by whoever calls quantize_rows
};

class Algorithm {
 public:
  virtual ~Algorithm() = default;
  virtual Role role() const = 0;
  virtual CalibrationNeeds needs() const = 0;
  /// Why this algorithm cannot make weights of these arguments, or nothing.
  virtual std::optional<std::string> unsupported(const QuantArgs& weights) const = 0;
  /// Fills in what this algorithm decides about how `weights` are stored and the scheme leaves open, such as an order
  /// of columns. A sentence that begins with the parameter's name where the scheme says otherwise; the scheme's word
  /// holds.
  virtual std::optional<std::string> complete(QuantArgs& /*weights*/) const { return std::nullopt; }
  /// Files beside model and recipe whose contents decide the result, in an order that does not depend on the machine:
  /// they are part of the plan's identity. Throws Error{io} for what is not there.
  virtual std::vector<std::filesystem::path> input_files() const { return {}; }
};

/// An algorithm that chooses codes. Objects are immutable and may be used by several threads at once.
class Quantizer : public Algorithm {
 public:
  Role role() const final { return Role::quantize; }

  /// `importance` may hold a number for each weight, [rows * cols], not only for each column.
  virtual bool weighs_each() const { return false; }
  /// Whether `importance` makes a difference to what it chooses for such weights.
  virtual bool weighs(const QuantArgs& /*args*/) const { return weighs_each(); }

  /// Tensor-wide values of `weight` [rows, cols]; reads all of it if the arguments need one, else returns at once.
  /// `importance`: weight of each column's squared error [cols], or empty. Uses up to `threads` threads; the result
  /// does not depend on their number.
  virtual TensorParams prepare(const TensorView& weight, const QuantArgs& args, std::span<const float> importance,
                               int threads) const = 0;

  /// What prepare() takes at most, in bytes, on `threads` threads for a weight [rows, cols] of type `weight`, beside
  /// the weight itself and a few of its rows on each thread.
  virtual std::uint64_t prepare_bytes(const QuantArgs& /*args*/, DType /*weight*/, std::uint64_t /*rows*/,
                                      std::uint64_t /*cols*/, int /*threads*/) const {
    return 0;
  }
  /// The same of one call of quantize_rows() for a slice [rows, cols], beside its result and two float copies of the
  /// rows that share a scale.
  virtual std::uint64_t slice_bytes(const QuantArgs& /*args*/, std::uint64_t /*rows*/, std::uint64_t /*cols*/) const {
    return 0;
  }

  /// Codes a slice of whole rows (a multiple of the scheme's block rows except at the tensor's end). Coding a tensor
  /// slice by slice gives the same result as coding it at once. `scale_dtype` is the type that scales are stored in.
  /// `errors`: what to measure on the way (see SliceErrors). Throws Error{numerical} naming row and column for a NaN or
  /// infinite weight.
  virtual void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype,
                             const TensorParams& params, std::span<const float> importance, QuantizedTensor& out,
                             SliceErrors errors) const = 0;
};

}  // namespace quant
