// Dense products by cuBLASLt, which is opened when it is first needed: a package that is linked against it could not be
// installed where it is not.
#pragma once

#include <memory>

#include "cuda/backend.h"

namespace quant::cuda {

enum class DenseType { f32, bf16, f16 };

class DenseLibrary {
 public:
  /// Null where the library of the version that this was compiled with is not found.
  static std::unique_ptr<DenseLibrary> open();
  virtual ~DenseLibrary() = default;

  /// y (float32, F16 where the operands are) = x w^T as DenseProduct has it, whose `bf16` is not looked at, on the
  /// current device. Returns a message, or null.
  virtual const char* multiply(const DenseProduct& product, DenseType type, void* workspace,
                               std::size_t workspace_bytes, void* stream) = 0;
};

}  // namespace quant::cuda
