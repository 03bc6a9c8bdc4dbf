#include "quant_args_reader.h"

#include <fmt/format.h>

#include <charconv>
#include <limits>

#include "quant/block_encode.h"

namespace quant::recipe_yaml {
namespace {

const std::vector<std::string>& field_names() {
  static const std::vector<std::string> names = {
      "num_bits", "type",     "symmetric",    "group_size",      "strategy",          "block_structure",
      "dynamic",  "actorder", "scale_dtype",  "zp_dtype",        "observer",          "observer_kwargs",
      "codebook", "block",    "double_quant", "outlier_percent", "sensitive_percent", "outlier_threshold"};
  return names;
}

/// Reads the fields of one mapping into a draft.
class ArgsReader {
 public:
  ArgsReader(Mistakes& mistakes, const Node& node, ArgsDraft& draft)
      : mistakes_(mistakes), node_(node), draft_(draft), args_(draft.args) {}

  void read() {
    check_keys(mistakes_, node_, field_names(), draft_.owner);
    read_numbers();
    read_strategy();
    read_block_structure();
    read_dynamic();
    read_actorder();
    read_dtype("scale_dtype", args_.scale_dtype);
    read_dtype("zp_dtype", args_.zp_dtype);
    if (const Node* node = given(node_, "observer")) args_.observer = read_text(mistakes_, *node, path("observer"));
    read_kwargs();
    read_codebook();
    read_plain_number("outlier_percent", args_.outlier_percent);
    read_plain_number("sensitive_percent", args_.sensitive_percent);
    read_plain_number("outlier_threshold", args_.outlier_threshold);
  }

 private:
  std::string path(std::string_view field) const { return fmt::format("{}.{}", draft_.owner, field); }

  /// The node of a field that may not be empty.
  const Node* needed(std::string_view field) {
    const Node::Entry* entry = node_.find(field);
    if (entry == nullptr) return nullptr;
    if (!entry->value->is(Node::Kind::null)) return entry->value;
    mistakes_.add(entry->where, path(field) + ": expected a value, found nothing");
    return nullptr;
  }

  void read_numbers() {
    if (const Node* node = needed("num_bits")) {
      const auto bits = read_integer(mistakes_, *node, path("num_bits"));
      if (bits && (*bits < std::numeric_limits<int>::min() || *bits > std::numeric_limits<int>::max())) {
        mistakes_.add(node->where, fmt::format("{}: {} is not in 1..8", path("num_bits"), *bits));
      } else if (bits) {
        args_.num_bits = static_cast<int>(*bits);
      }
    }
    if (const Node* node = needed("type")) {
      const auto type = read_choice(mistakes_, *node, path("type"), {"int", "float", "codebook", "block"});
      if (type == "float") args_.type = NumberType::floating;
      if (type == "codebook") args_.type = NumberType::codebook;
      if (type == "block") args_.type = NumberType::block;
    }
    if (const Node* node = needed("symmetric")) {
      args_.symmetric = read_bool(mistakes_, *node, path("symmetric")).value_or(true);
    }
    if (const Node* node = given(node_, "group_size")) {
      args_.group_size = read_integer(mistakes_, *node, path("group_size"));
    }
  }

  void read_strategy() {
    static constexpr Strategy kAll[] = {Strategy::tensor, Strategy::channel,      Strategy::group,     Strategy::block,
                                        Strategy::token,  Strategy::tensor_group, Strategy::attn_head, Strategy::flat};
    const Node* node = given(node_, "strategy");
    if (node == nullptr) return;
    std::vector<std::string> names;
    for (const Strategy strategy : kAll) names.emplace_back(to_string(strategy));
    const auto name = read_choice(mistakes_, *node, path("strategy"), names);
    for (const Strategy strategy : kAll) {
      if (name != to_string(strategy)) continue;
      args_.strategy = strategy;
      draft_.strategy_given = true;
    }
  }

  void read_block_structure() {
    const Node* node = given(node_, "block_structure");
    if (node == nullptr) return;
    const auto sizes = node->is(Node::Kind::list) ? sizes_of_list(*node) : sizes_of_text(*node);
    if (sizes) {
      args_.block_structure = sizes;
    } else {
      mistakes_.add(node->where, fmt::format("{}: expected [rows, columns], two positive integers, found {}",
                                             path("block_structure"), describe(*node)));
    }
  }

  using Sizes = std::array<std::uint64_t, 2>;

  std::optional<Sizes> sizes_of_list(const Node& node) {
    if (node.items.size() != 2) return std::nullopt;
    Sizes sizes{};
    for (std::size_t i = 0; i < 2; ++i) {
      const auto size = read_integer(mistakes_, *node.items[i], path("block_structure"));
      if (!size || *size <= 0) return std::nullopt;
      sizes[i] = static_cast<std::uint64_t>(*size);
    }
    return sizes;
  }

  /// The legacy form "128x128".
  static std::optional<Sizes> sizes_of_text(const Node& node) {
    Sizes sizes{};
    const char* const end = node.text.data() + node.text.size();
    const auto rows = std::from_chars(node.text.data(), end, sizes[0]);
    if (rows.ec != std::errc() || rows.ptr == end || *rows.ptr != 'x') return std::nullopt;
    const auto columns = std::from_chars(rows.ptr + 1, end, sizes[1]);
    if (columns.ec != std::errc() || columns.ptr != end || sizes[0] == 0 || sizes[1] == 0) return std::nullopt;
    return sizes;
  }

