#include "batch_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <type_traits>

namespace quant::recipe_yaml {
namespace {

bool has_letter(std::string_view text, std::size_t at, std::string_view letters) {
  return at < text.size() &&
         letters.find(static_cast<char>(std::toupper(static_cast<unsigned char>(text[at])))) != std::string_view::npos;
}

// "500M", "8G", "5GB", "1.5 GiB", "4096": as the command line reads sizes.
bool looks_like_size(std::string_view text) {
  std::size_t at = 0;
  bool digit = false;
  while (at < text.size() && (std::isdigit(static_cast<unsigned char>(text[at])) != 0 || text[at] == '.')) {
    digit = digit || text[at] != '.';
    ++at;
  }
  if (!digit || std::count(text.begin(), text.end(), '.') > 1) return false;
  while (at < text.size() && text[at] == ' ') ++at;
  if (has_letter(text, at, "KMGT")) {
    ++at;
    if (has_letter(text, at, "I")) ++at;
  }
  if (has_letter(text, at, "B")) ++at;
  return at == text.size();
}

std::string scalar_text(const KwValue& value, const Node& node) {
  if (std::holds_alternative<bool>(value)) return std::get<bool>(value) ? "true" : "false";
  return node.text;
}

std::vector<std::string> keys_of(const std::vector<BatchOption>& options) {
  std::vector<std::string> keys;
  for (const BatchOption& option : options) keys.emplace_back(option.key);
  return keys;
}

}  // namespace

const BatchOption* find_option(const std::vector<BatchOption>& options, std::string_view key) {
  const auto found =
      std::find_if(options.begin(), options.end(), [&](const BatchOption& option) { return option.key == key; });
  return found == options.end() ? nullptr : &*found;
}

std::string BatchItemReader::resolve(const std::string& path) const {
  const std::filesystem::path given(path);
  const bool alone = given.is_absolute() || folder_.empty();
  const auto whole = (alone ? given : std::filesystem::path(folder_) / given).lexically_normal();
  return whole.has_filename() || !whole.has_relative_path() ? whole.string() : whole.parent_path().string();
}

std::optional<Placed> BatchItemReader::placed_text(const Node& node, std::string_view field) {
  auto text = read_text(mistakes_, node, field);
  if (!text) return std::nullopt;
  if (text->empty()) {
    mistakes_.add(node.where, fmt::format("{}: an empty text", field));
    return std::nullopt;
  }
  if (text->find('\0') != std::string::npos) {
    mistakes_.add(node.where, fmt::format("{}: a text with a zero byte", field));
    return std::nullopt;
  }
  return Placed{std::move(*text), node.where};
}

std::optional<std::string> BatchItemReader::value_text(const Node& node, const BatchOption& option) {
  const std::string_view field = option.key;
  switch (option.value) {
    case BatchValue::flag: {
      const auto truth = read_bool(mistakes_, node, field);
      if (!truth) return std::nullopt;
      return *truth ? "true" : "false";
    }
    case BatchValue::count: {
      const auto whole = read_integer(mistakes_, node, field);
      if (whole && *whole < 0) mistakes_.add(node.where, fmt::format("{}: {} is below 0", field, *whole));
      if (!whole || *whole < 0) return std::nullopt;
      return std::to_string(*whole);
    }
    case BatchValue::number:
      return read_number(mistakes_, node, field) ? std::optional(node.text) : std::nullopt;
    case BatchValue::size:
      return read_size(node, field);
    case BatchValue::path:
    case BatchValue::text: {
      const auto text = placed_text(node, field);
      if (!text) return std::nullopt;
      return option.value == BatchValue::path ? resolve(text->text) : text->text;
    }
  }
  return std::nullopt;
}

std::optional<std::string> BatchItemReader::read_size(const Node& node, std::string_view field) {
  if (node.is(Node::Kind::scalar) && looks_like_size(node.text)) return node.text;
  mistakes_.add(node.where, fmt::format("{}: expected a size such as 8G, found {}", field, describe(node)));
  return std::nullopt;
}

void BatchItemReader::read_value(const Node::Entry& entry, const BatchOption& option,
                                 std::map<std::string, Placed>& options) {
  if (entry.value->is(Node::Kind::null)) {
    mistakes_.add(entry.where, fmt::format("{} has no value", option.key));
    return;
  }
  if (auto text = value_text(*entry.value, option)) {
    options[std::string(option.key)] = {std::move(*text), entry.value->where};
  }
}

void BatchItemReader::read_set(const Node& node, BatchItem& item) {
  if (!is_map(mistakes_, node, "set")) return;
  for (const auto& entry : node.entries) {
    const auto value = recipe_yaml::read_value(mistakes_, *entry.value, "set." + entry.key);
    if (value) item.set[entry.key] = {scalar_text(*value, *entry.value), entry.where};
  }
}

void BatchItemReader::read_convert(const Node& node, BatchItem& item) {
  BatchItem::Conversion convert;
  convert.where = node.where;
  if (!is_map(mistakes_, node, "convert")) return;
  std::map<std::string, Placed> options;
  std::vector<std::string> known = keys_of(batch_convert_options());
  known.insert(known.begin(), {"to", "output"});
  check_keys(mistakes_, node, known, "convert");
  for (const auto& entry : node.entries) {
    if (entry.key == "to") {
      if (auto to = placed_text(*entry.value, "to")) convert.to = std::move(*to);
    } else if (entry.key == "output") {
      convert.output = placed_text(*entry.value, "output");
    } else if (const BatchOption* option = find_option(batch_convert_options(), entry.key)) {
      read_value(entry, *option, options);
    }
  }
  if (given(node, "to") == nullptr) mistakes_.add(node.where, "convert: 'to' is missing: the format to convert to");
  for (auto& [key, value] : options) convert.options[key] = std::move(value.text);
  item.convert = std::move(convert);
}

BatchItem BatchItemReader::read_short(const Node& node, bool model, std::string_view owner) {
  BatchItem item;
  item.where = node.where;
  (model ? item.model : item.recipe) = placed_text(node, owner);
  return item;
}

BatchItem BatchItemReader::read(const Node& node, const ItemKeys& keys, std::string_view owner) {
  BatchItem item;
  item.where = node.where;
  if (!is_map(mistakes_, node, owner)) return item;
  std::vector<std::string> known = keys_of(batch_run_options());
  const std::pair<bool, const char*> more[] = {
      {keys.model, "model"}, {keys.recipe, "recipe"}, {keys.name, "name"}, {keys.output, "output"}};
  for (const auto& [allowed, key] : more) {
    if (allowed) known.emplace_back(key);
  }
  known.insert(known.end(), {"set", "convert"});
  check_keys(mistakes_, node, known, owner);
  for (const auto& entry : node.entries) {
    if (std::find(known.begin(), known.end(), entry.key) == known.end()) continue;
    if (entry.key == "model") {
      item.model = placed_text(*entry.value, "model");
    } else if (entry.key == "recipe") {
      item.recipe = placed_text(*entry.value, "recipe");
    } else if (entry.key == "name") {
      item.name = placed_text(*entry.value, "name");
    } else if (entry.key == "output") {
      item.output = placed_text(*entry.value, "output");
    } else if (entry.key == "set") {
      read_set(*entry.value, item);
    } else if (entry.key == "convert") {
      read_convert(*entry.value, item);
    } else if (const BatchOption* option = find_option(batch_run_options(), entry.key)) {
      read_value(entry, *option, item.options);
    }
  }
  return item;
}

}  // namespace quant::recipe_yaml
