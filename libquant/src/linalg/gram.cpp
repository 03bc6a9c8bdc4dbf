// X^T X over calls. Rows are taken in chunks of one fixed size, whatever the calls bring, so that neither the division
// into calls nor the number of threads shows in the sums.
#include <algorithm>
#include <cstring>
#include <map>
#include <string>
#include <utility>
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

constexpr std::uint64_t kChunk = 512;  // rows of X
constexpr std::uint64_t kTile = 256;   // rows and columns of the result
constexpr std::uint64_t kConvert = 32;
constexpr std::uint64_t kMostColumns = 1U << 20U;  // a matrix of 4 TiB

struct Tile {
  std::uint64_t i = 0, j = 0, rows = 0, cols = 0;
};

std::vector<Tile> make_tiles(std::uint64_t m, std::uint64_t n, bool upper_only = false) {
  std::vector<Tile> tiles;
  for (std::uint64_t i = 0; i < m; i += kTile) {
    for (std::uint64_t j = upper_only ? i : 0; j < n; j += kTile) {
      tiles.push_back({i, j, std::min(kTile, m - i), std::min(kTile, n - j)});
    }
  }
  return tiles;
}

// Rows as operands. The stride is no power of 2, so that a column does not fall into a few cache sets.
struct Operands {
  Operand kind = Operand::f32;
  std::uint64_t stride = 0;
  std::vector<std::byte> bytes;

  Operands(Operand operand, std::uint64_t cols) : kind(operand), stride(pieces(cols, 64) * 64 + 32) {}
  const std::byte* at(std::uint64_t row, std::uint64_t col) const {
    return bytes.data() + (row * stride + col) * linalg::operand_bytes(kind);
  }
  std::byte* row(std::uint64_t index) { return bytes.data() + index * stride * linalg::operand_bytes(kind); }
  std::uint64_t chunk_bytes() const { return kChunk * stride * linalg::operand_bytes(kind); }
  void reserve_chunk() { bytes.resize(chunk_bytes()); }
};

// sum += left^T right for tiles of `sum`; BF16 needs one primitive for each shape of tile.
class TileProducts {
 public:
  TileProducts(const std::vector<Tile>& tiles, std::uint64_t n, const Operands& left, const Operands& right,
               std::uint64_t count)
      : n_(n), left_(left), right_(right), count_(count) {
    if (left.kind != Operand::bf16) return;
    const linalg::OneThread one;
    linalg::with_onednn([&] {
      for (const Tile& tile : tiles) add_shape(tile);
    });
  }

  void run(const Tile& tile, float* sum) const {
    float* out = sum + tile.i * n_ + tile.j;
    const std::byte* a = left_.at(0, tile.i);
    const std::byte* b = right_.at(0, tile.j);
    if (left_.kind != Operand::bf16) {
      const linalg::Sgemm product{.transpose_a = true, .beta = 1.0F};
      product(tile.rows, tile.cols, count_, reinterpret_cast<const float*>(a), left_.stride,
              reinterpret_cast<const float*>(b), right_.stride, out, n_);
      return;
    }
    thread_local std::vector<std::byte> scratch;
    linalg::with_onednn([&] { shapes_.at({tile.rows, tile.cols}).run(a, b, out, scratch); });
  }

 private:
  void add_shape(const Tile& tile) {
    const std::pair<std::uint64_t, std::uint64_t> shape{tile.rows, tile.cols};
    if (shapes_.contains(shape)) return;
    using linalg::Type;
    shapes_.emplace(shape, Matmul(linalg::matrix(tile.rows, count_, Type::bf16, 1, left_.stride),
                                  linalg::matrix(count_, tile.cols, Type::bf16, right_.stride, 1),
                                  linalg::matrix(tile.rows, tile.cols, Type::f32, n_, 1), true));
  }

  std::uint64_t n_;
  const Operands& left_;
  const Operands& right_;
  std::uint64_t count_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, Matmul> shapes_;
};

// Divides the upper triangle by `rows` and copies it below the diagonal.
void finish_tile(const Tile& tile, std::uint64_t n, double factor, float* gram) {
  for (std::uint64_t i = tile.i; i < tile.i + tile.rows; ++i) {
    for (std::uint64_t j = std::max(i, tile.j); j < tile.j + tile.cols; ++j) {
      const auto value = static_cast<float>(static_cast<double>(gram[i * n + j]) * factor);
      gram[i * n + j] = value;
      gram[j * n + i] = value;
    }
  }
}

// The sum of (A - B)^T X over chunks, for matrices A and B [count, width].
struct DifferenceSum {
  std::uint64_t width = 0;  // 0: not asked for
  bool taken = false;
  std::vector<float> sum;             // [width, cols]
  std::vector<float> a_rows, b_rows;  // less than a chunk of rows; b_rows unused where B is X
  Operands operands;

