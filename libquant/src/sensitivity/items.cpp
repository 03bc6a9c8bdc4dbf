#include "sensitivity/items.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "quant/error.h"

namespace quant::sensitivity {
namespace {

/// Planned linears by module, so that the program's weights find theirs.
std::map<std::string, std::size_t> planned_linears(const Plan& plan) {
  std::map<std::string, std::size_t> linears;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) linears.emplace(plan.linears[i].shape.module, i);
  return linears;
}

void add_items(const Program& program, std::size_t part, bool independent, std::map<std::string, std::size_t>& linears,
               std::vector<Item>& items) {
  for (std::size_t op = 0; op < program.ops.size(); ++op) {
    const auto* linear = std::get_if<LinearOp>(&program.ops[op]);
    if (linear == nullptr) continue;
    Item item{part, op, {}, {}};
    for (const LinearWeight& weight : linear->weights) {
      const auto found = linears.find(weight.module);
      if (found == linears.end()) continue;
      item.linears.push_back(found->second);
      item.weights.push_back(&weight);
      linears.erase(found);
      if (!independent) continue;
      items.push_back(item);
      item = {part, op, {}, {}};
    }
    if (!item.linears.empty()) items.push_back(std::move(item));
  }
}

}  // namespace

std::vector<Item> find_items(const Plan& plan, const ModelProgram& program, bool independent) {
  auto linears = planned_linears(plan);
  std::vector<Item> items;
  for (std::size_t part = 0; part < program.blocks.size(); ++part) {
    add_items(program.blocks[part], part, independent, linears, items);
  }
  add_items(program.head, program.blocks.size(), independent, linears, items);
  if (linears.empty()) return items;
  throw Error(ErrorCode::unsupported,
              fmt::format("the sensitivity of '{}' cannot be measured: it is no linear of the {} program",
                          linears.begin()->first, program.family),
              "add it to the recipe's 'ignore'", "NotInProgram");
}

double operations_of(const Op& op) {
  const auto* linear = std::get_if<LinearOp>(&op);
  if (linear == nullptr) return 0;
  // Of experts, as if each token went through all of them: an upper bound.
  double operations = 0;
  for (const LinearWeight& weight : linear->weights) {
    operations += 2.0 * static_cast<double>(weight.rows) * static_cast<double>(weight.cols);
  }
  return operations;
}

double operations_from(const Program& program, std::size_t first) {
  double operations = 0;
  for (std::size_t op = first; op < program.ops.size(); ++op) operations += operations_of(program.ops[op]);
  return operations;
}

}  // namespace quant::sensitivity
