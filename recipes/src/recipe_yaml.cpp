#include "quant/recipe_yaml.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>

#include "modifier_reader.h"
#include "quant/error.h"
#include "quant/names.h"
#include "variables.h"

namespace quant {
namespace {

using namespace recipe_yaml;

constexpr std::string_view kStageEnd = "_stage";
constexpr std::string_view kGroupEnd = "_modifiers";

/// "<name>_stage", and "<name>_stage_<number>" as llm-compressor writes merged recipes.
bool is_stage_name(std::string_view key) {
  const std::size_t last = key.find_last_not_of("0123456789");
  if (last != std::string_view::npos && last + 1 < key.size() && key[last] == '_') key = key.substr(0, last);
  return key.ends_with(kStageEnd) && key.size() > kStageEnd.size();
}

bool is_group_name(std::string_view key) { return key.ends_with(kGroupEnd) && key.size() > kGroupEnd.size(); }

/// "default_stage" for "default_stge" and "stage": the name with its last word put right, if that is near.
std::string with_ending(std::string_view key, std::string_view ending) {
  const std::size_t underscore = key.rfind('_');
  const std::string word(underscore == std::string_view::npos ? key : key.substr(underscore + 1));
  const std::string wanted(ending.substr(1));
  if (nearest_name(word, {wanted}).empty()) return {};
  const std::string_view name = underscore == std::string_view::npos ? "default" : key.substr(0, underscore);
  return fmt::format(", did you mean '{}{}'?", name, ending);
}

class RecipeReader {
 public:
  RecipeReader(Mistakes& mistakes, const Registry& registry) : mistakes_(mistakes), registry_(registry) {}

  std::vector<RecipeModifier> read(const Node& root) {
    for (const auto& entry : root.entries) {
      if (entry.key == "args") continue;
      if (is_stage_name(entry.key)) {
        read_stage(entry);
      } else {
        refuse_top_level(entry);
      }
    }
    if (mistakes_.count() == 0) check_followed(mistakes_, registry_, modifiers_);
    return std::move(modifiers_);
  }

 private:
  void refuse_top_level(const Node::Entry& entry) {
    if (is_modifier_class(registry_, entry.key)) {
      mistakes_.add(entry.where, fmt::format("the modifier {} must stand in a group of a stage: "
                                             "default_stage: {{default_modifiers: {{{}: ...}}}}",
                                             entry.key, entry.key));
      return;
    }
    std::string hint =
        nearest_name(entry.key, {"args"}).empty() ? with_ending(entry.key, kStageEnd) : ", did you mean 'args'?";
    if (is_group_name(entry.key)) hint = "; a group of modifiers stands in a stage such as 'default_stage'";
    mistakes_.add(entry.where, fmt::format("unknown key {}: a recipe has 'args' and stages, whose names end in "
                                           "'_stage'{}",
                                           in_quotes(entry.key), hint));
  }

  void read_stage(const Node::Entry& stage) {
    if (!has_content(stage, "stage", "groups of modifiers")) return;
    for (const auto& group : stage.value->entries) {
      if (is_group_name(group.key)) {
        read_group(stage, group);
      } else {
        refuse_group(group);
      }
    }
  }

  void refuse_group(const Node::Entry& group) {
    const bool modifier = is_modifier_class(registry_, group.key);
    const std::string hint =
        modifier ? fmt::format("; the modifier {} must stand in one", group.key) : with_ending(group.key, kGroupEnd);
    mistakes_.add(group.where, fmt::format("unknown key {}: a stage has groups, whose names end in '_modifiers'{}",
                                           in_quotes(group.key), hint));
  }

  void read_group(const Node::Entry& stage, const Node::Entry& group) {
    if (!has_content(group, "group", "modifiers")) return;
    for (const auto& entry : group.value->entries) {
      for (RecipeModifier& modifier : read_modifier(mistakes_, registry_, entry)) {
        modifier.stage = stage.key;
        modifier.group = group.key;
        modifiers_.push_back(std::move(modifier));
      }
    }
  }

  bool has_content(const Node::Entry& entry, std::string_view what, std::string_view content) {
    const bool empty =
        entry.value->is(Node::Kind::null) || (entry.value->is(Node::Kind::map) && entry.value->entries.empty());
    if (!empty) return is_map(mistakes_, *entry.value, entry.key);
    mistakes_.add(entry.where,
                  fmt::format("the {} {} is empty, it should have {}", what, in_quotes(entry.key), content));
    return false;
  }

  Mistakes& mistakes_;
  const Registry& registry_;
  std::vector<RecipeModifier> modifiers_;
};

std::string stem_of(const std::string& file) {
  const std::string stem = std::filesystem::path(file).stem().string();
  return stem.empty() ? "recipe" : stem;
}

/// The file's bytes, at most one more than a recipe may have. Reads pipes too.
std::string read_limited(const std::filesystem::path& path) {
  const auto fail = [&](const std::string& why) {
    throw Error(ErrorCode::io, fmt::format("cannot read the recipe '{}': {}", path.string(), why));
  };
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) fail("it is a directory");
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail(errno != 0 ? std::strerror(errno) : "it cannot be opened");
  std::string bytes(kLongestText + 1, '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (stream.bad()) fail("reading failed");
  bytes.resize(static_cast<std::size_t>(stream.gcount()));
  return bytes;
}

}  // namespace

Recipe parse_recipe(std::string_view text, const std::string& file, const RecipeVariables& variables,
                    const Registry& registry) {
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  Mistakes mistakes(file);
  Document document = read_document(text, mistakes);
  Recipe recipe;
  recipe.name = stem_of(file);
  if (document.root == nullptr || document.root->is(Node::Kind::null)) {
    if (mistakes.count() == 0) mistakes.add({}, "the recipe is empty");
    mistakes.throw_if_any();
  }
  if (is_map(mistakes, *document.root, "recipe")) {
    recipe.text = substitute_variables(document, text, variables, mistakes);
    recipe.modifiers = RecipeReader(mistakes, registry).read(*document.root);
    if (recipe.modifiers.empty() && mistakes.count() == 0) mistakes.add({}, "the recipe has no modifiers");
  }
  mistakes.throw_if_any();
  return recipe;
}

Recipe load_recipe(const std::filesystem::path& path, const RecipeVariables& variables, const Registry& registry) {
  return parse_recipe(read_limited(path), path.string(), variables, registry);
}

}  // namespace quant
