// The tensors that a program needs, checked against those of the checkpoint.
#pragma once

#include <string>
#include <string_view>

#include "quant/logical_tensors.h"

namespace quant {

class ProgramTensors {
 public:
  ProgramTensors(const LogicalTensors& tensors, std::string_view model_type)
      : tensors_(tensors), model_type_(model_type) {}

  bool has(const std::string& name) const { return tensors_.find(name) != nullptr; }
  /// Returns the name. Throws Error{corrupt_file} if the tensor is missing, of another shape, or holds no numbers.
  std::string require(const std::string& name, const Shape& shape) const;
  const LogicalTensors& all() const { return tensors_; }

 private:
  const LogicalTensors& tensors_;
  std::string model_type_;
};

}  // namespace quant
