// Speeds of the encode kernels, one thread: `bench_encode [seconds per line]`. Each line is the median of many runs.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "quant/dtype.h"
#include "quant/kernels.h"
#include "quant/rtn.h"

namespace {

using Clock = std::chrono::steady_clock;
double g_seconds = 0.3;

std::uint64_t ticks() {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return 0;
#endif
}

struct Timing {
  double seconds, ticks;
  double best = 0;  // seconds of the fastest run: what an idle machine would show
};

template <class Work>
Timing median_of(const Work& work) {
  std::vector<Timing> runs;
  const auto end = Clock::now() + std::chrono::duration<double>(g_seconds);
  work();
  while (Clock::now() < end || runs.size() < 5) {
    const auto start = Clock::now();
    const std::uint64_t before = ticks();
    work();
    const auto after = ticks();
    runs.push_back(
        {std::chrono::duration<double>(Clock::now() - start).count(), static_cast<double>(after - before), 0});
  }
  const auto middle = runs.begin() + static_cast<std::ptrdiff_t>(runs.size() / 2);
  std::nth_element(runs.begin(), middle, runs.end(),
                   [](const Timing& a, const Timing& b) { return a.seconds < b.seconds; });
  Timing result = *middle;
  for (const Timing& run : runs) result.best = result.best == 0 ? run.seconds : std::min(result.best, run.seconds);
  return result;
}

void print_line(const std::string& name, const Timing& timing, double weights, double bytes) {
  std::printf("%-44s %7.3f Gweights/s  %6.3f tsc/weight  %6.3f tsc/byte  %7.2f GB/s read  (best %.3f)\n", name.c_str(),
              weights / timing.seconds * 1e-9, timing.ticks / weights, timing.ticks / bytes,
              bytes / timing.seconds * 1e-9, weights / timing.best * 1e-9);
  std::fflush(stdout);
}

std::vector<std::uint16_t> gaussian(std::size_t count) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<std::uint16_t> pattern(1U << 18), out(count);
  for (auto& half : pattern) half = quant::f32_to_f16(normal(random));
  for (std::size_t i = 0; i < count; ++i) out[i] = pattern[(i + i / pattern.size() * 77) % pattern.size()];
  return out;
}

// The dependent limit: the sum of all bytes read, in eight chains.
double read_all(const std::vector<std::uint16_t>& data) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data.data());
  const std::size_t count = data.size() / 4;
  std::uint64_t sums[16] = {};
  for (std::size_t i = 0; i + 16 <= count; i += 16) {
    for (std::size_t k = 0; k < 16; ++k) sums[k] += words[i + k];
  }
  std::uint64_t total = 0;
  for (const std::uint64_t sum : sums) total += sum;
  return static_cast<double>(total);
}

struct Case {
  const char* name;
  quant::QuantArgs args;
};

quant::QuantArgs args_of(int bits, quant::NumberType type, quant::Strategy strategy, std::optional<std::int64_t> group,
                         bool symmetric, std::optional<quant::DType> scale, const char* observer) {
  quant::QuantArgs args;
  args.num_bits = bits;
  args.type = type;
  args.strategy = strategy;
  args.group_size = group;
  args.symmetric = symmetric;
  args.scale_dtype = scale;
  args.observer = observer;
  return args;
}

// Kernels alone, on one table: ranges and coding of int4 group 128.
void bench_table(const quant::KernelTable& table, const std::vector<std::uint16_t>& data, std::size_t rows,
                 std::size_t cols, const char* where) {
  std::vector<float> absmax(cols / 128), scales(cols / 128);
  std::vector<std::int8_t> codes(rows * cols);
  quant::RowSums sums{};
  const auto bytes = static_cast<double>(rows * cols * 2), weights = static_cast<double>(rows * cols);
  const std::string name = std::string(table.isa) + " " + where;
  print_line(name + " absmax", median_of([&] {
               for (std::size_t r = 0; r < rows; ++r) {
                 table.group_absmax(data.data() + r * cols, quant::WeightType::f16, cols, 128, absmax.data());
               }
             }),
             weights, bytes);
  print_line(name + " int4 g128", median_of([&] {
               for (std::size_t r = 0; r < rows; ++r) {
                 const auto* row = data.data() + r * cols;
                 table.group_absmax(row, quant::WeightType::f16, cols, 128, absmax.data());
                 for (std::size_t g = 0; g < absmax.size(); ++g) scales[g] = absmax[g] / 7.5F;
                 table.round_values(quant::RoundTo::f16, scales.data(), scales.size());
                 table.encode({row, quant::WeightType::f16, quant::Element::integer, cols, 128, scales.data(), nullptr,
                               -8, 7, codes.data() + r * cols, &sums, nullptr, nullptr});
               }
             }),
             weights, bytes);
}