  DifferenceSum(std::uint64_t matrix_width, std::uint64_t cols, Operand kind)
      : width(matrix_width), sum(matrix_width * cols), operands(kind, matrix_width) {}
  void convert(const float* a, const float* b, std::uint64_t row) {
    linalg::difference_to_operand(a + row * width, b + row * width, width, operands.kind, operands.row(row));
  }
  std::vector<float> take(std::uint64_t cols, double factor, int threads) {
    for_tasks(threads, pieces(width, kTile), [&](std::size_t task) {
      const std::uint64_t end = std::min(width, (task + 1) * kTile);
      for (std::uint64_t i = task * kTile * cols; i < end * cols; ++i) {
        sum[i] = static_cast<float>(static_cast<double>(sum[i]) * factor);
      }
    });
    return std::move(sum);
  }
};

void keep_rows(std::vector<float>& buffer, const float* rows, std::uint64_t waiting, std::uint64_t count,
               std::uint64_t width) {
  buffer.resize(kChunk * width);
  std::memcpy(buffer.data() + waiting * width, rows, count * width * sizeof(float));
}

// Rows that one call brings, on their way.
struct GivenRows {
  const float *x = nullptr, *a = nullptr, *r = nullptr, *s = nullptr;
};

}  // namespace

struct GramAccumulator::State {
  std::uint64_t cols = 0;
  std::uint64_t rows = 0;     // seen
  std::uint64_t waiting = 0;  // of them in the buffers
  bool gram_taken = false;
  std::vector<float> gram;
  std::vector<float> x_buffer;  // less than a chunk of rows
  Operands x_operands;
  DifferenceSum cross, outputs;

  State(std::uint64_t n, ProductType type, std::uint64_t cross_width, std::uint64_t output_width)
      : cols(n),
        gram(n * n),
        x_operands(linalg::operand_of(type), n),
        cross(cross_width, n, linalg::operand_of(type)),
        outputs(output_width, n, linalg::operand_of(type)) {}

  void add_chunk(const GivenRows& given, std::uint64_t count, int threads);
  void keep(const GivenRows& given, std::uint64_t count);
  void flush(int threads);
  void advance(GivenRows& given, std::uint64_t count) const;
  bool anything_taken() const { return gram_taken || cross.taken || outputs.taken; }
  double factor() const { return rows == 0 ? 0.0 : 1.0 / static_cast<double>(rows); }
};

void GramAccumulator::State::add_chunk(const GivenRows& given, std::uint64_t count, int threads) {
  x_operands.reserve_chunk();
  if (cross.width > 0) cross.operands.reserve_chunk();
  if (outputs.width > 0) outputs.operands.reserve_chunk();
  for_tasks(threads, pieces(count, kConvert), [&](std::size_t task) {
    const std::uint64_t end = std::min(count, (task + 1) * kConvert);
    for (std::uint64_t row = task * kConvert; row < end; ++row) {
      linalg::to_operand(given.x + row * cols, cols, x_operands.kind, x_operands.row(row));
      if (cross.width > 0) cross.convert(given.a, given.x, row);
      if (outputs.width > 0) outputs.convert(given.r, given.s, row);
    }
  });
  const std::vector<Tile> tiles = make_tiles(cols, cols, true);
  const std::vector<Tile> cross_tiles = make_tiles(cross.width, cols), output_tiles = make_tiles(outputs.width, cols);
  const TileProducts products(tiles, cols, x_operands, x_operands, count);
  const TileProducts cross_products(cross_tiles, cols, cross.operands, x_operands, count);
  const TileProducts output_products(output_tiles, cols, outputs.operands, x_operands, count);
  for_tasks(threads, tiles.size() + cross_tiles.size() + output_tiles.size(), [&](std::size_t task) {
    if (task < tiles.size()) return products.run(tiles[task], gram.data());
    task -= tiles.size();
    if (task < cross_tiles.size()) return cross_products.run(cross_tiles[task], cross.sum.data());
    output_products.run(output_tiles[task - cross_tiles.size()], outputs.sum.data());
  });
}

void GramAccumulator::State::keep(const GivenRows& given, std::uint64_t count) {
  keep_rows(x_buffer, given.x, waiting, count, cols);
  if (cross.width > 0) keep_rows(cross.a_rows, given.a, waiting, count, cols);
  if (outputs.width > 0) {
    keep_rows(outputs.a_rows, given.r, waiting, count, outputs.width);
    keep_rows(outputs.b_rows, given.s, waiting, count, outputs.width);
  }
  waiting += count;
}

