#include "layouts/native/parts.h"

#include <fmt/format.h>

#include "layouts/native/kept.h"
#include "packing/pack_ternary.h"
#include "quant/error.h"

namespace quant::native {

std::string format_of(const QuantArgs& args) {
  return args.type == NumberType::integer ? "integer" : std::string(to_string(args.type));
}

std::string part_suffix(Part part) {
  switch (part) {
    case Part::mask:
      return ".weight_mask";
    case Part::starts:
      return ".weight_starts";
    case Part::values:
      return ".weight_values";
    case Part::codes:
      return ".weight_codes";
    case Part::blocks:
      return ".weight_blocks";
    case Part::codebook:
      return ".weight_codebook";
    case Part::scale:
      return ".weight_scale";
    case Part::scale_codes:
      return ".weight_scale_codes";
    case Part::scale_scales:
      return ".weight_scale_scales";
    case Part::scale_offset:
      return ".weight_scale_offset";
    case Part::zero_point:
      return ".weight_zero_point";
    case Part::sparse_starts:
      return ".weight_sparse_starts";
    case Part::sparse_columns:
      return ".weight_sparse_columns";
    case Part::sparse_values:
      return ".weight_sparse_values";
  }
  return {};
}

bool has_sparse_part(const QuantArgs& args) { return args.outlier_percent > 0 || args.sensitive_percent > 0; }

std::vector<Part> parts_of(const QuantArgs& args, const LinearShape& linear) {
  if (has_blocks(args)) return {Part::blocks};
  std::vector<Part> parts;
  if (linear.sparsity) {
    parts.push_back(Part::mask);
    if (!has_equal_rows(*linear.sparsity)) parts.push_back(Part::starts);
  }
  parts.push_back(is_plain(args) ? Part::values : Part::codes);
  if (is_plain(args)) return parts;
  if (has_learned_codebook(args)) {
    parts.push_back(Part::codebook);
  } else if (args.double_quant) {
    parts.insert(parts.end(), {Part::scale_codes, Part::scale_scales, Part::scale_offset});
  } else {
    parts.push_back(Part::scale);
  }
  if (!args.symmetric) parts.push_back(Part::zero_point);
  if (has_sparse_part(args)) {
    parts.insert(parts.end(), {Part::sparse_starts, Part::sparse_columns, Part::sparse_values});
  }
  return parts;
}

std::uint64_t code_row_bytes(const QuantArgs& args, std::uint64_t cols) {
  if (is_ternary(args)) return packing::ternary_bytes(cols);
  return checked_add(checked_mul(cols, static_cast<std::uint64_t>(args.num_bits), "packed bits"), 7, "packed bits") / 8;
}

DType stored_scale_dtype(const QuantArgs& args, DType weight_dtype) {
  if (args.double_quant) return DType::F32;
  if (args.scale_dtype) return *args.scale_dtype;
  const bool half = weight_dtype == DType::F16 || weight_dtype == DType::BF16;
  if (has_learned_codebook(args)) return half ? DType::F16 : DType::F32;
  return half ? weight_dtype : DType::F32;
}

DType sparse_dtype(DType scale_dtype) {
  return scale_dtype == DType::F16 || scale_dtype == DType::BF16 ? scale_dtype : DType::F32;
}

DType column_dtype(std::uint64_t cols) { return cols <= 65536 ? DType::U16 : DType::U32; }

StoredTensor stored_part(Part part, const QuantArgs& args, const LinearShape& linear) {
  const ScaleGrid grid = scale_grid(args, linear.rows, linear.cols);
  const Shape units = grid.flat != 0 ? Shape{grid.rows} : Shape{grid.rows, grid.cols};
  const DType scales = stored_scale_dtype(args, linear.dtype);
  const std::string name = linear.module + part_suffix(part);
  switch (part) {
    case Part::mask:
      return {name, DType::U8, {linear.rows, mask_row_bytes(*linear.sparsity, linear.cols)}};
    case Part::starts:
      return {name, DType::U32, {checked_add(linear.rows, 1, "rows")}};
    case Part::values:
      return {name, linear.dtype, {linear.sparsity->kept}};
    case Part::codes:
      if (linear.sparsity) {
        return {name, DType::U8, {code_row_begin(linear.sparsity->kept, linear.rows, args.num_bits)}};
      }
      return {name, DType::U8, {linear.rows, code_row_bytes(args, linear.cols)}};
    case Part::blocks:
      return {name, DType::U8, {linear.rows, block_bytes(*args.block, linear.cols)}};
    case Part::codebook:
      return {name, scales, {grid.rows, grid.cols, std::uint64_t{1} << static_cast<unsigned>(args.num_bits)}};
    case Part::scale:
      return {name, scales, units};
    case Part::scale_codes:
      return {name, DType::U8, units};
    case Part::scale_scales:
      return {name, DType::F32, {(grid.count() + CodedScales::kBlock - 1) / CodedScales::kBlock}};
    case Part::scale_offset:
      return {name, DType::F32, {1}};
    case Part::zero_point:
      return {name, has_real_zero_points(args) ? *args.zp_dtype : DType::I8, units};
    case Part::sparse_starts:
      return {name, DType::U32, {checked_add(linear.rows, 1, "rows")}};
    case Part::sparse_columns:
      return {name, column_dtype(linear.cols), {sparse_count(args, linear.rows, linear.cols)}};
    case Part::sparse_values:
      return {name, sparse_dtype(scales), {sparse_count(args, linear.rows, linear.cols)}};
  }
  return {};
}

std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear) {
  if (!scheme.weights) return std::string("weights: the scheme quantizes no weights");
  const QuantArgs& args = *scheme.weights;
  if (args.type == NumberType::floating) {
    return std::string(
        "weights: the layout libquant holds integers, codebooks and blocks; use compressed-tensors for floats");
  }
  if (has_blocks(args) && linear.cols % block_format(*args.block).weights != 0) {
    return fmt::format("weights: the {} columns of {} are not whole blocks of {}, which hold {}", linear.cols,
                       linear.module, block_format(*args.block).name, block_format(*args.block).weights);
  }
  if (scheme.input_activations || scheme.output_activations) {
    return std::string("input_activations: the layout libquant holds weights alone");
  }
  if (args.actorder == ActOrder::group) {
    return std::string("weights: actorder group has no place in the layout libquant; use actorder: static");
  }
  if (linear.sparsity && has_blocks(args)) return std::string("weights: blocks of GGUF have no place for a mask");
  if (linear.sparsity) {
    if (const auto reason = contradiction(*linear.sparsity, linear.rows, linear.cols)) {
      return fmt::format("{} {}", linear.module, *reason);
    }
  }
  if (is_plain(args)) {
    const bool known = linear.dtype == DType::F32 || linear.dtype == DType::F16 || linear.dtype == DType::BF16;
    if (known && linear.sparsity) return std::nullopt;
    return fmt::format("{}: plain numbers are stored for pruned weights of 16 or 32 bits only", linear.module);
  }
  const DType scales = stored_scale_dtype(args, linear.dtype);
  if (scales != DType::F32 && scales != DType::F16 && scales != DType::BF16) {
    return fmt::format("weights: scales of {} cannot be stored as {}", describe(args), dtype_name(scales));
  }
  if (args.strategy == Strategy::token || args.strategy == Strategy::attn_head) {
    return fmt::format("weights: strategy {} is for activations only", to_string(args.strategy));
  }
  if (sparse_count(args, linear.rows, linear.cols) > UINT32_MAX) {
    return fmt::format("{} would have more than 2^32 weights in its sparse part", linear.module);
  }
  return std::nullopt;
}

}  // namespace quant::native
