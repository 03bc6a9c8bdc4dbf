#include "man_pages.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <regex>

#include "man_text.h"

namespace quant::cli {
namespace {

using Facts = std::vector<std::pair<std::string, std::string>>;

// docs/commands.md has the same sentences; a test compares the two.
const Facts kExitCodes = {
    {"0", "done"},
    {"1",
     "a finding: `verify` found errors, `compare` a larger difference than allowed, `inspect` NaN or infinite "
     "weights, `batch` jobs that are not complete"},
    {"2", "wrong usage: unknown command or option, a missing or senseless value"},
    {"3", "the recipe cannot be read, or the plan has problems"},
    {"4", "a valid request that this version cannot serve"},
    {"5", "an input file breaks its format"},
    {"6", "input or output: missing file, output that exists already, disk full, no permission, no memory"},
    {"7", "data that no result can be computed from (NaN or infinite weights in `run`, overflow in `dequantize`)"},
    {"8", "a defect of the program"},
    {"130", "interrupted by Ctrl-C or SIGTERM; what is finished is kept"}};

const Facts kEnvironment = {
    {"QUANT_RECIPES", "folder of ready recipes that is searched first"},
    {"QUANT_LOG", "debug, info or warn (default): messages on standard error"},
    {"QUANT_ISA", "scalar, avx2 or avx512: instruction set of the kernels; by default the widest that there is"},
    {"TMPDIR", "folder in which tensors of HDF5 files lie unpacked while they are read"}};

const Facts kFiles = {
    {"/usr/share/quant/recipes",
     "ready recipes of the Debian package; elsewhere ../share/quant/recipes beside the "
     "folder of the program"},
    {"DIR.partial", "what a command writes until DIR is complete; 'quant run --resume' continues it"},
    {"DIR/report.html, DIR/report.json, DIR/report.h5", "report of 'quant run', for people and for programs"},
    {"DIR/recipe.yaml", "the recipe that was used, its variables filled in"}};

std::string plain(std::string text) {
  text.erase(std::remove(text.begin(), text.end(), '`'), text.end());
  return text;
}

std::string facts_section(const std::string& title, const Facts& facts) {
  std::string out = man::section(title);
  for (const auto& [term, text] : facts) out += man::item(term, "", plain(text));
  return out;
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  auto commands = app.get_subcommands([](const CLI::App* command) { return !command->get_group().empty(); });
  return {commands.begin(), commands.end()};
}

std::string full_name(const CLI::App& command, const std::string& separator) {
  if (command.get_parent() == nullptr) return command.get_name();
  return full_name(*command.get_parent(), separator) + separator + command.get_name();
}

bool is_positional(const CLI::Option& option) { return option.get_positional() && !option.nonpositional(); }

// "N:INT in [1 - 1024]": the metavariable and what is allowed.
std::pair<std::string, std::string> type_parts(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  const std::size_t colon = type.find(':');
  if (colon == std::string::npos) return {type, ""};
  return {type.substr(0, colon), type.substr(colon + 1)};
}

std::string option_names(const CLI::Option& option) {
  std::string names;
  for (const std::string& name : option.get_snames()) names += (names.empty() ? "-" : ", -") + name;
  for (const std::string& name : option.get_lnames()) names += (names.empty() ? "--" : ", --") + name;
  return names;
}

std::string sentence(std::string text) {
  if (!text.empty() && text.back() != '.') text += '.';
  return text;
}

std::string option_item(const CLI::Option& option) {
  const bool positional = is_positional(option);
  const bool flag = option.get_items_expected_max() == 0;
  auto [metavar, allowed] = type_parts(option);
  std::string text = sentence(option.get_description());
  if (positional && !option.get_required()) text += " Optional.";
  if (!positional && option.get_required()) text += " Required.";
  if (!allowed.empty() && !flag) text += fmt::format("\nAllowed: {}.", allowed);
  if (!option.get_default_str().empty()) text += fmt::format("\nDefault: {}.", option.get_default_str());
  for (const CLI::Option* other : option.get_excludes()) text += fmt::format("\nNot with {}.", option_names(*other));
  return positional ? man::item("", option.get_name(true), text)
                    : man::item(option_names(option), flag ? "" : metavar, text);
}

std::string options_text(const CLI::App& command) {
  std::map<std::string, std::string> groups;
  std::vector<std::string> order;
  for (const CLI::Option* option : command.get_options()) {
    const std::string group = is_positional(*option) ? "Arguments" : option->get_group();
    if (group.empty()) continue;
    if (groups[group].empty()) order.push_back(group);
    groups[group] += option_item(*option);
  }
  // Arguments first, whatever was described first.
  std::stable_partition(order.begin(), order.end(), [](const std::string& group) { return group == "Arguments"; });
  std::string out;
  for (const std::string& group : order) out += fmt::format(".SS {}\n{}", man::quoted(group), groups[group]);
  return out;
}

std::string synopsis(const CLI::App& command) {
  std::string line = fmt::format("\\fB{}\\fR", man::escaped(full_name(command, " ")));
  for (const CLI::Option* option : command.get_options()) {
    if (!is_positional(*option)) continue;
    const std::string name = fmt::format("\\fI{}\\fR", man::escaped(option->get_name(true)));
    const char* more = option->get_items_expected_max() > 1 ? " ..." : "";
    line += option->get_required() ? fmt::format(" {}{}", name, more) : fmt::format(" [{}{}]", name, more);
  }
  return line + " [\\fIoption\\fR ...]\n";
}

// The footer without its first line, "Example:", and without indentation.
std::string examples(const CLI::App& command) {
  const std::string footer = command.get_footer();
  const std::size_t begin = footer.find("Example:\n");
  if (begin == std::string::npos) return {};
  std::string text;
  for (const std::string& line : CLI::detail::split(footer.substr(begin + 9), '\n')) {
    text += (text.empty() ? "" : "\n") + line.substr(std::min<std::size_t>(2, line.size()));
  }
  return man::example(text);
}

std::string heading(const CLI::App& command, const std::string& version, const std::string& summary) {
  const std::string name = full_name(command, "-");
  std::string upper = name;
  std::transform(upper.begin(), upper.end(), upper.begin(), [](unsigned char c) { return std::toupper(c); });
  // No date: the same program gives the same bytes.
  std::string out = fmt::format(".TH {} 1 \"\" {} \"User Commands\"\n", man::quoted(upper), man::quoted(version));
  std::string line = summary;
  while (line.ends_with('.')) line.pop_back();
  return out + man::section("NAME") + fmt::format("{} \\- {}\n", man::escaped(name), man::escaped(line));
}

std::string below(const CLI::App& command) {
  const auto commands = commands_of(command);
  if (commands.empty()) return {};
  std::string out;
  for (const CLI::App* inner : commands) {
    out += man::section(fmt::format("COMMAND {}", inner->get_name()));
    out += ".PP\n" + synopsis(*inner) + man::paragraph(sentence(inner->get_description()));
    out += options_text(*inner) + examples(*inner);
  }
  return out;
}

ManPage command_page(const CLI::App& command, const std::string& version) {
  std::string text = heading(command, version, command.get_description());
  text += man::section("SYNOPSIS") + synopsis(command);
  for (const CLI::App* inner : commands_of(command)) text += ".br\n" + synopsis(*inner);
  text += man::section("DESCRIPTION") + man::paragraph(sentence(command.get_description()));
  text += man::paragraph("Errors are one sentence on standard error, and often a hint of what to do.");
  text += man::section("OPTIONS") + options_text(command) + below(command);
  text += facts_section("EXIT STATUS", kExitCodes);
  text += man::section("EXAMPLES") + examples(command);
  text += man::section("SEE ALSO") + fmt::format(".BR {} (1)\n", man::quoted(command.get_parent()->get_name())) +
          man::paragraph("/usr/share/doc/quant/docs/commands.md describes every command with examples of its output.");
  return {full_name(command, "-") + ".1", text};
}

ManPage program_page(const CLI::App& program, const std::string& version) {
  const std::string& name = program.get_name();
  std::string text = heading(program, version, program.get_description());
  text += man::section("SYNOPSIS") + fmt::format(
                                         "\\fB{0}\\fR \\fIcommand\\fR [\\fIoption\\fR ...]\n.br\n"
                                         "\\fB{0}\\fR \\fIcommand\\fR \\fB\\-\\-help\\fR\n",
                                         man::escaped(name));
  text += man::section("DESCRIPTION") + man::paragraph(program.get_description());
  text += man::paragraph(
      "A checkpoint is a Hugging Face style directory (config.json, and model.safetensors, shards with an index, or "
      "model.h5), or a single .safetensors, .h5 or .gguf file. A recipe is a YAML file, or the name of a ready one.");
  text += man::section("COMMANDS");
  for (const CLI::App* command : commands_of(program)) {
    text += fmt::format(".TP\n.BR {} (1)\n{}\n", man::quoted(full_name(*command, "-")),
                        man::escaped(sentence(command->get_description())));
  }
  text += man::section("OPTIONS") + options_text(program);
  text += facts_section("EXIT STATUS", kExitCodes) + facts_section("ENVIRONMENT", kEnvironment) +
          facts_section("FILES", kFiles);
  text += man::section("EXAMPLES") + examples(program);
  text += man::section("SEE ALSO");
  const auto commands = commands_of(program);
  for (const CLI::App* command : commands) {
    text += fmt::format(".BR {} (1){}\n", man::quoted(full_name(*command, "-")), command == commands.back() ? "" : ",");
  }
  text += man::paragraph("/usr/share/doc/quant/README.md and the pages that it names.");
  return {name + ".1", text};
}

/// A paragraph macro right after a heading says nothing, and checkers complain.
std::string without_empty_paragraphs(const std::string& text) {
  static const std::regex after_heading("(\n\\.S[HS] [^\n]*\n)\\.PP\n");
  return std::regex_replace(text, after_heading, "$1");
}

}  // namespace

std::vector<ManPage> man_pages(const CLI::App& program, const std::string& version) {
  std::vector<ManPage> pages{program_page(program, version)};
  for (const CLI::App* command : commands_of(program)) pages.push_back(command_page(*command, version));
  for (ManPage& page : pages) page.text = without_empty_paragraphs(page.text);
  return pages;
}

}  // namespace quant::cli
