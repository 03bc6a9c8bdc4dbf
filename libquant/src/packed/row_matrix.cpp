#include "packed/row_matrix.h"

#include <algorithm>
#include <cmath>

#include "linalg/parallel.h"

namespace quant::packed {
namespace {

using cpu::kRowChunk;
using cpu::kRowsTogether;
using cpu::kStripRows;
using linalg::pieces;

constexpr std::uint64_t kRun = 16;  // columns that one field of a chunk's words holds

// Runs of 16 columns that share a table, or 0 where no kernel takes them.
std::uint64_t fields_of_table(const QuantizedTensor& weight) {
  if (weight.grid.cols == 1) return pieces(weight.cols, kRowChunk) * kRowChunk / kRun;
  if (weight.grid.col_extent % kRowChunk == 0) return weight.grid.col_extent / kRun;
  if (weight.grid.col_extent % 128 == 0) return 8;
  return weight.grid.col_extent % 64 == 0 ? 4 : 0;
}

void pack_row(const QuantizedTensor& weight, std::uint64_t row, std::uint64_t bits, std::uint32_t* out,
              std::uint64_t chunk_words) {
  const std::uint32_t mask = (1U << static_cast<unsigned>(weight.args.num_bits)) - 1U;
  const std::int8_t* codes = weight.codes.data() + row * weight.cols;
  for (std::uint64_t c = 0; c < weight.cols; ++c) {
    const std::uint64_t bit = c % kRowChunk / kRun * bits, lane = c % kRun;
    const std::uint64_t field = std::uint64_t{static_cast<std::uint8_t>(codes[c]) & mask} << (bit % 32);
    std::uint32_t* words = out + c / kRowChunk * chunk_words + bit / 32 * kRun + lane;
    words[0] |= static_cast<std::uint32_t>(field);
    if ((field >> 32) != 0) words[kRun] |= static_cast<std::uint32_t>(field >> 32);
  }
}

// The row's tables, each repeated to 16 values.
void pack_tables(const QuantizedTensor& weight, std::uint64_t row, const RowMatrix& matrix, float* out) {
  const std::uint64_t values = std::uint64_t{1} << static_cast<unsigned>(weight.args.num_bits);
  for (std::uint64_t t = 0; t < matrix.tables_per_row; ++t) {
    const std::uint64_t group = std::min(t * matrix.table_fields * kRun / weight.grid.col_extent, weight.grid.cols - 1);
    const std::uint64_t unit = row / weight.grid.row_extent * weight.grid.cols + group;
    for (std::uint64_t i = 0; i < 16; ++i) out[t * 16 + i] = weight.codebook[unit * values + i % values];
  }
}

}  // namespace

cpu::PackedRows RowMatrix::strip(std::uint64_t index) const {
  return {codes.as<std::uint32_t>() + index * kStripRows * chunks * bits * kRun,
          tables.as<float>() + index * kStripRows * tables_per_row * 16,
          bits,
          chunks,
          tables_per_row,
          table_fields};
}

std::optional<std::uint64_t> row_matrix_bytes(const QuantizedTensor& frame) {
  if (!has_learned_codebook(frame.args) || frame.args.num_bits > 4) return std::nullopt;
  const std::uint64_t fields = fields_of_table(frame);
  if (fields == 0) return std::nullopt;
  const std::uint64_t chunks = pieces(frame.cols, kRowChunk);
  const std::uint64_t rows = pieces(frame.rows, 2 * kStripRows) * 2 * kStripRows;
  const auto bits = static_cast<std::uint64_t>(std::max(2, frame.args.num_bits));
  return AlignedBuffer::rounded(rows * chunks * bits * kRun * sizeof(std::uint32_t)) +
         AlignedBuffer::rounded(rows * pieces(chunks * kRowChunk / kRun, fields) * 16 * sizeof(float));
}

std::optional<RowMatrix> pack_rows(const QuantizedTensor& weight, int threads) {
  if (!has_learned_codebook(weight.args) || weight.args.num_bits > 4 || !weight.group_index.empty())
    return std::nullopt;
  const std::uint64_t fields = fields_of_table(weight);
  const bool finite = std::ranges::all_of(weight.codebook, [](float value) { return std::isfinite(value); });
  if (fields == 0 || !finite) return std::nullopt;
  RowMatrix out;
  out.bits = static_cast<std::uint64_t>(std::max(2, weight.args.num_bits));
  out.chunks = pieces(weight.cols, kRowChunk);
  out.strips = pieces(weight.rows, 2 * kStripRows) * 2;
  out.table_fields = fields;
  out.tables_per_row = pieces(out.columns() / kRun, fields);
  const std::uint64_t row_words = out.bits * kRun, chunk_words = kRowsTogether * row_words;
  out.codes = AlignedBuffer(out.strips * kStripRows * out.chunks * row_words * sizeof(std::uint32_t));
  out.tables = AlignedBuffer(out.strips * kStripRows * out.tables_per_row * 16 * sizeof(float));
  linalg::for_tasks(threads, pieces(weight.rows, kRowsTogether), [&](std::size_t task) {
    const std::uint64_t first = task * kRowsTogether, end = std::min(weight.rows, first + kRowsTogether);
    for (std::uint64_t row = first; row < end; ++row) {
      std::uint32_t* codes =
          out.codes.as<std::uint32_t>() + task * out.chunks * chunk_words + (row - first) * row_words;
      pack_row(weight, row, out.bits, codes, chunk_words);
      pack_tables(weight, row, out, out.tables.as<float>() + row * out.tables_per_row * 16);
    }
  });
  return out;
}

}  // namespace quant::packed
