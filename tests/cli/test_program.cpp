#include "run_quant.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

namespace {

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const std::vector<std::string> kCommands{"inspect", "plan",       "run",     "report", "compare",
                                         "verify",  "dequantize", "recipes", "bench",  "convert"};

}  // namespace

TEST_CASE("version and help go to stdout", "[program]") {
  const Outcome version = run_quant({"--version"});
  CHECK(version.code == 0);
  CHECK(version.out.starts_with("quant "));
  CHECK(version.err.empty());
  const Outcome help = run_quant({"--help"});
  CHECK(help.code == 0);
  for (const std::string& command : kCommands) CHECK(contains(help.out, command));
  CHECK(contains(help.out, "Exit codes:"));
}

TEST_CASE("the help of every command ends with an example of it", "[program]") {
  for (const std::string& command : kCommands) {
    const Outcome help = run_quant({command, "--help"});
    INFO(help.out << help.err);
    CHECK(help.code == 0);
    const std::size_t example = help.out.rfind("Example:\n  quant " + command);
    CHECK(example != std::string::npos);
    CHECK(contains(help.out, "--json"));
  }
}

TEST_CASE("counts are whole numbers from 0, in every command", "[program]") {
  const std::string model = example_model();
  const std::vector<std::vector<std::string>> commands{{"plan", "w4a16", "--model", model, "--samples"},
                                                       {"run", "w4a16", "--model", model, "--samples"},
                                                       {"run", "w4a16", "--model", model, "--seed"},
                                                       {"run", "w4a16", "--model", model, "--sensitivity-samples"},
                                                       {"sensitivity", model, "--calibration", "x.txt", "--samples"}};
  for (auto arguments : commands) {
    for (const char* value : {"-1", "1.5", "four"}) {
      auto with_value = arguments;
      with_value.back() += std::string("=") + value;
      const Outcome outcome = run_quant(with_value);
      INFO(outcome.err);
      CHECK(outcome.code == 2);
      CHECK(contains(outcome.err, arguments.back() + ": '" + value + "' is no whole number from 0"));
    }
  }
  for (const char* command : {"plan", "run"}) {
    const Outcome none = run_quant({command, "w4a16", "--model", model, "--seq-len", "0"});
    INFO(none.err);
    CHECK(none.code == 2);
    CHECK(contains(none.err, "not in range 2 to 10000000"));
  }
  const Outcome compared = run_quant({"compare", model, model, "--fail-above-nmse", "-1"});
  CHECK(compared.code == 2);
  CHECK(compared.err.size() < 300);
}

TEST_CASE("wrong usage is told with the nearest name", "[program]") {
  const Outcome none = run_quant({});
  CHECK(none.code == 2);
  CHECK(contains(none.err, "--help"));
  CHECK(none.out.empty());

  const Outcome command = run_quant({"inspct", "x"});
  CHECK(command.code == 2);
  CHECK(contains(command.err, "'inspct'"));
  CHECK(contains(command.err, "did you mean 'inspect'"));

  const Outcome option = run_quant({"plan", "w4a16", "--modle", "x"});
  CHECK(option.code == 2);
  CHECK(contains(option.err, "'--modle'"));
  CHECK(contains(option.err, "did you mean '--model'"));

  // The misspelt option is the cause, even where an argument is missing as well.
  const Outcome both = run_quant({"dequantize", "x", "--ouput=y"});
  CHECK(both.code == 2);
  CHECK(contains(both.err, "did you mean '--output'"));

  CHECK(run_quant({"inspect"}).code == 2);
  CHECK(run_quant({"inspect", "a", "b"}).code == 2);
  CHECK(run_quant({"compare", "a"}).code == 2);
  CHECK(run_quant({"verify", "x", "--threads", "0"}).code == 2);
  CHECK(run_quant({"verify", "x", "--threads", "many"}).code == 2);
  CHECK(run_quant({"report", "x", "--format", "pdf"}).code == 2);
  CHECK(run_quant({"dequantize", "x", "--output", "y", "--dtype", "I8"}).code == 2);
}

