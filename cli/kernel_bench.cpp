#include "kernel_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <thread>

#include "errors.h"
#include "output.h"
#include "progress.h"
#include "quant/cuda_linear.h"
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

// What the limits are called.
struct LimitNames {
  std::string read, product;            // column titles
  std::string read_json, product_json;  // beginnings of keys
  std::string read_word;
};

class KernelTable {
 public:
  explicit KernelTable(LimitNames names)
      : names_(std::move(names)),
        table_({{"codec"},
                {"inputs"},
                {"shape"},
                {"batch", Table::Align::right},
                {"GB/s", Table::Align::right},
                {names_.read, Table::Align::right},
                {"GFLOP/s", Table::Align::right},
                {names_.product, Table::Align::right},
                {"ratio", Table::Align::right}}) {}

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
                     {names_.read_json + "_gb_per_s", speed.read_rate * 1e-9},
                     {names_.read_json + "_ratio", speed.read_ratio},
                     {"gflops", speed.operation_rate * 1e-9},
                     {names_.product_json + "_gflops", speed.product_rate * 1e-9},
                     {names_.product_json + "_ratio", speed.product_ratio}});
    table_.add({codec, std::string(to_string(kind)), shape, fmt::format("{}", batch),
                fmt::format("{:.1f}", speed.byte_rate * 1e-9), fmt::format("{:.1f}", speed.read_rate * 1e-9),
                fmt::format("{:.1f}", speed.operation_rate * 1e-9), fmt::format("{:.1f}", speed.product_rate * 1e-9),
                fmt::format("{:.2f} of {}", product ? speed.product_ratio : speed.read_ratio,
                            product ? "product" : names_.read_word)});
  }
  std::string text() const { return table_.text(); }
  const Json& json() const { return list_; }

 private:
  LimitNames names_;
  Table table_;
  Json list_ = Json::array();
};

// All rows of the table; `Benchmark` is made from a codec, a shape, and threads or a device.
template <class Benchmark>
void fill_table(const KernelBenchCommand& options, const std::vector<std::uint64_t>& batches, int threads_or_device,
                bool rounds_one_token, const Session& session, KernelTable& table) {
  std::vector<std::string> codecs = options.codecs;
  if (codecs.empty()) codecs.assign(KernelBenchmark::codecs().begin(), KernelBenchmark::codecs().end());
  std::vector<MatrixShape> shapes;
  for (const std::string& text : options.shapes) shapes.push_back(parse_shape(text));
  ProgressLine line("measuring", session.json);
  std::uint64_t done = 0;
  for (std::size_t s = 0; s < shapes.size(); ++s) {
    for (const std::string& codec : codecs) {
      line.update({.done = done++, .total = codecs.size() * shapes.size(), .current = codec, .bytes = false});
      const Benchmark benchmark(codec, shapes[s].rows, shapes[s].cols, threads_or_device);
      for (const Activations kind : benchmark.activations()) {
        for (const std::uint64_t batch : batches) {
          if (kind == Activations::bf16 && batch == 1 && !rounds_one_token) continue;  // multiplied as f32
          table.add(codec, kind, options.shapes[s], batch, benchmark.measure(kind, batch, options.rounds));
        }
      }
    }
  }
  line.clear();
}

void write_results(const std::vector<std::pair<std::string, Json>>& facts, const KernelTable& table,
                   const Session& session) {
  if (session.json) {
    Json document{{"quant", std::string(version())}, {"results", table.json()}};
    for (const auto& [name, value] : facts) document[name] = value;
    return write_stdout(json_text(document));
  }
  std::vector<std::pair<std::string, std::string>> fields;
  for (const auto& [name, value] : facts) {
    fields.emplace_back(name, value.is_string() ? value.get<std::string>() : value.dump());
  }
  write_stdout(field_list(fields) + "\n" + table.text());
}

int bench_on_device(const KernelBenchCommand& options, const Session& session) {
  const std::vector<CudaDevice> devices = cuda_devices();
  const std::vector<std::uint64_t> usual{1, 8, 16, 64, 512};
  KernelTable table({"copy", "cuBLAS FP16", "copy", "product", "copying"});
  fill_table<CudaKernelBenchmark>(options, options.batches.empty() ? usual : options.batches,
                                  devices.empty() ? 0 : devices.front().index, true, session, table);
  const CudaDevice& device = devices.front();  // without one the benchmark has thrown
  write_results({{"device", fmt::format("{}, compute capability {}.{}", device.name, device.major, device.minor)},
                 {"rounds", options.rounds}},
                table, session);
  return kExitOk;
}

}  // namespace

int kernel_bench_command(const KernelBenchCommand& options, Session& session) {
  if (options.device == "cuda") return bench_on_device(options, session);
  const int available = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int threads = options.threads > 0 ? options.threads : available;
  const std::vector<std::uint64_t> usual{1, 8, 64, 512};
  KernelTable table({"read", "oneDNN", "read", "product", "reading"});
  fill_table<KernelBenchmark>(options, options.batches.empty() ? usual : options.batches, threads, false, session,
                              table);
  write_results(
      {{"isa", std::string(PackedLinear(QuantizedTensor{}).isa())}, {"threads", threads}, {"rounds", options.rounds}},
      table, session);
  return kExitOk;
}

}  // namespace quant::cli
