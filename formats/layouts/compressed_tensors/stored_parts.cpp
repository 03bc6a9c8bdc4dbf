#include "layouts/compressed_tensors/stored_parts.h"

#include "packing/pack_bits.h"
#include "quant/error.h"

namespace quant::compressed_tensors {
namespace {

void add_activation_parts(const std::optional<QuantArgs>& args, Part scale, Part zero_point, Part global,
                          std::vector<Part>& parts) {
  if (!args || args->dynamic == Dynamic::yes) return;
  if (args->dynamic == Dynamic::local) {
    parts.push_back(global);
    return;
  }
  parts.push_back(scale);
  if (!args->symmetric) parts.push_back(zero_point);
}

StoredTensor stored_codes(Format format, const QuantArgs& args, const LinearShape& linear, std::string name) {
  const std::uint64_t bits = static_cast<std::uint64_t>(args.num_bits);
  if (is_packed_integers(format)) {
    return {std::move(name), DType::I32, {linear.rows, packing::dense_words(linear.cols, static_cast<unsigned>(bits))}};
  }
  if (is_fp4(format)) return {std::move(name), DType::U8, {linear.rows, linear.cols / 2}};
  return {std::move(name), element_dtype(args), {linear.rows, linear.cols}};
}

StoredTensor stored_zero_points(Format format, const QuantArgs& args, const LinearShape& linear, std::string name) {
  Shape shape = scale_shape(args, linear.rows, linear.cols);
  if (!packs_zero_points(format, args)) return {std::move(name), DType::I8, std::move(shape)};
  shape[0] = packing::dense_words(linear.rows, static_cast<unsigned>(args.num_bits));
  return {std::move(name), DType::I32, std::move(shape)};
}

}  // namespace

DType activation_scale_dtype(const QuantArgs& args, DType weight_dtype) {
  QuantArgs plain = args;
  plain.strategy = Strategy::tensor;
  return stored_scale_dtype(plain, weight_dtype);
}

std::string_view part_suffix(Part part, Format format) {
  switch (part) {
    case Part::codes:
      return is_packed_integers(format) || is_fp4(format) ? "weight_packed" : "weight";
    case Part::scale:
      return "weight_scale";
    case Part::zero_point:
      return "weight_zero_point";
    case Part::group_index:
      return "weight_g_idx";
    case Part::global_scale:
      return "weight_global_scale";
    case Part::weight_shape:
      return "weight_shape";
    case Part::input_scale:
      return "input_scale";
    case Part::input_zero_point:
      return "input_zero_point";
    case Part::input_global_scale:
      return "input_global_scale";
    case Part::output_scale:
      return "output_scale";
    case Part::output_zero_point:
      return "output_zero_point";
    case Part::output_global_scale:
      return "output_global_scale";
  }
  return "";
}

std::vector<Part> parts_of(const Scheme& scheme) {
  if (!scheme.weights) throw Error(ErrorCode::internal, "a scheme without weights has no stored tensors");
  const Format format = choose_format(scheme);
  std::vector<Part> parts = {Part::codes, Part::scale};
  if (!scheme.weights->symmetric) parts.push_back(Part::zero_point);
  if (scheme.weights->actorder == ActOrder::group && format == Format::pack_quantized)
    parts.push_back(Part::group_index);
  if (format == Format::nvfp4) parts.push_back(Part::global_scale);
  if (is_packed_integers(format)) parts.push_back(Part::weight_shape);
  add_activation_parts(scheme.input_activations, Part::input_scale, Part::input_zero_point, Part::input_global_scale,
                       parts);
  add_activation_parts(scheme.output_activations, Part::output_scale, Part::output_zero_point,
                       Part::output_global_scale, parts);
  return parts;
}

StoredTensor stored_part(Part part, const Scheme& scheme, const LinearShape& linear) {
  const Format format = choose_format(scheme);
  const QuantArgs& args = *scheme.weights;
  std::string name = linear.module + "." + std::string(part_suffix(part, format));
  switch (part) {
    case Part::codes:
      return stored_codes(format, args, linear, std::move(name));
    case Part::scale:
      return {std::move(name), stored_scale_dtype(args, linear.dtype), scale_shape(args, linear.rows, linear.cols)};
    case Part::zero_point:
      return stored_zero_points(format, args, linear, std::move(name));
    case Part::group_index:
      return {std::move(name), DType::I32, {linear.cols}};
    case Part::weight_shape:
      return {std::move(name), DType::I64, {2}};
    case Part::input_scale:
      return {std::move(name), activation_scale_dtype(*scheme.input_activations, linear.dtype), {1}};
    case Part::output_scale:
      return {std::move(name), activation_scale_dtype(*scheme.output_activations, linear.dtype), {1}};
    case Part::input_zero_point:
    case Part::output_zero_point:
      return {std::move(name), DType::I8, {1}};
    case Part::global_scale:
    case Part::input_global_scale:
    case Part::output_global_scale:
      break;
  }
  return {std::move(name), DType::F32, {1}};
}

std::uint64_t code_row_bytes(Format format, const QuantArgs& args, std::uint64_t cols) {
  const auto bits = static_cast<unsigned>(args.num_bits);
  if (format == Format::pack_quantized) return packing::dense_words(cols, bits) * 4;
  if (format == Format::pack_quantized_old) return packing::whole_element_words(cols, bits) * 4;
  return is_fp4(format) ? cols / 2 : cols;
}

Shape scale_shape(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols) {
  if (args.strategy == Strategy::tensor) return {1};
  const ScaleGrid grid = scale_grid(args, rows, cols);
  return {grid.rows, grid.cols};
}

}  // namespace quant::compressed_tensors