  void read_dynamic() {
    const Node* node = needed("dynamic");
    if (node == nullptr) return;
    if (node->text == "local") {
      args_.dynamic = Dynamic::local;
    } else if (const auto dynamic = bool_or(*node, "dynamic", "true, false or local")) {
      args_.dynamic = *dynamic ? Dynamic::yes : Dynamic::no;
    }
  }

  void read_actorder() {
    const Node* node = given(node_, "actorder");
    if (node == nullptr) return;
    if (node->text == "static" || node->text == "weight") {
      args_.actorder = ActOrder::weight;
    } else if (node->text == "dynamic" || node->text == "group") {
      args_.actorder = ActOrder::group;
    } else if (const auto order = bool_or(*node, "actorder", "static, weight, dynamic, group, true, false or null")) {
      args_.actorder = *order ? ActOrder::group : ActOrder::none;
    }
  }

  std::optional<bool> bool_or(const Node& node, std::string_view field, std::string_view what) {
    Mistakes ignored("");
    const auto value = read_bool(ignored, node, field);
    if (!value) {
      mistakes_.add(node.where, fmt::format("{}: expected {}, found {}", path(field), what, describe(node)));
    }
    return value;
  }

  void read_dtype(const std::string& field, std::optional<DType>& target) {
    const Node* node = given(node_, field);
    if (node == nullptr) return;
    const auto text = read_text(mistakes_, *node, path(field));
    if (!text) return;
    target = parse_torch_dtype(*text);
    if (target) return;
    std::vector<std::string> names;
    for (int i = 0; i < kDTypeCount; ++i) {
      const std::string_view name = torch_dtype_name(static_cast<DType>(i));
      if (!name.empty()) names.emplace_back(name);
    }
    mistakes_.add(node->where, fmt::format("{}: unknown type {}{}", path(field), in_quotes(*text),
                                           suggestion(*text, names, "types")));
  }

  void read_kwargs() {
    const Node* node = given(node_, "observer_kwargs");
    if (node == nullptr || !is_map(mistakes_, *node, path("observer_kwargs"))) return;
    for (const auto& entry : node->entries) {
      const auto value = read_value(mistakes_, *entry.value, path("observer_kwargs." + entry.key));
      if (value) args_.observer_kwargs[entry.key] = *value;
    }
  }

  void read_codebook() {
    if (const Node* node = given(node_, "codebook")) {
      const auto name = read_choice(mistakes_, *node, path("codebook"), {"learned", "nf4", "fp4", "sign"});
      if (name == "nf4") args_.codebook = Codebook::nf4;
      if (name == "fp4") args_.codebook = Codebook::fp4;
      if (name == "sign") args_.codebook = Codebook::sign;
    }
    if (const Node* node = given(node_, "block")) {
      std::vector<std::string> names;
      for (const BlockFormat& format : block_formats()) {
        if (can_encode(format.type) && format.weights > 1) names.emplace_back(format.name);
      }
      const auto name = read_choice(mistakes_, *node, path("block"), names);
      if (name) args_.block = find_block_format(*name)->type;
    }
    if (const Node* node = given(node_, "double_quant")) {
      args_.double_quant = read_bool(mistakes_, *node, path("double_quant")).value_or(false);
    }
  }

  void read_plain_number(std::string_view field, double& target) {
    if (const Node* node = given(node_, field)) target = read_number(mistakes_, *node, path(field)).value_or(0);
  }

  Mistakes& mistakes_;
  const Node& node_;
  ArgsDraft& draft_;
  QuantArgs& args_;
};

/// The place of a value ("group_size"), of a key within a field ("observer_kwargs.grid"), or else of the mapping.
Place place_of(const ArgsDraft& draft, std::string_view field) {
  const Node* node = draft.node;
  Place place = draft.where;
  while (node != nullptr && !field.empty()) {
    const std::size_t dot = field.find('.');
    const Node::Entry* entry = node->find(field.substr(0, dot));
    if (entry == nullptr) break;
    place = node == draft.node && dot == std::string_view::npos ? entry->value->where : entry->where;
    node = entry->value;
    field = dot == std::string_view::npos ? std::string_view() : field.substr(dot + 1);
  }
  return place;
}

}  // namespace

ArgsDraft read_quant_args(Mistakes& mistakes, const Node& node, const std::string& owner) {
  ArgsDraft draft;
  draft.node = &node;
  draft.where = node.where;
  draft.owner = owner;
  const std::size_t before = mistakes.count();
  if (is_map(mistakes, node, owner)) ArgsReader(mistakes, node, draft).read();
  draft.sound = mistakes.count() == before;
  return draft;
}

QuantArgs finish_quant_args(Mistakes& mistakes, ArgsDraft& draft) {
  if (!draft.sound) return draft.args;
  for (const auto& problem : complete_and_check(draft.args, draft.strategy_given)) {
    const std::string_view field = std::string_view(problem).substr(0, problem.find(':'));
    mistakes.add(place_of(draft, field), fmt::format("{}.{}", draft.owner, problem));
  }
  return draft.args;
}

}  // namespace quant::recipe_yaml
