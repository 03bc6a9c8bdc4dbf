#include "kernel_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <thread>

#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/error.h"
#include "quant/kernel_benchmark.h"
#include "quant/version.h"
#include "table.h"

namespace quant::cli {
namespace {

struct MatrixShape {
  std::uint64_t rows = 0, cols = 0;
};

MatrixShape parse_shape(const std::string& text) {
  MatrixShape shape;
  const char* const end = text.data() + text.size();
  const auto rows = std::from_chars(text.data(), end, shape.rows);
  if (rows.ec == std::errc() && rows.ptr != end && *rows.ptr == 'x') {
    const auto cols = std::from_chars(rows.ptr + 1, end, shape.cols);
    if (cols.ec == std::errc() && cols.ptr == end) return shape;
  }
  throw Error(ErrorCode::usage, fmt::format("'{}' is no shape", text), "give outputs x inputs, such as 4096x4096");
}

class KernelTable {
 public:
  void add(const std::string& codec, Activations kind, const std::string& shape, std::uint64_t batch,
           const KernelSpeed& speed) {
    const bool product = batch >= 16;  // then the product is the limit, else the memory
    list_.push_back({{"codec", codec},
                     {"inputs", std::string(to_string(kind))},
                     {"shape", shape},
                     {"batch", batch},
                     {"bytes", speed.bytes},
                     {"seconds", speed.seconds},
                     {"gb_per_s", speed.byte_rate * 1e-9},
                     {"read_gb_per_s", speed.read_rate * 1e-9},
                     {"read_ratio", speed.read_ratio},
                     {"gflops", speed.operation_rate * 1e-9},
                     {"product_gflops", speed.product_rate * 1e-9},
                     {"product_ratio", speed.product_ratio}});
    table_.add({codec, std::string(to_string(kind)), shape, fmt::format("{}", batch),
                fmt::format("{:.1f}", speed.byte_rate * 1e-9), fmt::format("{:.1f}", speed.read_rate * 1e-9),
                fmt::format("{:.1f}", speed.operation_rate * 1e-9), fmt::format("{:.1f}", speed.product_rate * 1e-9),
                fmt::format("{:.2f} of {}", product ? speed.product_ratio : speed.read_ratio,
                            product ? "product" : "reading")});
  }
  std::string text() const { return table_.text(); }
  const Json& json() const { return list_; }

 private:
  Table table_{{{"codec"},
                {"inputs"},
                {"shape"},
                {"batch", Table::Align::right},
                {"GB/s", Table::Align::right},
                {"read", Table::Align::right},
                {"GFLOP/s", Table::Align::right},
                {"oneDNN", Table::Align::right},
                {"ratio", Table::Align::right}}};
  Json list_ = Json::array();
};

}  // namespace

int kernel_bench_command(const KernelBenchCommand& options, Session& session) {
  const int available = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int threads = options.threads > 0 ? options.threads : available;
  std::vector<std::string> codecs = options.codecs;
  if (codecs.empty()) codecs.assign(KernelBenchmark::codecs().begin(), KernelBenchmark::codecs().end());
  std::vector<MatrixShape> shapes;
  for (const std::string& text : options.shapes) shapes.push_back(parse_shape(text));
  KernelTable table;
  ProgressLine line("measuring", session.json);
  std::uint64_t done = 0;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    for (const std::string& codec : codecs) {
      line.update({.done = done++, .total = codecs.size() * shapes.size(), .current = codec, .bytes = false});
      const KernelBenchmark benchmark(codec, shapes[s].rows, shapes[s].cols, threads);
      for (const Activations kind : benchmark.activations()) {
        for (const std::uint64_t batch : options.batches) {
          if (kind == Activations::bf16 && batch == 1) continue;  // multiplied as f32
          table.add(codec, kind, options.shapes[s], batch, benchmark.measure(kind, batch, options.rounds));
        }
      }
    }
  }
  line.clear();
  if (session.json) {
    write_stdout(json_text(Json{{"quant", std::string(version())},
                                {"isa", std::string(PackedLinear(QuantizedTensor{}).isa())},
                                {"threads", threads},
                                {"rounds", options.rounds},
                                {"results", table.json()}}));
  } else {
    const std::vector<std::pair<std::string, std::string>> fields{
        {"kernels", std::string(PackedLinear(QuantizedTensor{}).isa())},
        {"threads", fmt::format("{}", threads)},
        {"rounds", fmt::format("{}, medians", options.rounds)}};
    write_stdout(field_list(fields) + "\n" + table.text());
  }
  return kExitOk;
}

}  // namespace quant::cli
