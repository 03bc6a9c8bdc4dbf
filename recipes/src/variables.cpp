#include "variables.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_set>
#include <vector>

#include "fields.h"

namespace quant::recipe_yaml {
namespace {

struct Variable {
  std::optional<std::string> value;  ///< nothing: must be set by the user
  bool plain = true;
  bool used = false;
  bool sound = true;  ///< false: its value is a mistake already
};
using Variables = std::map<std::string, Variable>;

bool starts_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool continues_name(char c) { return starts_name(c) || (c >= '0' && c <= '9'); }

/// What stands at a dollar sign.
struct Reference {
  enum class Kind { dollar, escaped, variable, malformed };
  Kind kind = Kind::dollar;
  std::string name;
  std::size_t length = 1;  ///< bytes
};

std::size_t name_end(std::string_view text, std::size_t at) {
  if (at >= text.size() || !starts_name(text[at])) return at;
  while (at < text.size() && continues_name(text[at])) ++at;
  return at;
}

Reference reference_at(std::string_view text, std::size_t at) {
  const char next = at + 1 < text.size() ? text[at + 1] : '\0';
  if (next == '$') return {Reference::Kind::escaped, {}, 2};
  const bool braced = next == '{';
  if (!braced && !starts_name(next)) return {};
  const std::size_t begin = at + (braced ? 2 : 1);
  const std::size_t end = name_end(text, begin);
  if (braced && (end == begin || end >= text.size() || text[end] != '}')) return {Reference::Kind::malformed, {}, 2};
  return {Reference::Kind::variable, std::string(text.substr(begin, end - begin)), end + (braced ? 1 : 0) - at};
}

/// The text as a recipe must write it to mean `text`: dollars that would begin a variable are doubled.
std::string escape_dollars(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char next = i + 1 < text.size() ? text[i + 1] : '\0';
    if (text[i] == '$' && (next == '$' || next == '{' || starts_name(next))) result += '$';
    result += text[i];
  }
  return result;
}

/// True if YAML reads `text`, written without quotes in any place, as that one-line scalar.
bool can_be_plain(std::string_view text) {
  static constexpr std::string_view kIndicators = "?:,[]{}#&*!|>'\"%@`<=";
  if (text.empty() || text.front() == ' ' || text.back() == ' ' || text.back() == ':') return false;
  if (kIndicators.find(text.front()) != std::string_view::npos || text.substr(0, 3) == "...") return false;
  if (text.front() == '-' && (text.size() == 1 || !continues_name(text[1]))) return false;
  const bool clean = std::all_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) >= 0x20 && static_cast<unsigned char>(c) < 0x7F &&
           std::string_view(",[]{}?").find(c) == std::string_view::npos;
  });
  return clean && text.find(": ") == std::string_view::npos && text.find(" #") == std::string_view::npos;
}

std::string double_quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') result += '\\';
    if (byte < 0x20 || byte == 0x7F) {
      result += fmt::format("\\x{:02x}", byte);
    } else {
      result += c;
    }
  }
  return result + '"';
}

std::string rendered(std::string_view text, bool plain) {
  const std::string escaped = escape_dollars(text);
  return plain && can_be_plain(escaped) ? escaped : double_quoted(escaped);
}

struct Edit {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::string replacement;
};

std::size_t closing_quote(std::string_view text, std::size_t at) {
  const char quote = text[at];
  for (++at; at < text.size(); ++at) {
    if (quote == '"' && text[at] == '\\') {
      ++at;
    } else if (text[at] == quote) {
      if (quote == '"' || at + 1 >= text.size() || text[at + 1] != '\'') return at;
      ++at;
    }
  }
  return std::string_view::npos;
}

