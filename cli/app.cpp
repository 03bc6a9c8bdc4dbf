#include "app.h"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <sstream>

#include "errors.h"
#include "output.h"
#include "quant/version.h"
#include "session.h"
#include "usage_errors.h"

namespace quant::cli {
namespace {

constexpr const char* kFooter = R"(Exit codes:
  0 done; 1 a finding (verify, compare, inspect, batch); 2 wrong usage; 3 recipe or plan;
  4 not supported; 5 corrupt file; 6 input/output; 7 numerical; 8 internal error;
  130 interrupted.

Environment:
  QUANT_RECIPES  folder of ready recipes, searched first
  QUANT_LOG      messages on stderr: debug, info, warn (default)
  QUANT_ISA      instruction set of the kernels: scalar, avx2, avx512

Example:
  quant run w4a16 --model examples/tiny-llama-novels --output tiny-w4a16)";

void set_up_logging() {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("quant"));
  spdlog::set_pattern("%l: %v");
  const char* wanted = std::getenv("QUANT_LOG");
  const std::string level = wanted == nullptr ? "" : wanted;
  spdlog::set_level(level == "debug"  ? spdlog::level::debug
                    : level == "info" ? spdlog::level::info
                                      : spdlog::level::warn);
  if (!level.empty() && level != "debug" && level != "info" && level != "warn") {
    spdlog::warn("QUANT_LOG={} is none of debug, info and warn", level);
  }
}

void add_commands(CLI::App& program, Session& session) {
  program.name("quant");
  program.set_version_flag("--version", fmt::format("quant {}", version()));
  program.require_subcommand(1);
  program.footer(kFooter);
  add_inspect(program, session);
  add_plan(program, session);
  add_run(program, session);
  add_report(program, session);
  add_compare(program, session);
  add_verify(program, session);
  add_dequantize(program, session);
  add_convert(program, session);
  add_eval(program, session);
  add_sensitivity(program, session);
  add_batch(program, session);
  add_recipes(program, session);
  add_bench(program, session);
}

/// The parser reads "-1" into unsigned numbers as 18446744073709551615. Counts have the type name N.
void refuse_negative_counts(CLI::App& command) {
  for (CLI::Option* option : command.get_options()) {
    if (option->get_type_name() != "N" && option->get_type_name() != "UINT") continue;
    option->check(
        [](const std::string& text) {
          return text.find_first_not_of("0123456789") == std::string::npos
                     ? std::string()
                     : fmt::format("'{}' is no whole number from 0", text);
        },
        "");
  }
  for (CLI::App* below : command.get_subcommands([](const CLI::App*) { return true; })) refuse_negative_counts(*below);
}

int run(int argc, char** argv) {
  Session session;
  session.arguments.assign(argv + std::min(argc, 1), argv + argc);
  register_builtin_algorithms(session.registry);
  register_builtin_formats(session.registry);
  CLI::App program;
  describe_program(program, session);
  try {
    program.parse(argc, argv);
  } catch (const CLI::Success& help) {
    std::ostringstream out;
    program.exit(help, out, out);
    write_stdout(out.str());
    return kExitOk;
  } catch (const CLI::ParseError& error) {
    throw usage_error(program, error, session.arguments);
  }
  return session.action();
}

}  // namespace

void describe_program(CLI::App& program, Session& session) {
  program.description("Compresses large language model checkpoints.");
  add_commands(program, session);
  refuse_negative_counts(program);
}

void add_threads_option(CLI::App& command, int& threads) {
  command.add_option("--threads", threads, "Threads to use; all processors by default")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
}

int run_program(int argc, char** argv) {
  // A closed pipe shows as a failed write, which write_stdout knows.
  std::signal(SIGPIPE, SIG_IGN);
  // A limit on file sizes then shows as a failed write, which is reported as a full disk is.
  std::signal(SIGXFSZ, SIG_IGN);
  const bool json =
      std::any_of(argv, argv + argc, [](const char* argument) { return std::string_view(argument) == "--json"; });
  try {
    set_up_logging();
    return run(argc, argv);
  } catch (...) {
    return report_error(to_error(std::current_exception()), json);
  }
}

}  // namespace quant::cli
