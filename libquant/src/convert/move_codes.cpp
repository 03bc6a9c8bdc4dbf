// Codes of one grid of scales under another.
#include <fmt/format.h>

#include <cmath>

#include "quant/convert.h"
#include "quant/error.h"

namespace quant {
namespace {

[[noreturn]] void refuse(const std::string& reason) { throw Error(ErrorCode::unsupported, reason, "", "NotExact"); }

// Everything but what a move may change: bits, symmetry, how scales are shared and the type they are stored in.
bool same_kind(QuantArgs from, const QuantArgs& to) {
  if (from.type != to.type || from.type != NumberType::integer) {
    // Other kinds of numbers are moved as they are; only plain floats as scales may change their type.
    from.scale_dtype = to.scale_dtype;
    from.observer = to.observer;
    from.observer_kwargs = to.observer_kwargs;
    return from == to;
  }
  return has_real_zero_points(from) == has_real_zero_points(to) && from.outlier_percent == to.outlier_percent &&
         from.sensitive_percent == to.sensitive_percent && from.double_quant == to.double_quant;
}

/// Each scale of `to` lies within one of `from`.
bool parts_further(const QuantArgs& from, const QuantArgs& to, std::uint64_t rows, std::uint64_t cols) {
  const ScaleGrid a = scale_grid(from, rows, cols), b = scale_grid(to, rows, cols);
  if (a == b && from.strategy == to.strategy) return true;
  if (a.flat != 0 || b.flat != 0) return false;
  const bool by_rows = a.rows == 1 || (b.row_extent != 0 && a.row_extent % b.row_extent == 0);
  const bool by_cols = a.cols == 1 || (b.col_extent != 0 && a.col_extent % b.col_extent == 0);
  return by_rows && by_cols;
}

bool has_index(const QuantArgs& args) { return args.actorder == ActOrder::group; }

// Places of scales of `to` in those of `from`, for the sizes of one slice.
std::vector<std::size_t> unit_places(const ScaleGrid& from, const ScaleGrid& to, bool one_scale) {
  std::vector<std::size_t> places(to.count());
  for (std::uint64_t r = 0; r < to.rows; ++r) {
    const std::uint64_t row = one_scale ? 0 : r * to.row_extent / from.row_extent;
    for (std::uint64_t c = 0; c < to.cols; ++c) {
      const std::uint64_t col = from.cols == 1 ? 0 : c * to.col_extent / from.col_extent;
      places[r * to.cols + c] = row * from.cols + col;
    }
  }
  return places;
}

void check_scales(const std::vector<float>& scales, DType type) {
  for (const float scale : scales) {
    if (!is_exact_in(type, scale)) refuse(fmt::format("the scale {} is no value of {}", scale, dtype_name(type)));
  }
}

void move_integers(const QuantizedTensor& from, QuantizedTensor& out) {
  const auto places = unit_places(from.grid, out.grid, from.args.strategy == Strategy::tensor);
  for (std::size_t unit = 0; unit < places.size(); ++unit) {
    out.scales[unit] = from.scales[places[unit]];
    if (!out.zero_points.empty()) {
      out.zero_points[unit] = from.zero_points.empty() ? std::int8_t{0} : from.zero_points[places[unit]];
    }
  }
  for (const std::int8_t zero : from.zero_points) {
    if (out.args.symmetric && zero != 0)
      refuse(fmt::format("a zero point is {}, which symmetric weights have not", zero));
  }
}

}  // namespace

bool is_exact_in(DType type, float value) { return type == DType::F32 || round_to_dtype(type, value) == value; }

std::optional<std::string> why_not_movable(const QuantArgs& from, const QuantArgs& to, std::uint64_t rows,
                                           std::uint64_t cols) {
  if (!same_kind(from, to)) return fmt::format("codes of {} are no codes of {}", describe(from), describe(to));
  if (from.type != NumberType::integer) return std::nullopt;
  if (to.num_bits < from.num_bits) {
    return fmt::format("codes of {} bits have no place in {}", from.num_bits, to.num_bits);
  }
  const bool as_it_is = has_index(from) || has_real_zero_points(from) || from.double_quant;
  const bool same_grid = scale_grid(from, rows, cols) == scale_grid(to, rows, cols);
  if (!parts_further(from, to, rows, cols) || (as_it_is && !same_grid)) {
    return fmt::format("scales of {} are shared otherwise in {}", describe(from), describe(to));
  }
  if (has_index(from) && !has_index(to)) return std::string("its columns are grouped in an order of their own");
  return std::nullopt;
}

void move_codes(const QuantizedTensor& from, const QuantArgs& to, DType scale_dtype, QuantizedTensor& out) {
  if (const auto reason = why_not_movable(from.args, to, from.rows, from.cols)) refuse(*reason);
  const bool floats = scale_dtype == DType::F32 || scale_dtype == DType::F16 || scale_dtype == DType::BF16;
  if (floats && scale_dtype != from.scale_dtype) {
    check_scales(from.scales, scale_dtype);
    check_scales(from.plain, scale_dtype);
    check_scales(has_learned_codebook(from.args) ? from.codebook : std::vector<float>(), scale_dtype);
  }
  const ScaleGrid grid = scale_grid(to, from.rows, from.cols);
  const bool same = from.grid == grid && from.args.symmetric == to.symmetric;
  if (same) {
    out = from;
  } else {
    out.resize(to, from.rows, from.cols);
    out.codes = from.codes;
    out.group_index = from.group_index;
    out.sparse = from.sparse;
    out.mask = from.mask;
    out.kept_before = from.kept_before;
    out.input_scale = from.input_scale;
    out.input_global_scale = from.input_global_scale;
    out.input_zero_point = from.input_zero_point;
    move_integers(from, out);
  }
  out.args = to;
  out.scale_dtype = scale_dtype;
}

}  // namespace quant
