// Typed reading of nodes: each reader adds a mistake that says what was expected and what was found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "mistakes.h"
#include "quant/recipe.h"
#include "yaml_tree.h"

namespace quant::recipe_yaml {

/// "the text 'x'", "the integer 4", "a list", "nothing".
std::string describe(const Node& node);

/// The value of `key`, or null if the map does not have it or has it empty.
const Node* given(const Node& map, std::string_view key);

/// Adds a mistake for each key of `map` that is not among `known`. `owner` ends the sentence: "weights".
void check_keys(Mistakes& mistakes, const Node& map, const std::vector<std::string>& known, std::string_view owner);

/// True for a map; else adds a mistake: "<field>: expected a mapping, found ...".
bool is_map(Mistakes& mistakes, const Node& node, std::string_view field);

std::optional<bool> read_bool(Mistakes& mistakes, const Node& node, std::string_view field);
std::optional<std::int64_t> read_integer(Mistakes& mistakes, const Node& node, std::string_view field);
std::optional<double> read_number(Mistakes& mistakes, const Node& node, std::string_view field);
std::optional<std::string> read_text(Mistakes& mistakes, const Node& node, std::string_view field);
/// One of `choices`, case-insensitive; returns the spelling of the list.
std::optional<std::string> read_choice(Mistakes& mistakes, const Node& node, std::string_view field,
                                       const std::vector<std::string>& choices);
/// A scalar of whatever type it looks like.
std::optional<KwValue> read_value(Mistakes& mistakes, const Node& node, std::string_view field);
/// Any node as JSON text, scalars of whatever type they look like. Texts that are no UTF-8 are repaired.
std::string json_text(const Node& node);
/// A text or a list of texts; regexes are compiled, to find their mistakes.
std::vector<Pattern> read_patterns(Mistakes& mistakes, const Node& node, std::string_view field);

}  // namespace quant::recipe_yaml
