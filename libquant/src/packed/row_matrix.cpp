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

std::uint64_t stored_bits(const QuantArgs& args) {
  return args.num_bits == 7 ? 8 : static_cast<std::uint64_t>(std::max(2, args.num_bits));
}

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

// The type of 16 bits that holds every value of tables of 256.
std::optional<DType> half_type(const QuantizedTensor& weight) {
  if (weight.args.num_bits < 7) return std::nullopt;
  const auto all = [&](auto exact) { return std::ranges::all_of(weight.codebook, exact); };
  if (all([](float v) { return bf16_to_f32(f32_to_bf16(v)) == v; })) return DType::BF16;
  if (all([](float v) { return f16_to_f32(f32_to_f16(v)) == v; })) return DType::F16;
  return std::nullopt;
}

void put_half(DType type, float value, std::uint8_t* out) {
  const std::uint16_t bits = type == DType::BF16 ? f32_to_bf16(value) : f32_to_f16(value);
  out[0] = static_cast<std::uint8_t>(bits);
  out[256] = static_cast<std::uint8_t>(bits >> 8U);
}

// The row's tables, each repeated to as many values as the kernels read.
void pack_tables(const QuantizedTensor& weight, std::uint64_t row, RowMatrix& matrix) {
  const std::uint64_t values = std::uint64_t{1} << static_cast<unsigned>(weight.args.num_bits);
  for (std::uint64_t t = 0; t < matrix.tables_per_row; ++t) {
    const std::uint64_t group = std::min(t * matrix.table_fields * kRun / weight.grid.col_extent, weight.grid.cols - 1);
    const std::uint64_t unit = row / weight.grid.row_extent * weight.grid.cols + group;
    const std::uint64_t size = matrix.table_values(), at = (row * matrix.tables_per_row + t) * size;
    for (std::uint64_t i = 0; i < size; ++i) {
      const float value = weight.codebook[unit * values + i % values];
      if (matrix.half) {
        put_half(*matrix.half, value, matrix.tables.as<std::uint8_t>() + 2 * at + i);
      } else {
        matrix.tables.as<float>()[at + i] = value;
      }
    }
  }
}

}  // namespace

cpu::PackedRows RowMatrix::strip(std::uint64_t index) const {
  return {codes.as<std::uint32_t>() + index * kStripRows * chunks * bits * kRun,
          half ? nullptr : tables.as<float>() + index * kStripRows * tables_per_row * table_values(),
          bits,
          chunks,
          tables_per_row,
          table_fields,
          half ? tables.as<std::uint8_t>() + index * kStripRows * tables_per_row * 2 * table_values() : nullptr,
          half == DType::BF16};
}

std::optional<std::uint64_t> row_matrix_bytes(const QuantizedTensor& frame) {
  if (!has_learned_codebook(frame.args)) return std::nullopt;
  const std::uint64_t fields = fields_of_table(frame);
  if (fields == 0) return std::nullopt;
  RowMatrix matrix;
  matrix.bits = stored_bits(frame.args);
  const std::uint64_t chunks = pieces(frame.cols, kRowChunk);
  const std::uint64_t rows = pieces(frame.rows, 2 * kStripRows) * 2 * kStripRows;
  const std::uint64_t tables = pieces(chunks * kRowChunk / kRun, fields);
  return AlignedBuffer::rounded(rows * chunks * matrix.bits * kRun * sizeof(std::uint32_t)) +
         AlignedBuffer::rounded(rows * tables * matrix.table_values() * sizeof(float));
}

std::optional<RowMatrix> pack_rows(const QuantizedTensor& weight, bool half_tables, int threads) {
  if (!has_learned_codebook(weight.args) || !weight.group_index.empty()) return std::nullopt;
  const std::uint64_t fields = fields_of_table(weight);
  const bool finite = std::ranges::all_of(weight.codebook, [](float value) { return std::isfinite(value); });
  if (fields == 0 || !finite) return std::nullopt;
  RowMatrix out;
  out.bits = stored_bits(weight.args);
  out.chunks = pieces(weight.cols, kRowChunk);
  out.strips = pieces(weight.rows, 2 * kStripRows) * 2;
  out.table_fields = fields;
  out.tables_per_row = pieces(out.columns() / kRun, fields);
  const std::uint64_t row_words = out.bits * kRun, chunk_words = kRowsTogether * row_words;
  out.codes = AlignedBuffer(out.strips * kStripRows * out.chunks * row_words * sizeof(std::uint32_t));
  if (half_tables) out.half = half_type(weight);
  out.tables =
      AlignedBuffer(out.strips * kStripRows * out.tables_per_row * out.table_values() * (out.half ? 2 : sizeof(float)));
  linalg::for_tasks(threads, pieces(weight.rows, kRowsTogether), [&](std::size_t task) {
    const std::uint64_t first = task * kRowsTogether, end = std::min(weight.rows, first + kRowsTogether);
    for (std::uint64_t row = first; row < end; ++row) {
      std::uint32_t* codes =
          out.codes.as<std::uint32_t>() + task * out.chunks * chunk_words + (row - first) * row_words;
      pack_row(weight, row, out.bits, codes, chunk_words);
      pack_tables(weight, row, out);
    }
  });
  return out;
}

}  // namespace quant::packed
