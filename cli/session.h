// What all commands share, and how each puts itself into the program.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "quant/registry.h"

namespace quant::cli {

struct Session {
  Registry registry;
  std::vector<std::string> arguments;  ///< of the program, its own name left out
  bool json = false;                   ///< --json of the chosen command
  std::function<int()> action;         ///< the chosen command; returns the exit code
};

/// Name, summary, options and all commands. What `session` holds must outlive the program's parsing.
void describe_program(CLI::App& program, Session& session);

void add_inspect(CLI::App& program, Session& session);
void add_plan(CLI::App& program, Session& session);
void add_run(CLI::App& program, Session& session);
void add_report(CLI::App& program, Session& session);
void add_compare(CLI::App& program, Session& session);
void add_verify(CLI::App& program, Session& session);
void add_dequantize(CLI::App& program, Session& session);
void add_convert(CLI::App& program, Session& session);
void add_eval(CLI::App& program, Session& session);
void add_sensitivity(CLI::App& program, Session& session);
void add_recipes(CLI::App& program, Session& session);
void add_bench(CLI::App& program, Session& session);
void add_batch(CLI::App& program, Session& session);

/// A subcommand that runs `action` with its own Options; `example` ends its help.
template <class Options>
CLI::App* add_command(CLI::App& program, Session& session, const std::string& name, const std::string& summary,
                      const std::string& example, std::shared_ptr<Options> options,
                      int (*action)(const Options&, Session&)) {
  CLI::App* command = program.add_subcommand(name, summary);
  command->footer("Example:\n  " + example);
  command->callback([&session, options, action] {
    session.action = [&session, options, action] { return action(*options, session); };
  });
  command->add_flag("--json", session.json, "Print one JSON object instead of text");
  return command;
}

/// --threads N, 1 to 1024; 0 in `threads` means all processors.
void add_threads_option(CLI::App& command, int& threads);

}  // namespace quant::cli
