// quant recipes: lists, shows and checks recipes.
#include <fmt/format.h>

#include "errors.h"
#include "output.h"
#include "plan_request.h"
#include "quant/recipe_yaml.h"
#include "ready_recipes.h"
#include "session.h"
#include "table.h"
#include "units.h"

namespace quant::cli {
namespace {

struct ListOptions {};

struct ShowOptions {
  std::string name;
};

struct CheckOptions {
  std::vector<std::string> files;
  std::vector<std::string> set;
};

int list_recipes(const ListOptions&, Session& session) {
  const auto recipes = ready_recipes();
  Json list = Json::array();
  Table table({{"recipe"}, {"what it does"}});
  for (const ReadyRecipe& recipe : recipes) {
    list.push_back({{"name", recipe.name}, {"summary", recipe.summary}, {"file", recipe.file.string()}});
    table.add({recipe.name, recipe.summary});
  }
  if (session.json) {
    write_stdout(json_text(Json{{"recipes", list}}));
  } else {
    std::string folders;
    if (recipes.empty()) {
      folders = "no ready recipes in:\n";
      for (const auto& folder : recipe_directories()) folders += "  " + printable(folder.string()) + "\n";
    }
    write_stdout(recipes.empty() ? folders : table.text());
  }
  return kExitOk;
}

int show_recipe(const ShowOptions& options, Session& session) {
  const auto file = find_recipe(options.name);
  const std::string text = read_recipe_text(file);
  write_stdout(session.json ? json_text(Json{{"file", file.string()}, {"text", text}}) : text);
  return kExitOk;
}

Json check_one(const std::string& name, const RecipeVariables& variables, const Registry& registry, int& code) {
  Json result = {{"recipe", name}};
  try {
    const Recipe recipe = load_recipe(find_recipe(name), variables, registry);
    result["ok"] = true;
    result["modifiers"] = Json::array();
    for (const RecipeModifier& modifier : recipe.modifiers) result["modifiers"].push_back(modifier.type);
  } catch (const Error& error) {
    code = code == kExitOk ? exit_code(error.code()) : code;
    result["ok"] = false;
    result["error"] = {
        {"code", std::string(to_string(error.code()))}, {"message", std::string(error.what())}, {"hint", error.hint()}};
  }
  return result;
}

std::string check_text(const Json& result) {
  const std::string name = printable(result["recipe"].get<std::string>());
  if (result["ok"].get<bool>()) {
    return fmt::format("good: {} ({})\n", name, fmt::join(result["modifiers"].get<std::vector<std::string>>(), ", "));
  }
  std::string text = fmt::format("bad: {}\n", name);
  std::istringstream lines(result["error"]["message"].get<std::string>());
  for (std::string line; std::getline(lines, line);) text += "  " + printable(line) + "\n";
  const std::string hint = result["error"]["hint"].get<std::string>();
  return hint.empty() ? text : text + "  hint: " + printable(hint) + "\n";
}

int check_recipes(const CheckOptions& options, Session& session) {
  const RecipeVariables variables = parse_variables(options.set);
  int code = kExitOk;
  Json results = Json::array();
  std::string text;
  for (const std::string& name : options.files) {
    results.push_back(check_one(name, variables, session.registry, code));
    text += check_text(results.back());
  }
  write_stdout(session.json ? json_text(Json{{"ok", code == kExitOk}, {"recipes", results}}) : text);
  return code;
}

}  // namespace

void add_recipes(CLI::App& program, Session& session) {
  CLI::App* recipes = add_command(program, session, "recipes", "List, show or check recipes",
                                  "quant recipes\n  quant recipes show w4a16\n  quant recipes check my-recipe.yaml",
                                  std::make_shared<ListOptions>(), list_recipes);
  recipes->require_subcommand(0, 1);
  // The parent's callback runs after the child's: it must not put the list in its place.
  recipes->callback([&session] {
    if (!session.action) session.action = [&session] { return list_recipes({}, session); };
  });
  add_command(*recipes, session, "list", "List the ready recipes", "quant recipes list",
              std::make_shared<ListOptions>(), list_recipes);
  const auto show = std::make_shared<ShowOptions>();
  CLI::App* command =
      add_command(*recipes, session, "show", "Print a recipe", "quant recipes show w4a16", show, show_recipe);
  command->add_option("NAME", show->name, "Name of a ready recipe, or a file")->required();
  const auto check = std::make_shared<CheckOptions>();
  command = add_command(*recipes, session, "check", "Read recipes and name every mistake",
                        "quant recipes check my-recipe.yaml --set bits=4", check, check_recipes);
  command->add_option("FILE", check->files, "Files, or names of ready recipes")->required();
  command->add_option("--set", check->set, "Value of a variable of the recipes; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
}

}  // namespace quant::cli
