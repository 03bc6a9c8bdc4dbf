// The manual pages name every command and option that the program has, and the exit codes of docs/commands.md.
#include <map>
#include <regex>
#include <sstream>

#include "man_pages.h"
#include "man_text.h"
#include "session.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::cli;
using namespace quant::test;

namespace {

struct Program {
  Session session;
  CLI::App app;
  Program() { describe_program(app, session); }
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A page without its roff: requests, fonts and escapes.
std::string read(const std::string& roff) {
  std::string text = std::regex_replace(roff, std::regex("\\\\f[BIR]|\\\\&"), "");
  for (const auto& [from, to] : std::map<std::string, std::string>{{"\\-", "-"},
                                                                   {"\\(aq", "'"},
                                                                   {"\\(dq", "\""},
                                                                   {"\\(ga", "`"},
                                                                   {"\\(ha", "^"},
                                                                   {"\\(ti", "~"},
                                                                   {"\\e", "\\"}}) {
    for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) {
      text.replace(at, from.size(), to);
    }
  }
  return text;
}

std::map<std::string, std::string> pages(const CLI::App& app) {
  std::map<std::string, std::string> found;
  for (const ManPage& page : man_pages(app, "quant 1.2.3")) found[page.file] = read(page.text);
  return found;
}

void check_options(const CLI::App& command, const std::string& page) {
  for (const CLI::Option* option : command.get_options()) {
    INFO(command.get_name() << " " << option->get_name());
    for (const std::string& name : option->get_lnames()) CHECK(contains(page, "--" + name));
    std::istringstream lines(option->get_description());
    for (std::string line; std::getline(lines, line);) CHECK(contains(page, line));
  }
  for (const CLI::App* below : command.get_subcommands([](const CLI::App*) { return true; })) {
    CHECK(contains(page, "quant " + command.get_name() + " " + below->get_name()));
    check_options(*below, page);
  }
}

}  // namespace

TEST_CASE("every command has a page with all of its options") {
  const Program program;
  const auto found = pages(program.app);
  const auto commands = program.app.get_subcommands([](const CLI::App*) { return true; });
  CHECK(found.size() == commands.size() + 1);
  const std::string& main = found.at("quant.1");
  for (const CLI::App* command : commands) {
    INFO(command->get_name());
    CHECK(contains(main, "quant-" + command->get_name()));
    CHECK(contains(main, command->get_description()));
    const std::string& page = found.at("quant-" + command->get_name() + ".1");
    check_options(*command, page);
    CHECK(contains(page, "quant 1.2.3"));
    CHECK(contains(page, "quant " + command->get_name()));
  }
}

TEST_CASE("exit codes and environment are those of docs/commands.md") {
  const Program program;
  const auto found = pages(program.app);
  std::istringstream manual(read_file(std::string(QUANT_SOURCE_DIR) + "/docs/commands.md"));
  const std::regex row("\\| ([0-9]+) \\| ([^|]+) \\|.*");
  int codes = 0;
  for (std::string line; std::getline(manual, line);) {
    std::smatch parts;
    if (!std::regex_match(line, parts, row)) continue;
    std::string meaning = parts[2];
    std::erase(meaning, '`');
    ++codes;
    for (const auto& [name, page] : found) {
      INFO(name << ": " << parts[1] << " " << meaning);
      CHECK(contains(page, ".TP\n" + parts[1].str() + "\n" + meaning + "\n"));
    }
  }
  CHECK(codes == 10);
  for (const char* name : {"QUANT_RECIPES", "QUANT_LOG", "QUANT_ISA", "TMPDIR"}) {
    CHECK(contains(found.at("quant.1"), name));
    CHECK(contains(read_file(std::string(QUANT_SOURCE_DIR) + "/docs/commands.md"), name));
  }
}

TEST_CASE("text that roff would act on is shown") {
  CHECK(man::escaped(".SH x\n'y\n\\z -1 a.b") == "\\&.SH x\n\\&\\(aqy\n\\ez \\-1 a.b");
  CHECK(man::quoted("say \"no\"") == "\"say \\(dqno\\(dq\"");
}

TEST_CASE("equal programs have equal pages") {
  const Program a, b;
  const auto first = man_pages(a.app, "quant 1"), second = man_pages(b.app, "quant 1");
  REQUIRE(first.size() == second.size());
  for (std::size_t i = 0; i < first.size(); ++i) CHECK(first[i].text == second[i].text);
}
