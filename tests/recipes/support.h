// A small registry and short ways to read recipes.
#pragma once

#include <sstream>
#include <string>
#include <vector>

#include "quant/error.h"
#include "quant/recipe_yaml.h"
#include "quant/registry.h"

namespace quant::test {

class FakeQuantizer final : public Quantizer {
 public:
  CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const QuantArgs&) const override { return std::nullopt; }
  TensorParams prepare(const TensorView&, const QuantArgs&, std::span<const float>, int) const override { return {}; }
  void quantize_rows(const TensorView&, const QuantArgs&, DType, const TensorParams&, std::span<const float>,
                     QuantizedTensor&, SliceErrors) const override {}
};

class FakeTransform final : public Algorithm {
 public:
  Role role() const override { return Role::transform; }
  CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const QuantArgs&) const override { return std::nullopt; }
};

/// "QuantizationModifier", which quantizes, and "ShiftModifier", a transform with a parameter of each type.
inline const Registry& registry() {
  static const Registry filled = [] {
    Registry result;
    AlgorithmEntry rtn;
    rtn.name = "rtn";
    rtn.modifier = "QuantizationModifier";
    rtn.create = [](const Parameters&) { return std::make_unique<FakeQuantizer>(); };
    result.add(std::move(rtn));
    AlgorithmEntry shift;
    shift.name = "shift";
    shift.modifier = "ShiftModifier";
    using Type = ParameterSpec::Type;
    shift.parameters = {{"strength", Type::number, 0.5, "how much"},
                        {"steps", Type::integer, std::int64_t{20}, "how often"},
                        {"both", Type::boolean, true, "up and down"},
                        {"mode", Type::text, std::string("mean"), "which way"}};
    shift.create = [](const Parameters& parameters) -> std::unique_ptr<Algorithm> {
      const double strength = std::get<double>(parameters.at("strength"));
      if (strength < 0) throw Error(ErrorCode::recipe, "strength: must not be negative");
      return std::make_unique<FakeTransform>();
    };
    result.add(std::move(shift));
    return result;
  }();
  return filled;
}

inline Recipe parse(const std::string& text, const RecipeVariables& variables = {}) {
  return parse_recipe(text, "r.yaml", variables, registry());
}

/// The lines of the error that reading `text` ends in; empty if it can be read.
inline std::vector<std::string> mistakes(const std::string& text, const RecipeVariables& variables = {}) {
  std::vector<std::string> lines;
  try {
    parse(text, variables);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::recipe) lines.emplace_back("another error code");
    std::istringstream stream(error.what());
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
  }
  return lines;
}

/// The fields of one QuantizationModifier, given as indented YAML, as a whole recipe; they begin in line 4, column 7.
inline std::string with_fields(const std::string& fields) {
  std::string text = "a_stage:\n  b_modifiers:\n    QuantizationModifier:\n";
  std::istringstream stream(fields);
  for (std::string line; std::getline(stream, line);) text += "      " + line + "\n";
  return text;
}

/// As with_fields, but the arguments of the weights of one group; they begin in line 8, column 13.
inline std::string with_args(const std::string& args) {
  std::string fields = "config_groups:\n  g:\n    targets: [Linear]\n    weights:\n";
  std::istringstream stream(args);
  for (std::string line; std::getline(stream, line);) fields += "      " + line + "\n";
  return with_fields(fields);
}

inline bool same(const RecipeScheme& a, const RecipeScheme& b) {
  return a.name == b.name && a.preset == b.preset && a.scheme == b.scheme;
}

/// Equal but for places and the text.
inline bool same(const Recipe& a, const Recipe& b) {
  if (a.name != b.name || a.modifiers.size() != b.modifiers.size()) return false;
  for (std::size_t i = 0; i < a.modifiers.size(); ++i) {
    const RecipeModifier& x = a.modifiers[i];
    const RecipeModifier& y = b.modifiers[i];
    if (x.type != y.type || x.stage != y.stage || x.group != y.group || x.parameters != y.parameters) return false;
    if (x.bypass_divisibility_checks != y.bypass_divisibility_checks) return false;
    if (x.schemes.size() != y.schemes.size() || x.ignore.size() != y.ignore.size()) return false;
    for (std::size_t k = 0; k < x.schemes.size(); ++k) {
      if (!same(x.schemes[k], y.schemes[k])) return false;
    }
    for (std::size_t k = 0; k < x.ignore.size(); ++k) {
      if (x.ignore[k].text != y.ignore[k].text) return false;
    }
  }
  return true;
}

}  // namespace quant::test
