// Any bytes as a recipe: only quant::Error may come out, and what can be read must be stored as the same recipe.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "quant/error.h"
#include "quant/recipe_yaml.h"

namespace {

class NoAlgorithm final : public quant::Algorithm {
 public:
  quant::Role role() const override { return quant::Role::quantize; }
  quant::CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const quant::QuantArgs&) const override { return std::nullopt; }
};

const quant::Registry& registry() {
  static const quant::Registry filled = [] {
    quant::Registry result;
    quant::AlgorithmEntry entry;
    entry.name = "rtn";
    entry.modifier = "QuantizationModifier";
    entry.parameters = {{"strength", quant::ParameterSpec::Type::number, 0.5, "a number"},
                        {"any", quant::ParameterSpec::Type::scalar, true, "one value"},
                        {"tree", quant::ParameterSpec::Type::json, std::string(), "any value"}};
    entry.create = [](const quant::Parameters&) { return std::make_unique<NoAlgorithm>(); };
    result.add(std::move(entry));
    return result;
  }();
  return filled;
}

bool same_schemes(const quant::Recipe& a, const quant::Recipe& b) {
  if (a.modifiers.size() != b.modifiers.size()) return false;
  for (std::size_t i = 0; i < a.modifiers.size(); ++i) {
    const auto& x = a.modifiers[i];
    const auto& y = b.modifiers[i];
    if (x.schemes.size() != y.schemes.size() || x.ignore.size() != y.ignore.size()) return false;
    if (x.parameters != y.parameters) return false;
    for (std::size_t k = 0; k < x.schemes.size(); ++k) {
      if (!(x.schemes[k].scheme == y.schemes[k].scheme)) return false;
    }
    for (std::size_t k = 0; k < x.ignore.size(); ++k) {
      if (x.ignore[k].text != y.ignore[k].text) return false;
    }
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view text(reinterpret_cast<const char*>(data), size);
  // The first byte chooses a setting: most recipes do not use it, and then it is a mistake.
  quant::RecipeVariables settings;
  if (!text.empty() && text.front() == '\x01') {
    text.remove_prefix(1);
    const std::size_t end = text.find('\x01');
    settings["x"] = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  quant::Recipe recipe;
  try {
    recipe = quant::parse_recipe(text, "fuzz.yaml", settings, registry());
  } catch (const quant::Error&) {
    return 0;
  }
  const quant::Recipe again = quant::parse_recipe(recipe.text, "fuzz.yaml", {}, registry());
  if (!same_schemes(recipe, again)) std::abort();
  return 0;
}
