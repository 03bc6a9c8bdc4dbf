// y = x W^T. W is cut into panels of rows, each brought into the layout that oneDNN's kernel reads; the tokens are cut
// into tiles of one fixed size, the last one filled up with zeros, so that every result comes from the same kernel.
#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "linalg/check.h"
#include "linalg/onednn.h"
#include "linalg/operand.h"
#include "linalg/parallel.h"
#include "quant/error.h"
#include "quant/linalg.h"

namespace quant {
namespace {

using linalg::for_tasks;
using linalg::Matmul;
using linalg::Operand;
using linalg::pieces;

constexpr std::uint64_t kPanel = 256;  // rows of W
constexpr std::uint64_t kTask = 64;    // tokens of a task
constexpr std::uint64_t kGroup = 512;  // tokens that are converted at once

// Tokens of a kernel call, a divisor of kTask. Long sums reach the processor's rate with few tokens, and a call of few
// tokens then wastes little; short sums need more to pay for the call.
std::uint64_t tile_tokens(std::uint64_t cols) { return cols < 1024 ? 64 : 16; }

linalg::Type element(Operand operand) { return operand == Operand::bf16 ? linalg::Type::bf16 : linalg::Type::f32; }

// The kernels for panels of one height.
struct PanelKernels {
  std::uint64_t rows = 0;
  Matmul tile;
  std::optional<Matmul> single;  // one token; absent if its kernel reads W in another layout

  PanelKernels(std::uint64_t panel_rows, std::uint64_t cols, Operand operand)
      : rows(panel_rows),
        tile(make(tile_tokens(cols), panel_rows, linalg::any_matrix(cols, panel_rows, element(operand)))) {
    try {
      single.emplace(make(1, panel_rows, tile.weights()));
    } catch (const dnnl::error&) {  // the tile's kernel serves then
      single.reset();
    }
  }

  static Matmul make(std::uint64_t tokens, std::uint64_t panel_rows, const dnnl::memory::desc& weights) {
    const auto cols = static_cast<std::uint64_t>(weights.dims()[0]);
    const linalg::Type type = weights.data_type();
    return {linalg::matrix(tokens, cols, type, cols, 1), weights,
            linalg::matrix(tokens, panel_rows, linalg::Type::f32, panel_rows, 1), false};
  }
};

struct Scratch {
  std::vector<std::byte> onednn;
  std::vector<float> result = std::vector<float>(kTask * kPanel);
};

Scratch& scratch() {
  thread_local Scratch mine;
  return mine;
}

}  // namespace

struct Product::State {
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  std::uint64_t tile = 0;  // tokens
  Operand operand = Operand::f32;
  std::optional<PanelKernels> full;
  std::optional<PanelKernels> last;  // of a panel with fewer rows
  std::vector<dnnl::memory> panels;

