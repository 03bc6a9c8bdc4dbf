#include "fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/names.h"

namespace quant::recipe_yaml {
namespace {

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::tolower(c); });
  return result;
}

std::optional<bool> as_bool(std::string_view text) {
  const std::string word = lower(text);
  if (word == "true" || word == "yes" || word == "on") return true;
  if (word == "false" || word == "no" || word == "off") return false;
  return std::nullopt;
}

std::string_view unsigned_part(std::string_view text) {
  if (!text.empty() && (text.front() == '+' || text.front() == '-')) text.remove_prefix(1);
  return text;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Decimal digits with a sign; a leading zero is octal in YAML 1.1 and decimal in 1.2, so it is neither here.
bool looks_like_integer(std::string_view text) {
  text = unsigned_part(text);
  if (text.empty() || (text.size() > 1 && text.front() == '0')) return false;
  return std::all_of(text.begin(), text.end(), is_digit);
}

template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<double> as_number(std::string_view text) {
  const std::string_view digits = unsigned_part(text);
  if (digits.empty() || !(is_digit(digits.front()) || digits.front() == '.')) return std::nullopt;
  if (digits.size() > 1 && digits[0] == '0' && is_digit(digits[1])) return std::nullopt;
  const auto value = parse_number<double>(text);
  return value && std::isfinite(*value) ? value : std::nullopt;
}

std::optional<KwValue> resolve(const Node& node) {
  if (!node.is(Node::Kind::scalar)) return std::nullopt;
  if (!node.plain) return KwValue(node.text);
  if (const auto truth = as_bool(node.text)) return KwValue(*truth);
  if (looks_like_integer(node.text)) {
    if (const auto whole = parse_number<std::int64_t>(node.text)) return KwValue(*whole);
  } else if (const auto number = as_number(node.text)) {
    return KwValue(*number);
  }
  return KwValue(node.text);
}

void expected(Mistakes& mistakes, const Node& node, std::string_view field, std::string_view what) {
  mistakes.add(node.where, fmt::format("{}: expected {}, found {}", field, what, describe(node)));
}

std::optional<Pattern> read_pattern(Mistakes& mistakes, const Node& node, std::string_view field) {
  const auto text = read_text(mistakes, node, field);
  if (!text) return std::nullopt;
  if (text->empty() || *text == "re:") {
    mistakes.add(node.where, fmt::format("{}: an empty entry matches nothing", field));
    return std::nullopt;
  }
  try {
    const NamePattern check(*text);
  } catch (const Error& error) {
    mistakes.add(node.where, fmt::format("{}: {}", field, error.what()));
    return std::nullopt;
  }
  return Pattern{*text, mistakes.at(node.where)};
}

nlohmann::ordered_json json_of(const Node& node) {
  nlohmann::ordered_json json;
  if (node.is(Node::Kind::list)) {
    json = nlohmann::ordered_json::array();
    for (const Node* item : node.items) json.push_back(json_of(*item));
  } else if (node.is(Node::Kind::map)) {
    json = nlohmann::ordered_json::object();
    for (const auto& entry : node.entries) json[entry.key] = json_of(*entry.value);
  } else if (const auto value = resolve(node)) {
    std::visit([&](const auto& scalar) { json = scalar; }, *value);
  }
  return json;
}

}  // namespace

std::string describe(const Node& node) {
  if (node.is(Node::Kind::null)) return "nothing";
  if (node.is(Node::Kind::list)) return "a list";
  if (node.is(Node::Kind::map)) return "a mapping";
  const KwValue value = resolve(node).value_or(KwValue(node.text));
  if (std::holds_alternative<bool>(value)) return "the boolean " + node.text;
  if (std::holds_alternative<std::int64_t>(value)) return "the integer " + node.text;
  if (std::holds_alternative<double>(value)) return "the number " + node.text;
  return "the text " + in_quotes(node.text);
}

const Node* given(const Node& map, std::string_view key) {
  const Node::Entry* entry = map.find(key);
  return entry == nullptr || entry->value->is(Node::Kind::null) ? nullptr : entry->value;
}

void check_keys(Mistakes& mistakes, const Node& map, const std::vector<std::string>& known, std::string_view owner) {
  for (const auto& entry : map.entries) {
    if (std::find(known.begin(), known.end(), entry.key) != known.end()) continue;
    const std::string hint = mistakes.crowded() ? std::string() : suggestion(entry.key, known, "its fields");
    mistakes.add(entry.where, fmt::format("unknown field {} in {}{}", in_quotes(entry.key), owner, hint));
  }
}

bool is_map(Mistakes& mistakes, const Node& node, std::string_view field) {
  if (node.is(Node::Kind::map)) return true;
  expected(mistakes, node, field, "a mapping");
  return false;
}

std::optional<bool> read_bool(Mistakes& mistakes, const Node& node, std::string_view field) {
  const auto value = resolve(node);
  if (value && std::holds_alternative<bool>(*value)) return std::get<bool>(*value);
  expected(mistakes, node, field, "true or false");
  return std::nullopt;
}

std::optional<std::int64_t> read_integer(Mistakes& mistakes, const Node& node, std::string_view field) {
  const auto value = resolve(node);
  if (value && std::holds_alternative<std::int64_t>(*value)) return std::get<std::int64_t>(*value);
  expected(mistakes, node, field, "an integer");
  return std::nullopt;
}

std::optional<double> read_number(Mistakes& mistakes, const Node& node, std::string_view field) {
  const auto value = resolve(node);
  if (value && std::holds_alternative<double>(*value)) return std::get<double>(*value);
  if (value && std::holds_alternative<std::int64_t>(*value)) return static_cast<double>(std::get<std::int64_t>(*value));
  expected(mistakes, node, field, "a number");
  return std::nullopt;
}

std::optional<std::string> read_text(Mistakes& mistakes, const Node& node, std::string_view field) {
  const auto value = resolve(node);
  if (value && std::holds_alternative<std::string>(*value)) return node.text;
  expected(mistakes, node, field, "a text");
  return std::nullopt;
}

std::optional<std::string> read_choice(Mistakes& mistakes, const Node& node, std::string_view field,
                                       const std::vector<std::string>& choices) {
  const auto text = read_text(mistakes, node, field);
  if (!text) return std::nullopt;
  for (const auto& choice : choices) {
    if (lower(choice) == lower(*text)) return choice;
  }
  mistakes.add(node.where, fmt::format("{}: unknown value {}{}", field, in_quotes(*text),
                                       suggestion(*text, choices, "its values")));
  return std::nullopt;
}

std::optional<KwValue> read_value(Mistakes& mistakes, const Node& node, std::string_view field) {
  auto value = resolve(node);
  if (!value) expected(mistakes, node, field, "a single value");
  return value;
}

std::string json_text(const Node& node) {
  return json_of(node).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::vector<Pattern> read_patterns(Mistakes& mistakes, const Node& node, std::string_view field) {
  std::vector<Pattern> patterns;
  if (node.is(Node::Kind::map)) {
    expected(mistakes, node, field, "a text or a list of texts");
    return patterns;
  }
  if (!node.is(Node::Kind::list)) {
    if (auto pattern = read_pattern(mistakes, node, field)) patterns.push_back(std::move(*pattern));
    return patterns;
  }
  for (const Node* item : node.items) {
    if (auto pattern = read_pattern(mistakes, *item, field)) patterns.push_back(std::move(*pattern));
  }
  return patterns;
}

}  // namespace quant::recipe_yaml