void bench_quantizer(const Case& item, const std::vector<std::uint16_t>& data, std::size_t rows, std::size_t cols) {
  const quant::TensorView view{quant::DType::F16, {rows, cols}, std::as_bytes(std::span(data).first(rows * cols))};
  const auto quantizer = quant::make_rtn();
  quant::QuantizedTensor out;
  std::vector<quant::ErrorSums> sums(rows);
  std::vector<double> signal(cols), noise(cols);
  const quant::TensorParams params = quantizer->prepare(view, item.args, {}, 1);
  const quant::DType scale = item.args.scale_dtype.value_or(quant::DType::F16);
  quantizer->quantize_rows(view, item.args, scale, params, {}, out, {});
  const quant::SliceErrors errors{sums, std::span(signal).first(out.grid.cols), std::span(noise).first(out.grid.cols)};
  print_line(item.name, median_of([&] { quantizer->quantize_rows(view, item.args, scale, params, {}, out, errors); }),
             static_cast<double>(rows * cols), static_cast<double>(rows * cols * 2));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) g_seconds = std::atof(argv[1]);
  const std::size_t cols = 4096, resident = 64, streaming = 32768;  // 0.5 MB and 268 MB
  const auto data = gaussian(streaming * cols);
  volatile double sink = 0;
  print_line("reading alone, streaming", median_of([&] { sink = read_all(data); }), static_cast<double>(data.size()),
             static_cast<double>(data.size()) * 2);
  for (const quant::KernelTable* table : quant::available_kernels()) {
    bench_table(*table, data, resident, cols, "L2");
    bench_table(*table, data, streaming, cols, "streaming");
  }
  using enum quant::NumberType;
  using quant::DType, quant::Strategy;
  const std::vector<Case> cases{
      {"rtn int4 sym g128 minmax", args_of(4, integer, Strategy::group, 128, true, {}, "minmax")},
      {"rtn int4 asym g128 minmax", args_of(4, integer, Strategy::group, 128, false, {}, "minmax")},
      {"rtn int8 sym channel minmax", args_of(8, integer, Strategy::channel, {}, true, {}, "minmax")},
      {"rtn fp8 channel minmax", args_of(8, floating, Strategy::channel, {}, true, {}, "minmax")},
      {"rtn nvfp4 minmax", args_of(4, floating, Strategy::tensor_group, 16, true, DType::F8_E4M3, "minmax")},
      {"rtn mxfp4 minmax", args_of(4, floating, Strategy::group, 32, true, DType::U8, "minmax")},
      {"rtn int4 sym g128 mse", args_of(4, integer, Strategy::group, 128, true, {}, "mse")},
      {"rtn int4 asym g128 mse", args_of(4, integer, Strategy::group, 128, false, {}, "mse")},
      {"rtn int4 sym g128 mse_search", args_of(4, integer, Strategy::group, 128, true, {}, "mse_search")},
      {"rtn int4 asym g128 mse_search", args_of(4, integer, Strategy::group, 128, false, {}, "mse_search")},
      {"rtn fp8 channel mse", args_of(8, floating, Strategy::channel, {}, true, {}, "mse")},
      {"rtn nvfp4 mse_search", args_of(4, floating, Strategy::tensor_group, 16, true, DType::F8_E4M3, "mse_search")},
  };
  for (const Case& item : cases) bench_quantizer(item, data, resident, cols);
  return 0;
}
