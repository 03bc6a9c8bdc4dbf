// quant bench: speeds on this machine, each beside its limit.
#include <fmt/format.h>

#include <algorithm>
#include <thread>

#include "errors.h"
#include "kernel_bench.h"
#include "output.h"
#include "progress.h"
#include "quant/benchmark.h"
#include "quant/version.h"
#include "session.h"
#include "solve_benchmark.h"
#include "table.h"

namespace quant::cli {
namespace {

struct BenchCommand {
  std::uint64_t width = 4096;
  int rounds = 5;
  int threads = 0;
};

Json result_json(const BenchmarkResult& result) {
  return {{"name", result.name},          {"type", result.type},
          {"shape", result.shape},        {"operations", result.operations},
          {"gflops", result.rate * 1e-9}, {"limit_gflops", result.limit_rate * 1e-9},
          {"ratio", result.ratio}};
}

int bench_command(const BenchCommand& options, Session& session) {
  const int available = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int threads = options.threads > 0 ? options.threads : available;
  auto cases = linalg_benchmarks(options.width, threads);
  std::ranges::move(forward_benchmarks(options.width, threads), std::back_inserter(cases));
  std::ranges::move(solve_benchmarks(options.width, threads), std::back_inserter(cases));
  Table table({{"operation"},
               {"type"},
               {"shape"},
               {"GFLOP/s", Table::Align::right},
               {"limit", Table::Align::right},
               {"ratio", Table::Align::right}});
  Json list = Json::array();
  ProgressLine line("measuring", session.json);
  for (std::size_t i = 0; i < cases.size(); ++i) {
    const BenchmarkCase work = cases[i]();
    line.update({.done = i, .total = cases.size(), .current = work.name + " " + work.type, .bytes = false});
    const BenchmarkResult result = measure(work, options.rounds);
    list.push_back(result_json(result));
    table.add({result.name, result.type, result.shape, fmt::format("{:.1f}", result.rate * 1e-9),
               fmt::format("{:.1f}", result.limit_rate * 1e-9), fmt::format("{:.2f}", result.ratio)});
  }
  line.clear();
  if (session.json) {
    write_stdout(json_text(Json{{"quant", std::string(version())},
                                {"threads", threads},
                                {"width", options.width},
                                {"rounds", options.rounds},
                                {"results", list}}));
  } else {
    const std::vector<std::pair<std::string, std::string>> fields{
        {"threads", fmt::format("{}", threads)}, {"rounds", fmt::format("{}, medians", options.rounds)}};
    write_stdout(field_list(fields) + "\n" + table.text());
  }
  return kExitOk;
}

void add_kernel_bench(CLI::App& bench, Session& session) {
  const auto options = std::make_shared<KernelBenchCommand>();
  CLI::App* command =
      add_command(bench, session, "kernels", "Measure products with packed weights beside memory and oneDNN",
                  "quant bench kernels --shape 4096x4096 --batch 1", options, kernel_bench_command);
  command->add_option("--shape", options->shapes, "Outputs x inputs of the weights")->capture_default_str();
  command->add_option("--batch", options->batches, "Tokens that are multiplied at once (1, 8, 64, 512; 16 with cuda)")
      ->check(CLI::Range(1, 65536));
  command->add_option("--device", options->device, "cpu, or cuda: beside copying on the device and cuBLAS FP16")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command->add_option("--codec", options->codecs, "Only these, as the table names them");
  command->add_option("--rounds", options->rounds, "Measurements of each, of which the median is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_threads_option(*command, options->threads);
}

}  // namespace

void add_bench(CLI::App& program, Session& session) {
  const auto options = std::make_shared<BenchCommand>();
  CLI::App* command = add_command(program, session, "bench", "Measure this machine's speed beside its limits",
                                  "quant bench --width 4096", options, bench_command);
  command->add_option("--width", options->width, "Hidden size of the model whose shapes are measured")
      ->check(CLI::Range(1, 32768))
      ->capture_default_str();
  command->add_option("--rounds", options->rounds, "Measurements of each, of which the median is shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  add_threads_option(*command, options->threads);
  command->require_subcommand(0, 1);
  add_kernel_bench(*command, session);
  command->callback([&session, options, command] {  // which comes after that of its own command
    if (!command->get_subcommands().empty()) return;
    session.action = [&session, options] { return bench_command(*options, session); };
  });
}

}  // namespace quant::cli