  const PanelKernels& kernels(std::size_t panel) const { return (panel + 1) * kPanel <= rows ? *full : *last; }
  void make_kernels();
  void fill_panel(const float* weight, std::size_t panel);
  void run_tokens(const std::byte* x, std::uint64_t tokens, float* y, std::size_t panel) const;
  void run_single(const std::byte* x, float* y, std::size_t panel) const;
  void run_group(const float* x, std::uint64_t tokens, float* y, std::vector<std::byte>& converted, int threads) const;
  void run_one(const float* x, float* y, int threads) const;
};

void Product::State::make_kernels() {
  const linalg::OneThread one;
  if (rows >= kPanel) full.emplace(kPanel, cols, operand);
  if (rows % kPanel != 0) last.emplace(rows % kPanel, cols, operand);
  for (std::uint64_t panel = 0; panel < pieces(rows, kPanel); ++panel) {
    panels.emplace_back(kernels(panel).tile.weights(), linalg::cpu_engine());
  }
}

void Product::State::fill_panel(const float* weight, std::size_t panel) {
  const std::uint64_t panel_rows = kernels(panel).rows;
  const float* from = weight + panel * kPanel * cols;
  std::vector<std::byte> rounded;
  if (operand != Operand::f32) {
    rounded.resize(panel_rows * cols * linalg::operand_bytes(operand));
    linalg::to_operand(from, panel_rows * cols, operand, rounded.data());
  }
  // A reorder only reads its source, though the handle is not const.
  void* source = operand == Operand::f32 ? const_cast<float*>(from) : static_cast<void*>(rounded.data());
  dnnl::memory plain(linalg::matrix(cols, panel_rows, element(operand), 1, cols), linalg::cpu_engine(), source);
  dnnl::reorder(plain, panels[panel]).execute(linalg::cpu_stream(), plain, panels[panel]);
}

// x: operands, filled up with zeros to whole tiles.
void Product::State::run_tokens(const std::byte* x, std::uint64_t tokens, float* y, std::size_t panel) const {
  const PanelKernels& kernel = kernels(panel);
  const void* weights = panels[panel].get_data_handle();
  Scratch& mine = scratch();
  for (std::uint64_t first = 0; first < tokens; first += tile) {
    const std::uint64_t count = std::min(tile, tokens - first);
    const std::byte* source = x + first * cols * linalg::operand_bytes(operand);
    kernel.tile.run(source, weights, mine.result.data(), mine.onednn);
    for (std::uint64_t t = 0; t < count; ++t) {
      std::memcpy(y + (first + t) * rows + panel * kPanel, mine.result.data() + t * kernel.rows,
                  kernel.rows * sizeof(float));
    }
  }
}

void Product::State::run_single(const std::byte* x, float* y, std::size_t panel) const {
  const PanelKernels& kernel = kernels(panel);
  if (!kernel.single) {
    std::vector<std::byte> filled_up(tile * cols * linalg::operand_bytes(operand));
    std::memcpy(filled_up.data(), x, filled_up.size() / tile);
    return run_tokens(filled_up.data(), 1, y, panel);
  }
  kernel.single->run(x, panels[panel].get_data_handle(), y + panel * kPanel, scratch().onednn);
}

void Product::State::run_one(const float* x, float* y, int threads) const {
  std::vector<std::byte> converted(cols * linalg::operand_bytes(operand));
  linalg::to_operand(x, cols, operand, converted.data());
  for_tasks(threads, panels.size(),
            [&](std::size_t panel) { linalg::with_onednn([&] { run_single(converted.data(), y, panel); }); });
}

void Product::State::run_group(const float* x, std::uint64_t tokens, float* y, std::vector<std::byte>& converted,
                               int threads) const {
  const std::uint64_t tasks = pieces(tokens, kTask);
  const std::uint64_t row_bytes = cols * linalg::operand_bytes(operand);
  const bool direct = operand == Operand::f32 && tokens % tile == 0;
  if (!direct) {
    converted.resize(pieces(tokens, tile) * tile * row_bytes);
    for_tasks(threads, tasks, [&](std::size_t task) {
      const std::uint64_t first = task * kTask;
      const std::uint64_t count = std::min(kTask, tokens - first);
      linalg::to_operand(x + first * cols, count * cols, operand, converted.data() + first * row_bytes);
    });
    std::fill(converted.begin() + static_cast<std::ptrdiff_t>(tokens * row_bytes), converted.end(), std::byte{0});
  }
  const std::byte* source = direct ? reinterpret_cast<const std::byte*>(x) : converted.data();
  for_tasks(threads, panels.size() * tasks, [&](std::size_t task) {
    const std::uint64_t first = task % tasks * kTask;
    linalg::with_onednn([&] {
      run_tokens(source + first * row_bytes, std::min(kTask, tokens - first), y + first * rows, task / tasks);
    });
  });
}

Product::Product(std::span<const float> weight, std::uint64_t rows, std::uint64_t cols, ProductType type, int threads)
    : state_(std::make_unique<State>()) {
  linalg::check_matrix("Product", "weight", weight.size(), rows, cols);
  if (weight.empty()) throw Error(ErrorCode::usage, "Product: the weight has no elements.");
  state_->rows = rows;
  state_->cols = cols;
  state_->tile = tile_tokens(cols);
  state_->operand = linalg::operand_of(type);
  linalg::with_onednn([&] { state_->make_kernels(); });
  for_tasks(threads, state_->panels.size(),
            [&](std::size_t panel) { linalg::with_onednn([&] { state_->fill_panel(weight.data(), panel); }); });
}

Product::~Product() = default;
Product::Product(Product&&) noexcept = default;
Product& Product::operator=(Product&&) noexcept = default;

std::uint64_t Product::rows() const { return state_->rows; }
std::uint64_t Product::cols() const { return state_->cols; }

std::uint64_t Product::bytes() const {
  std::uint64_t total = 0;
  for (const dnnl::memory& panel : state_->panels) total += panel.get_desc().get_size();
  return total;
}

void Product::run(std::span<const float> x, std::uint64_t tokens, std::span<float> y, int threads) const {
  linalg::check_matrix("Product::run", "x", x.size(), tokens, cols());
  linalg::check_matrix("Product::run", "y", y.size(), tokens, rows());
  if (tokens == 1) return state_->run_one(x.data(), y.data(), threads);
  std::vector<std::byte> converted;
  for (std::uint64_t first = 0; first < tokens; first += kGroup) {
    state_->run_group(x.data() + first * cols(), std::min(kGroup, tokens - first), y.data() + first * rows(), converted,
                      threads);
  }
}

}  // namespace quant
