#include "usage_errors.h"

#include <fmt/format.h>

#include <algorithm>

#include "quant/names.h"

namespace quant::cli {
namespace {

std::vector<std::string> command_names(const CLI::App& program) {
  std::vector<std::string> names;
  for (const CLI::App* command : program.get_subcommands([](const CLI::App*) { return true; })) {
    names.push_back(command->get_name());
  }
  return names;
}

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return names;
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& candidates, const std::string& help) {
  const std::string nearest = nearest_name(name, candidates);
  const std::string all = fmt::format("'{}' lists what there is", help);
  return nearest.empty() ? all : fmt::format("did you mean '{}'? {}", nearest, all);
}

// The deepest command that was given: "quant recipes check".
const CLI::App* chosen_command(const CLI::App& program) {
  const CLI::App* command = &program;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  return command;
}

std::string full_name(const CLI::App& command) {
  return command.get_parent() == nullptr ? command.get_name()
                                         : full_name(*command.get_parent()) + " " + command.get_name();
}

// CLI11 names a missing argument before a misspelt option that caused it.
std::string unknown_option(const CLI::App& command, const std::vector<std::string>& arguments) {
  const std::vector<std::string> known = option_names(command);
  for (const std::string& argument : arguments) {
    if (argument == "--") break;
    const std::string name = argument.substr(0, argument.find('='));
    if (name.starts_with("--") && std::find(known.begin(), known.end(), name) == known.end()) return name;
  }
  return {};
}

}  // namespace

Error usage_error(const CLI::App& program, const CLI::ParseError& error, const std::vector<std::string>& arguments) {
  const CLI::App* command = chosen_command(program);
  const std::string help = full_name(*command) + " --help";
  const std::string option = unknown_option(*command, arguments);
  if (!option.empty()) {
    return Error(ErrorCode::usage, fmt::format("{} has no option '{}'", full_name(*command), option),
                 did_you_mean(option, option_names(*command), help), "UnknownOption");
  }
  if (command == &program) {
    const auto name = std::find_if(arguments.begin(), arguments.end(),
                                   [](const std::string& argument) { return !argument.starts_with("-"); });
    if (name == arguments.end())
      return Error(ErrorCode::usage, "no command was given", "run 'quant --help'", "NoCommand");
    return Error(ErrorCode::usage, fmt::format("there is no command '{}'", *name),
                 did_you_mean(*name, command_names(program), help), "UnknownCommand");
  }
  return Error(ErrorCode::usage, fmt::format("{}: {}", full_name(*command), error.what()),
               fmt::format("run '{}'", help), error.get_name());
}

}  // namespace quant::cli
