// The difference between two checkpoints of one model, quantized or not.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quant/logical_tensors.h"
#include "quant/metrics.h"

namespace quant {

/// One tensor that both checkpoints have in the same shape. The first checkpoint is the reference.
struct TensorComparison {
  std::string name;
  Shape shape;
  std::string storage_a;  ///< "F16", or the scheme of a quantized weight: "int4 sym group 128"
  std::string storage_b;
  bool numeric = true;            ///< false: compared byte by byte; `sums` is empty
  bool floating = true;           ///< weights rather than indices or masks; only these enter the totals
  std::uint64_t differing = 0;    ///< elements of different value (NaN equals NaN); bytes where not numeric
  std::uint64_t nonfinite_a = 0;  ///< NaN and infinite values
  std::uint64_t nonfinite_b = 0;
  ErrorSums sums;  ///< over the elements that are finite in both

  bool exact() const { return differing == 0; }
};

struct ShapeMismatch {
  std::string name;
  Shape shape_a;
  Shape shape_b;
};

struct Comparison {
  std::vector<TensorComparison> tensors;  ///< in the order of the first checkpoint
  std::vector<ShapeMismatch> mismatches;
  std::vector<std::string> only_a;  ///< names that only the first checkpoint has
  std::vector<std::string> only_b;
  ErrorSums total;    ///< all floating tensors
  ErrorSums changed;  ///< floating tensors that are not exact

  /// Same tensors, shapes and values; how they are stored does not matter.
  bool equal() const;
};

/// Reads both checkpoints once, in blocks of rows. Values wider than float32 (F64, 32- and 64-bit integers) are
/// compared exactly where both sides store them in one type, and as float32 otherwise. Throws as LogicalTensors.
Comparison compare_checkpoints(const Checkpoint& reference, const Checkpoint& other, const Registry& registry,
                               const ScanOptions& options = {});

/// How a tensor is stored: "F16", or its scheme.
std::string describe_storage(const LogicalTensor& tensor);

}  // namespace quant