/// Where the scalar stands in the text; nothing for block scalars and plain scalars of several lines.
std::optional<Edit> span_of(std::string_view text, const Node& node) {
  std::size_t at = node.offset;
  if (at < text.size() && text[at] == '&') {  // an anchor
    at = text.find_first_of(" \t\r\n", at);
    at = at == std::string_view::npos ? at : text.find_first_not_of(" \t\r\n", at);
  }
  if (at >= text.size()) return std::nullopt;
  if (node.plain) {
    if (text.compare(at, node.text.size(), node.text) != 0) return std::nullopt;
    return Edit{at, at + node.text.size(), {}};
  }
  if (text[at] != '"' && text[at] != '\'') return std::nullopt;
  const std::size_t end = closing_quote(text, at);
  return end == std::string_view::npos ? std::nullopt : std::optional<Edit>(Edit{at, end + 1, {}});
}

void set_scalar(Node& node, std::string text, bool plain) {
  node.plain = plain && can_be_plain(text);
  node.text = std::move(text);
  if (node.plain && is_null_text(node.text)) node.kind = Node::Kind::null;
}

class Substitution {
 public:
  Substitution(Document& document, std::string_view text, const RecipeVariables& settings, Mistakes& mistakes)
      : document_(document), text_(text), settings_(settings), mistakes_(mistakes) {}

  std::string run() {
    for (const auto& [name, value] : settings_) variables_[name] = {value, can_be_plain(value)};
    read_defaults();
    for (Node& node : document_.nodes) {
      if (node.is_key || !node.is(Node::Kind::scalar) || node.text.find('$') == std::string::npos) continue;
      if (!defaults_.contains(&node)) replace_in(node);
    }
    check_settings();
    std::string result = edited_text();
    if (!edits_.empty()) check_limits(result);
    return result;
  }

 private:
  /// Aliases may have multiplied what the variables' values are long. Ends the reading if they have.
  void check_limits(const std::string& result) {
    Mistakes found("");
    if (read_document(result, found).root != nullptr) return;
    mistakes_.add({}, "with the variables' values put in, the recipe breaks the limits of size (docs/recipes.md)");
    mistakes_.throw_if_any();
  }

  void read_defaults() {
    const Node::Entry* args = document_.root->find("args");
    if (args == nullptr || args->value->is(Node::Kind::null)) return;
    if (!is_map(mistakes_, *args->value, "args")) return;
    for (auto& entry : args->value->entries) read_default(entry);
  }

  void read_default(const Node::Entry& entry) {
    Node& node = *entry.value;
    if (entry.key.empty() || name_end(entry.key, 0) != entry.key.size()) {
      mistakes_.add(entry.where,
                    fmt::format("args: {} is no variable name (letters, digits and _)", in_quotes(entry.key)));
      return;
    }
    if (!node.is(Node::Kind::scalar) && !node.is(Node::Kind::null)) {
      mistakes_.add(node.where, fmt::format("args.{}: expected a single value, found {}", entry.key, describe(node)));
      variables_.try_emplace(entry.key, Variable{std::string(), false, false, false});
      return;
    }
    if (node.is(Node::Kind::null)) {
      variables_.try_emplace(entry.key);
      return;
    }
    if (node.offset < entry.offset) {
      mistakes_.add(entry.where, fmt::format("args.{}: write the value itself, not an alias", entry.key));
      return;
    }
    defaults_.insert(&node);
    const std::string literal = without_escapes(node, entry.key);
    const auto setting = settings_.find(entry.key);
    if (setting == settings_.end()) {
      variables_[entry.key] = {literal, node.plain};
      node.text = literal;
    } else {
      put(node, setting->second, can_be_plain(setting->second), fmt::format("args.{}", entry.key));
    }
  }

  std::string without_escapes(const Node& node, const std::string& name) {
    std::string result;
    for (std::size_t i = 0; i < node.text.size();) {
      const Reference reference = node.text[i] == '$' ? reference_at(node.text, i) : Reference{};
      if (reference.kind == Reference::Kind::variable || reference.kind == Reference::Kind::malformed) {
        mistakes_.add(node.where,
                      fmt::format("args.{}: a variable's value cannot use variables ('$$' is a dollar)", name));
      }
      result += node.text[i];
      i += reference.length;
    }
    return result;
  }

