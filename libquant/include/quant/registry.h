// What this build can do: algorithms, layouts and containers, by name.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "quant/algorithm.h"
#include "quant/checkpoint.h"
#include "quant/layout.h"
#include "quant/scheme.h"

namespace quant {

/// One parameter that a recipe may give to a modifier.
struct ParameterSpec {
  enum class Type {
    boolean,
    integer,
    number,
    text,
    scalar,  ///< any single value, of the type it looks like: "0.5", "auto", "true"
    json     ///< any value, lists and mappings too, given to the algorithm as JSON text; empty text: not given
  };
  std::string name;
  Type type = Type::number;
  KwValue default_value;
  std::string help;
};

using Parameters = std::map<std::string, KwValue>;

struct AlgorithmEntry {
  std::string name;                       ///< "rtn"
  std::string modifier;                   ///< the recipe's name: "QuantizationModifier"
  std::string summary;                    ///< one line
  std::string source;                     ///< paper or reference
  std::vector<ParameterSpec> parameters;  ///< besides the fields that all quantizing modifiers share
  std::function<std::unique_ptr<Algorithm>(const Parameters&)> create;
  /// Transforms that are of use only before a quantizing modifier: the class that fields of a scheme given to the
  /// transform itself stand for, as if they were written in such a modifier right after it. Empty: no such demand.
  std::string followed_by = {};
};

/// Owns its entries; filled once at start and read-only afterwards.
class Registry {
 public:
  void add(AlgorithmEntry entry);
  void add(std::unique_ptr<Layout> layout);
  void add(std::unique_ptr<Container> container);

  const std::vector<AlgorithmEntry>& algorithms() const { return algorithms_; }
  const std::vector<std::unique_ptr<Layout>>& layouts() const { return layouts_; }
  const std::vector<std::unique_ptr<Container>>& containers() const { return containers_; }

  const AlgorithmEntry* algorithm(std::string_view name) const;       ///< null if absent
  const AlgorithmEntry* modifier(std::string_view class_name) const;  ///< null if absent
  const Layout* layout(std::string_view name) const;                  ///< null if absent
  const Container* container(std::string_view name) const;            ///< null if absent

 private:
  std::vector<AlgorithmEntry> algorithms_;
  std::vector<std::unique_ptr<Layout>> layouts_;
  std::vector<std::unique_ptr<Container>> containers_;
};

/// Defined by the library quant::algorithms (a list that CMake generates): adds every built-in algorithm.
void register_builtin_algorithms(Registry& registry);
/// Defined by the library quant::formats: adds every built-in layout and container.
void register_builtin_formats(Registry& registry);

}  // namespace quant
