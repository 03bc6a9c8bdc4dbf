#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("every ready recipe is listed with a summary, shown and good", "[recipes]") {
  const auto list = json_of(run_quant({"recipes", "--json"})).at("recipes");
  CHECK_FALSE(list.empty());
  CHECK(run_quant({"recipes", "list", "--json"}).out == run_quant({"recipes", "--json"}).out);
  std::vector<std::string> check{"recipes", "check", "--json"};
  bool has_w4a16 = false;
  for (const auto& recipe : list) {
    INFO(recipe.dump());
    const std::string name = recipe.at("name");
    has_w4a16 |= name == "w4a16";
    CHECK_FALSE(recipe.at("summary").get<std::string>().empty());
    CHECK(run_quant({"recipes", "show", name}).out == read_file(recipe.at("file").get<std::string>()));
    check.push_back(name);
  }
  CHECK(has_w4a16);
  const Outcome checked = run_quant(check);
  CHECK(checked.code == 0);
  CHECK(json_of(checked).at("recipes").size() == list.size());
  CHECK(contains(run_quant({"recipes"}).out, "w4a16"));
}

TEST_CASE("$QUANT_RECIPES comes first", "[recipes]") {
  TempDir dir;
  write_file(dir / "w4a16.yaml", "# mine\n\nx: 1\n");
  write_file(dir / "other.yml", "\n#  spaced out  \n");
  write_file(dir / "notes.txt", "# no recipe\n");
  const std::vector<std::string> environment{"QUANT_RECIPES=" + dir.path().string()};
  CHECK(run_quant({"recipes", "show", "w4a16"}, environment).out == "# mine\n\nx: 1\n");
  const auto list = json_of(run_quant({"recipes", "--json"}, environment)).at("recipes");
  std::size_t found = 0;
  for (const auto& recipe : list) {
    CHECK(recipe.at("name") != "notes");
    if (recipe.at("name") == "other") found += recipe.at("summary") == "spaced out" ? 1 : 0;
    if (recipe.at("name") == "w4a16") found += recipe.at("summary") == "mine" ? 1 : 0;
  }
  CHECK(found == 2);
}

TEST_CASE("check names every mistake of every file", "[recipes]") {
  TempDir dir;
  write_file(dir / "bad.yaml",
             "default_stage:\n  default_modifiers:\n    QuantizationModifier: {shceme: W4A16, targets: [Linear]}\n");
  const Outcome outcome = run_quant({"recipes", "check", "w4a16", (dir / "bad.yaml").string(), "missing.yaml"});
  CHECK(outcome.code == 3);
  CHECK(contains(outcome.out, "good: w4a16"));
  CHECK(contains(outcome.out, "bad: " + (dir / "bad.yaml").string()));
  CHECK(contains(outcome.out, "'scheme'"));
  CHECK(contains(outcome.out, "bad: missing.yaml"));
  CHECK(run_quant({"recipes", "check"}).code == 2);
  CHECK(run_quant({"recipes", "show", "w4a61"}).code == 2);
  CHECK(run_quant({"recipes", "shwo"}).code == 2);
}
