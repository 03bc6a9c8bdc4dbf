#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "cuda/pack.h"
#include "linalg/parallel.h"
#include "packed/packed_matrix.h"

namespace quant::cuda {
namespace {

using linalg::pieces;

struct CodeForm {
  TileKind kind = TileKind::integer;
  int bits = 8;
  int offset = 0;  // stored code = code + offset
  std::array<float, 16> table{};
};

void fill_table(CodeForm& form, std::span<const float> values) {
  form.kind = TileKind::table;
  form.bits = 4;
  for (std::size_t i = 0; i < form.table.size(); ++i) form.table[i] = values[i % values.size()];
}

std::optional<CodeForm> form_of(const QuantizedTensor& weight) {
  CodeForm form;
  const QuantArgs& args = weight.args;
  if (args.type == NumberType::integer) {
    if (!weight.real_zero_points.empty()) return std::nullopt;
    form.bits = args.num_bits <= 2 ? 2 : args.num_bits <= 4 ? 4 : 8;
    // Narrow codes are decoded in BF16, which holds 128 + offset + zero point up to 256.
    const auto zero = std::ranges::max_element(weight.zero_points);
    if (zero != weight.zero_points.end() && *zero + (1 << (form.bits - 1)) > 128) form.bits = 8;
    form.offset = 1 << (form.bits - 1);
    return form;
  }
  if (has_blocks(args)) return std::nullopt;
  if (args.type == NumberType::codebook) {
    const std::size_t values = std::size_t{1} << static_cast<unsigned>(args.num_bits);
    if (args.num_bits > 4 || weight.codebook.size() != values) return std::nullopt;
    fill_table(form, weight.codebook);
    return form;
  }
  const DType type = element_dtype(args);
  if (type == DType::F4) {
    std::array<float, 16> values{};
    for (unsigned i = 0; i < 16; ++i) values[i] = e2m1_to_f32(static_cast<std::uint8_t>(i));
    fill_table(form, values);
    return form;
  }
  form.kind = type == DType::F8_E5M2 ? TileKind::e5m2 : TileKind::e4m3;
  return form;
}

bool is_unusual(const CodeForm& form, int stored) {
  if (form.kind == TileKind::e4m3) return (stored & 0x7F) == 0x7F;
  if (form.kind == TileKind::e5m2) return (stored & 0x7F) >= 0x7C;
  return stored < 0 || stored >= 1 << form.bits;
}

int stored_code(const QuantArgs& args, const CodeForm& form, std::int8_t code) {
  if (args.type == NumberType::integer) return code + form.offset;
  const auto mask = args.type == NumberType::codebook ? (1U << static_cast<unsigned>(args.num_bits)) - 1U : 0xFFU;
  return static_cast<int>(static_cast<std::uint8_t>(code) & mask);
}

// Groups within a step, or of whole steps; false if these are neither.
bool set_groups(const packed::ColumnPlan& plan, std::uint64_t packed, TileMatrix& shape) {
  const std::uint64_t width = plan.groups == 1 ? packed : plan.group_columns;
  const bool within = width == kRun || width == 2 * kRun || width == 4 * kRun;
  if (!within && width % kStepColumns != 0) return false;
  shape.groups = static_cast<std::uint32_t>(plan.groups);
  shape.group_columns = static_cast<std::uint32_t>(width);
  shape.group_runs = within ? static_cast<std::uint32_t>(width / kRun) : kStepRuns;
  return true;
}

bool pack_strip(const QuantizedTensor& weight, const CodeForm& form, std::uint32_t strip, PackedTiles& out) {
  const TileMatrix& shape = out.shape;
  bool usual = true;
  for (std::uint32_t row = 0; row < kStripRows && strip * std::uint64_t{kStripRows} + row < weight.rows; ++row) {
    const std::int8_t* codes = weight.codes.data() + (strip * std::uint64_t{kStripRows} + row) * weight.cols;
    for (std::uint64_t c = 0; c < out.packed; ++c) {
      const std::int64_t column = out.source.empty() ? static_cast<std::int64_t>(c) : out.source[c];
      if (column < 0 || column >= static_cast<std::int64_t>(weight.cols)) continue;  // padding: its input is 0
      const int stored = stored_code(weight.args, form, codes[column]);
      usual = usual && !is_unusual(form, stored);
      const CodePlace at = code_place(shape.kind, shape.bits, row, static_cast<std::uint32_t>(c % kStepColumns));
      const std::uint64_t step = std::uint64_t{strip} * shape.steps + c / kStepColumns;
      const std::uint64_t word = (at.word / 4 * 32 + at.lane) * 4 + at.word % 4;
      out.codes[step * words_of_step(shape.bits) + word] |= (static_cast<std::uint32_t>(stored) & 0xFFU) << at.shift;
    }
  }
  return usual;
}

ScaleType smallest_type(const std::vector<float>& scales) {
  if (scales.empty()) return ScaleType::none;
  const auto all = [&](auto exact) { return std::ranges::all_of(scales, exact); };
  if (all([](float s) { return bf16_to_f32(f32_to_bf16(s)) == s; })) return ScaleType::bf16;
  if (all([](float s) { return f16_to_f32(f32_to_f16(s)) == s; })) return ScaleType::f16;
  return ScaleType::f32;
}

void pack_scales(const QuantizedTensor& weight, PackedTiles& out) {
  TileMatrix& shape = out.shape;
  shape.scale_type = smallest_type(weight.scales);
  const std::size_t size = shape.scale_type == ScaleType::none ? 0 : shape.scale_type == ScaleType::f32 ? 4 : 2;
  out.scales.resize(size * shape.strips * shape.groups * kStripRows);
  if (!weight.zero_points.empty()) out.zeros.resize(std::size_t{shape.strips} * shape.groups * kStripRows);
  for (std::uint64_t row = 0; row < weight.rows; ++row) {
    for (std::uint32_t g = 0; g < shape.groups; ++g) {
      const std::uint64_t unit = packed::unit_of(weight, row, g);
      const auto strip = static_cast<std::uint32_t>(row / kStripRows);
      const std::uint64_t at = scale_place(shape, strip, g, static_cast<std::uint32_t>(row % kStripRows));
      if (!out.zeros.empty()) out.zeros[at] = weight.zero_points[unit];
      if (size == 0) continue;
      const float scale = weight.scales[unit];
      const std::uint16_t half = shape.scale_type == ScaleType::bf16 ? f32_to_bf16(scale) : f32_to_f16(scale);
      const void* from = size == 4 ? static_cast<const void*>(&scale) : &half;
      std::memcpy(out.scales.data() + at * size, from, size);
    }
  }
}

void put_table(const CodeForm& form, std::uint32_t plane, std::uint32_t (*bits_of)(float), PackedTiles& out) {
  for (std::uint32_t i = 0; i < 16; ++i) {
    const std::uint32_t bits = bits_of(form.table[i]);
    out.table[8 * plane + i / 4] |= (bits & 0xFFU) << (i % 4 * 8);
    out.table[8 * plane + 4 + i / 4] |= (bits >> 8) << (i % 4 * 8);
  }
}

// The table in BF16, and where that rounds, three tables whose sum is exact.
void pack_table(const CodeForm& form, PackedTiles& out) {
  const bool exact =
      std::ranges::all_of(form.table, [](float value) { return bf16_to_f32(f32_to_bf16(value)) == value; });
  out.shape.planes = exact ? 1 : 3;
  out.table.assign(exact ? 8 : 32, 0);
  put_table(
      form, 0, [](float value) { return bf16_of(value); }, out);
  if (exact) return;
  put_table(
      form, 1, [](float value) { return bf16_part(value, 0); }, out);
  put_table(
      form, 2, [](float value) { return bf16_part(value, 1); }, out);
  put_table(
      form, 3, [](float value) { return bf16_part(value, 2); }, out);
}

}  // namespace

std::optional<PackedTiles> pack_tiles(const QuantizedTensor& weight, int threads) {
  if (weight.rows == 0 || weight.cols == 0 || !packed::usual_numbers(weight)) return std::nullopt;
  const auto form = form_of(weight);
  auto plan = packed::plan_columns(weight);
  if (!form || !plan) return std::nullopt;
  PackedTiles out;
  out.packed = pieces(plan->columns, kStepColumns) * kStepColumns;
  out.source = std::move(plan->source);
  if (!out.source.empty()) out.source.resize(out.packed, -1);
  TileMatrix& shape = out.shape;
  if (!set_groups(*plan, out.packed, shape)) return std::nullopt;
  shape.kind = form->kind;
  shape.bits = static_cast<std::uint8_t>(form->bits);
  shape.offset = form->offset;
  shape.planes = 1;
  shape.rows = weight.rows;
  shape.strips = static_cast<std::uint32_t>(pieces(weight.rows, kStripRows));
  shape.steps = static_cast<std::uint32_t>(out.packed / kStepColumns);
  out.factor = is_nvfp4(weight.args) ? 1.0F / weight.global_scale : 1.0F;
  out.codes.resize(std::uint64_t{shape.strips} * shape.steps * words_of_step(shape.bits));
  std::atomic<bool> usual = true;
  linalg::for_tasks(threads, shape.strips, [&](std::size_t strip) {
    if (!pack_strip(weight, *form, static_cast<std::uint32_t>(strip), out)) usual = false;
  });
  if (!usual) return std::nullopt;
  pack_scales(weight, out);
  if (shape.kind == TileKind::table) pack_table(*form, out);
  return out;
}

}  // namespace quant::cuda