  /// The variable's value; adds a mistake if it has none.
  const Variable* use(const std::string& name, Place where) {
    const auto found = variables_.find(name);
    if (found != variables_.end()) {
      found->second.used = true;
      if (!found->second.sound) return nullptr;
      if (found->second.value) return &found->second;
      mistakes_.add(where, fmt::format("the variable '{}' must be set: --set {}=VALUE", name, name));
      return nullptr;
    }
    std::string hint = "; give it a value under 'args'";
    if (!variables_.empty()) hint = suggestion(name, names(), "the variables");
    mistakes_.add(where, fmt::format("unknown variable {}{} (a dollar is written '$$')", in_quotes(name), hint));
    return nullptr;
  }

  void replace_in(Node& node) {
    std::string result;
    std::size_t variables = 0;
    const std::string source = node.text;
    bool plain = node.plain;
    for (std::size_t i = 0; i < source.size();) {
      const Reference reference = source[i] == '$' ? reference_at(source, i) : Reference{};
      if (reference.kind == Reference::Kind::malformed) {
        mistakes_.add(node.where, "'${' must be followed by a variable name and '}' (a dollar is written '$$')");
        return;
      }
      if (reference.kind == Reference::Kind::variable) {
        const Variable* variable = use(reference.name, node.where);
        if (variable == nullptr) {
          mistakes_.settle(node.where);
          return;
        }
        if (reference.length == source.size()) plain = plain && variable->plain;
        result += *variable->value;
        ++variables;
      } else {
        result += source[i];
      }
      i += reference.length;
    }
    if (variables == 0) {
      node.text = result;  // the text keeps its '$$'
    } else if (result.size() > kLongestScalar) {
      mistakes_.add(node.where, fmt::format("a value of {} bytes, at most {} are read", result.size(), kLongestScalar));
    } else {
      put(node, result, plain, "variables");
    }
  }

  void put(Node& node, const std::string& value, bool plain, std::string_view field) {
    auto edit = span_of(text_, node);
    if (!edit) {
      mistakes_.add(node.where, fmt::format("{}: only values on one line can be replaced", field));
      return;
    }
    set_scalar(node, value, plain);
    edit->replacement = rendered(value, node.plain || node.is(Node::Kind::null));
    added_bytes_ += edit->replacement.size();
    edits_.push_back(std::move(*edit));
    if (added_bytes_ > kLongestText) {
      mistakes_.add(node.where, fmt::format("the variables' values add up to more than {} bytes", kLongestText));
      mistakes_.throw_if_any();
    }
  }

  void check_settings() {
    for (const auto& [name, variable] : variables_) {
      if (variable.used || !settings_.contains(name)) continue;
      std::vector<std::string> used;
      for (const auto& [other, state] : variables_) {
        if (state.used || !settings_.contains(other)) used.push_back(other);
      }
      const std::string hint = used.empty() ? "; it uses no variables" : suggestion(name, used, "its variables");
      mistakes_.add({}, fmt::format("--set {}: the recipe does not use {}{}", name, in_quotes(name), hint));
    }
  }

  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& [name, variable] : variables_) list.push_back(name);
    return list;
  }

  std::string edited_text() {
    std::sort(edits_.begin(), edits_.end(), [](const Edit& a, const Edit& b) { return a.begin < b.begin; });
    std::string result;
    std::size_t at = 0;
    for (const auto& edit : edits_) {
      result += text_.substr(at, edit.begin - at);
      result += edit.replacement;
      at = edit.end;
    }
    return result += text_.substr(at);
  }

  Document& document_;
  std::string_view text_;
  const RecipeVariables& settings_;
  Mistakes& mistakes_;
  Variables variables_;
  std::unordered_set<const Node*> defaults_;
  std::vector<Edit> edits_;
  std::size_t added_bytes_ = 0;
};

}  // namespace

std::string substitute_variables(Document& document, std::string_view text, const RecipeVariables& settings,
                                 Mistakes& mistakes) {
  return Substitution(document, text, settings, mistakes).run();
}

}  // namespace quant::recipe_yaml
