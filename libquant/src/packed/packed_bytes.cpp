#include "packed/packed_bytes.h"

#include "packed/packed_matrix.h"
#include "packed/row_matrix.h"

namespace quant::packed {
namespace {

std::uint64_t sparse_bytes(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  const std::uint64_t count = sparse_count(args, rows, cols);
  if (count == 0) return 0;
  return (rows + 1) * sizeof(std::uint64_t) + count * (sizeof(float) + sizeof(std::uint32_t));
}

std::uint64_t codebook_values(const QuantArgs& args, const ScaleGrid& grid) {
  const std::uint64_t values = std::uint64_t{1} << static_cast<unsigned>(args.num_bits);
  if (has_learned_codebook(args)) return grid.count() * values;
  return args.type == NumberType::codebook ? values : 0;
}

}  // namespace

std::optional<std::uint64_t> packed_bytes(const QuantArgs& args, DType scale_dtype, std::uint64_t rows,
                                          std::uint64_t cols) {
  if (rows == 0 || cols == 0) return std::nullopt;
  QuantizedTensor frame;
  frame.args = args;
  frame.scale_dtype = scale_dtype;
  frame.rows = rows;
  frame.cols = cols;
  frame.grid = scale_grid(args, rows, cols);
  // Tables of rows or groups are of the other kind.
  if (!has_learned_codebook(args) || frame.grid.count() == 1) frame.codebook.resize(codebook_values(args, frame.grid));
  auto bytes = packed_matrix_bytes(frame);
  if (!bytes) bytes = row_matrix_bytes(frame);
  if (bytes) *bytes += sparse_bytes(args, rows, cols);
  return bytes;
}

std::uint64_t unpacked_codes_bytes(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  const ScaleGrid grid = scale_grid(args, rows, cols);
  const std::uint64_t zero = has_real_zero_points(args) ? sizeof(float) : args.symmetric ? 0 : 1;
  const std::uint64_t scale = has_learned_codebook(args) ? 0 : sizeof(float);
  return rows * cols + grid.count() * (scale + zero + (args.double_quant ? 1 : 0)) +
         codebook_values(args, grid) * sizeof(float) + cols * sizeof(std::int32_t) + sparse_bytes(args, rows, cols);
}

}  // namespace quant::packed