void GramAccumulator::State::flush(int threads) {
  if (waiting == 0) return;
  const std::uint64_t count = std::exchange(waiting, 0);
  add_chunk({x_buffer.data(), cross.a_rows.data(), outputs.a_rows.data(), outputs.b_rows.data()}, count, threads);
}

void GramAccumulator::State::advance(GivenRows& given, std::uint64_t count) const {
  given.x += count * cols;
  if (cross.width > 0) given.a += count * cols;
  if (outputs.width == 0) return;
  given.r += count * outputs.width;
  given.s += count * outputs.width;
}

GramAccumulator::GramAccumulator(std::uint64_t cols, ProductType type, bool cross, std::uint64_t outputs) {
  if (cols == 0 || cols > kMostColumns || outputs > kMostColumns) {
    throw Error(ErrorCode::usage, "GramAccumulator: " + std::to_string(cols) + " and " + std::to_string(outputs) +
                                      " columns, where 1 .. 2^20 and 0 .. 2^20 are possible");
  }
  state_ = std::make_unique<State>(cols, type, cross ? cols : 0, outputs);
}

GramAccumulator::~GramAccumulator() = default;
GramAccumulator::GramAccumulator(GramAccumulator&&) noexcept = default;
GramAccumulator& GramAccumulator::operator=(GramAccumulator&&) noexcept = default;

std::uint64_t GramAccumulator::waiting_bytes(std::uint64_t cols, ProductType type, bool cross, std::uint64_t outputs) {
  const Operand kind = linalg::operand_of(type);
  const std::uint64_t floats = cols + (cross ? cols : 0) + 2 * outputs;
  std::uint64_t bytes = kChunk * floats * sizeof(float) + Operands(kind, cols).chunk_bytes();
  if (cross) bytes += Operands(kind, cols).chunk_bytes();
  if (outputs > 0) bytes += Operands(kind, outputs).chunk_bytes();
  return bytes;
}

std::uint64_t GramAccumulator::cols() const { return state_->cols; }
std::uint64_t GramAccumulator::rows() const { return state_->rows; }

void GramAccumulator::add(std::span<const float> x, std::span<const float> a, std::uint64_t count, int threads) {
  add(x, a, {}, {}, count, threads);
}

void GramAccumulator::add(std::span<const float> x, std::span<const float> a, std::span<const float> r,
                          std::span<const float> s, std::uint64_t count, int threads) {
  State& state = *state_;
  linalg::check_matrix("GramAccumulator::add", "x", x.size(), count, state.cols);
  linalg::check_matrix("GramAccumulator::add", "a", a.size(), state.cross.width > 0 ? count : 0, state.cols);
  linalg::check_matrix("GramAccumulator::add", "r", r.size(), count, state.outputs.width);
  linalg::check_matrix("GramAccumulator::add", "s", s.size(), count, state.outputs.width);
  if (state.anything_taken()) {
    throw Error(ErrorCode::usage, "GramAccumulator::add: the sums were moved out already.");
  }
  GivenRows given{x.data(), a.data(), r.data(), s.data()};
  state.rows += count;
  while (count > 0) {
    const std::uint64_t step = std::min(count, kChunk - state.waiting);
    if (step == kChunk) {
      state.add_chunk(given, kChunk, threads);
    } else {
      state.keep(given, step);
      if (state.waiting == kChunk) state.flush(threads);
    }
    state.advance(given, step);
    count -= step;
  }
}

std::vector<float> GramAccumulator::take_gram(int threads) {
  State& state = *state_;
  if (std::exchange(state.gram_taken, true)) {
    throw Error(ErrorCode::usage, "GramAccumulator::take_gram: the sums were moved out already.");
  }
  state.flush(threads);
  const std::vector<Tile> tiles = make_tiles(state.cols, state.cols, true);
  for_tasks(threads, tiles.size(),
            [&](std::size_t task) { finish_tile(tiles[task], state.cols, state.factor(), state.gram.data()); });
  return std::move(state.gram);
}

std::vector<float> GramAccumulator::take_cross(int threads) {
  State& state = *state_;
  if (state.cross.width == 0 || std::exchange(state.cross.taken, true)) {
    throw Error(ErrorCode::usage, "GramAccumulator::take_cross: the sums were not asked for, or moved out already.");
  }
  state.flush(threads);
  return state.cross.take(state.cols, state.factor(), threads);
}

std::vector<float> GramAccumulator::take_outputs(int threads) {
  State& state = *state_;
  if (state.outputs.width == 0 || std::exchange(state.outputs.taken, true)) {
    throw Error(ErrorCode::usage, "GramAccumulator::take_outputs: the sums were not asked for, or moved out already.");
  }
  state.flush(threads);
  return state.outputs.take(state.cols, state.factor(), threads);
}

}  // namespace quant
