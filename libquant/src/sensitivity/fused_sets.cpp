// Which linears must share a scheme.
#include <map>
#include <string>

#include "quant/sensitivity.h"

namespace quant {
namespace {

// What vLLM loads as one linear (packed_modules_mapping of its models; MergedColumnParallelLinear refuses parts of
// different schemes).
std::string_view fused_name(std::string_view leaf) {
  for (const std::string_view name : {"q_proj", "k_proj", "v_proj"}) {
    if (leaf == name) return "qkv";
  }
  if (leaf == "gate_proj" || leaf == "up_proj" || leaf == "w1" || leaf == "w3") return "gate_up";
  if (leaf == "q_a_proj" || leaf == "kv_a_proj_with_mqa") return "qkv_a";
  return {};
}

/// Linears of one set have the same key.
std::string set_key(const std::string& module) {
  // All experts of a layer are computed by one kernel.
  if (const auto experts = module.find(".experts."); experts != std::string::npos) return module.substr(0, experts + 8);
  const auto dot = module.rfind('.');
  if (dot == std::string::npos) return module;
  const std::string_view fused = fused_name(std::string_view(module).substr(dot + 1));
  // '#' never stands in a name that a linear outside of the set could have.
  return fused.empty() ? module : module.substr(0, dot) + "#" + std::string(fused);
}

}  // namespace

std::vector<int> fused_sets(std::span<const std::string> modules, bool independent) {
  std::map<std::string, int> numbers;
  std::vector<int> sets;
  for (const std::string& module : modules) {
    const std::string key = independent ? module : set_key(module);
    sets.push_back(numbers.try_emplace(key, static_cast<int>(numbers.size())).first->second);
  }
  return sets;
}

}  // namespace quant
