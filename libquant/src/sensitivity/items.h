// What is measured: linears of a plan within the model's program.
#pragma once

#include <string>
#include <vector>

#include "quant/model_program.h"
#include "quant/sensitivity.h"

namespace quant::sensitivity {

/// Linears that are changed together: one, or the experts of one operation.
struct Item {
  std::size_t part = 0;  ///< block, or the number of blocks for the head
  std::size_t op = 0;
  std::vector<std::size_t> linears;          ///< indices into Plan::linears
  std::vector<const LinearWeight*> weights;  ///< of each
};

/// The items of a plan in the order of execution. Throws Error{unsupported} naming a linear that the program lacks.
std::vector<Item> find_items(const Plan& plan, const ModelProgram& program, bool independent);

/// Multiplications and additions of the linears of a part from operation `first` on, for one token.
double operations_from(const Program& program, std::size_t first);
/// Of one operation.
double operations_of(const Op& op);

}  // namespace quant::sensitivity