TEST_CASE("with --json errors are JSON on stdout and text on stderr", "[program]") {
  for (const auto& arguments : std::vector<std::vector<std::string>>{{"inspect", "/no/such/model", "--json"},
                                                                     {"--json", "inspect", "/no/such/model"}}) {
    const Outcome outcome = run_quant(arguments);
    const auto error = json_of(outcome).at("error");
    CHECK(outcome.code == error.at("exit_code"));
    CHECK_FALSE(error.at("message").get<std::string>().empty());
    CHECK(error.contains("kind"));
    CHECK(error.contains("hint"));
    CHECK(contains(outcome.err, "quant: "));
  }
  CHECK(json_of(run_quant({"inspect", "/no/such/model", "--json"})).at("error").at("code") == "io");
  CHECK(json_of(run_quant({"plan", "--jsn", "--json"})).at("error").at("code") == "usage");
}

TEST_CASE("missing inputs are input errors that name the file", "[program]") {
  for (const auto& arguments :
       std::vector<std::vector<std::string>>{{"inspect", "/no/such/model"},
                                             {"verify", "/no/such/model"},
                                             {"report", "/no/such/model"},
                                             {"compare", "/no/such/model", "/no/such/model"},
                                             {"dequantize", "/no/such/model", "--output", "/no/such/output"},
                                             {"convert", "/no/such/model", "--output", "/no/such/output"},
                                             {"plan", "w4a16", "--model", "/no/such/model"}}) {
    const Outcome outcome = run_quant(arguments);
    INFO(arguments[0] << ": " << outcome.err);
    CHECK(outcome.code == 6);
    CHECK(contains(outcome.err, "/no/such/model"));
    CHECK(outcome.out.empty());
  }
}

TEST_CASE("a full disk behind stdout is an error, a closed pipe is none", "[program]") {
  const Outcome full = run_quant_into("/dev/full", {"--help"});
  CHECK(full.code == 6);
  CHECK(contains(full.err, "standard output"));
  const TempDir dir;
  const std::string command = std::string(QUANT_EXECUTABLE) + " inspect " + example_model() + " --tensors 2> " +
                              (dir / "err").string() + " | true";
  CHECK(std::system(command.c_str()) == 0);
  CHECK(read_file(dir / "err").empty());
}

TEST_CASE("QUANT_LOG opens the log on stderr", "[program]") {
  const std::vector<std::string> arguments{"plan", "w4a16", "--model", example_model()};
  const Outcome quiet = run_quant(arguments, {"QUANT_LOG="});
  const Outcome debug = run_quant(arguments, {"QUANT_LOG=debug"});
  CHECK_FALSE(contains(debug.out, "debug: "));
  CHECK(contains(debug.err, "debug: "));
  CHECK_FALSE(contains(quiet.err, "debug: "));
  CHECK(contains(run_quant({"--version"}, {"QUANT_LOG=loud"}).err, "QUANT_LOG=loud"));
}

TEST_CASE("waiting threads sleep soon unless the environment says otherwise", "[program]") {
  // The last of what OpenMP says about itself; an entry without a value unsets the variable.
  const auto spins = [](std::vector<std::string> environment) {
    environment.insert(environment.end(), {"OMP_DISPLAY_ENV=VERBOSE"});
    const Outcome outcome = run_quant({"--version"}, environment);
    CHECK(outcome.code == 0);
    CHECK(outcome.out.starts_with("quant "));
    const std::string mark = "GOMP_SPINCOUNT = '";
    const std::size_t at = outcome.err.rfind(mark);
    if (at == std::string::npos) return -1LL;  // another OpenMP than GCC's
    return std::stoll(outcome.err.substr(at + mark.size()));
  };
  const std::vector<std::string> unset{"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"};
  const auto with = [&](const std::string& entry) {
    std::vector<std::string> environment = unset;
    environment.push_back(entry);
    return environment;
  };
  if (spins(unset) < 0) return;
  CHECK(spins(unset) == 500);
  CHECK(spins(with("GOMP_SPINCOUNT=77")) == 77);
  CHECK(spins(with("OMP_WAIT_POLICY=active")) > 1000000);
  CHECK(spins(with("OMP_WAIT_POLICY=passive")) == 0);
}

TEST_CASE("a loader that was started by hand runs the program", "[program]") {
  for (const char* loader : {"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"}) {
    if (!std::filesystem::exists(loader)) continue;
    const TempDir dir;
    const std::string command = "env -u OMP_WAIT_POLICY -u GOMP_SPINCOUNT -u KMP_BLOCKTIME " + std::string(loader) +
                                " " + QUANT_EXECUTABLE + " recipes > " + (dir / "out").string() + " 2> " +
                                (dir / "err").string();
    CHECK(std::system(command.c_str()) == 0);
    CHECK(read_file(dir / "err").empty());
    CHECK(read_file(dir / "out") == run_quant({"recipes"}).out);
  }
}
