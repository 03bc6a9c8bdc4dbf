#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>

#include "linalg/parallel.h"
#include "packed/packed_matrix.h"

namespace quant::packed {
namespace {

using cpu::CodeKind;
using cpu::kChunk;
using cpu::kStripRows;
using cpu::ScaleType;
using linalg::for_tasks;
using linalg::pieces;

// How codes are stored: unsigned = code + offset, which must be below 2^bits.
struct CodeForm {
  CodeKind kind = CodeKind::lookup;
  int bits = 0;
  int offset = 0;
  std::array<float, 16> table{};
  std::vector<float> wide_table{};
};

void repeat_table(CodeForm& form, std::size_t values) {
  for (std::size_t i = values; i < form.table.size(); ++i) form.table[i] = form.table[i % values];
}

CodeForm integer_form(const QuantArgs& args) {
  CodeForm form;
  form.bits = args.num_bits <= 2 ? 2 : args.num_bits == 7 ? 8 : args.num_bits;
  form.offset = 1 << (form.bits - 1);
  form.kind = form.bits <= 4 ? CodeKind::lookup : CodeKind::integer;
  if (form.kind == CodeKind::lookup) {
    const int count = 1 << form.bits;
    for (int i = 0; i < count; ++i) form.table[static_cast<std::size_t>(i)] = static_cast<float>(i - form.offset);
    repeat_table(form, static_cast<std::size_t>(count));
  }
  return form;
}

std::optional<CodeForm> codebook_form(const QuantizedTensor& weight) {
  const int bits = weight.args.num_bits;
  const std::size_t values = std::size_t{1} << static_cast<unsigned>(bits);
  if (weight.codebook.size() != values) return std::nullopt;  // one table for a part of the matrix
  CodeForm form;
  form.bits = bits == 7 ? 8 : std::max(bits, 2);
  if (bits > 4) {
    form.wide_table.assign(std::size_t{1} << static_cast<unsigned>(form.bits), 0.0F);
    std::copy(weight.codebook.begin(), weight.codebook.end(), form.wide_table.begin());
    return form;
  }
  std::copy(weight.codebook.begin(), weight.codebook.end(), form.table.begin());
  repeat_table(form, values);
  return form;
}

std::optional<CodeForm> form_of(const QuantizedTensor& weight) {
  if (weight.args.type == NumberType::integer) return integer_form(weight.args);
  if (weight.args.type == NumberType::codebook) return codebook_form(weight);
  if (has_blocks(weight.args)) return std::nullopt;
  CodeForm form;
  const DType type = element_dtype(weight.args);
  if (type == DType::F4) {
    form.bits = 4;
    for (unsigned i = 0; i < 16; ++i) form.table[i] = e2m1_to_f32(static_cast<std::uint8_t>(i));
    return form;
  }
  form.bits = 8;
  form.kind = type == DType::F8_E5M2 ? CodeKind::e5m2 : CodeKind::e4m3;
  return form;
}

// Codes that the kernels would read as something else.
bool is_unusual(const CodeForm& form, int stored) {
  if (form.kind == CodeKind::e4m3) return (stored & 0x7F) == 0x7F;
  if (form.kind == CodeKind::e5m2) return (stored & 0x7F) >= 0x7C;
  return stored < 0 || stored >= 1 << form.bits;
}

int field_of_column(int bits, int column) {
  if (bits == 4) return column / 8 * 8 + column % 4 * 2 + column % 8 / 4;
  if (bits == 2) return column / 16 * 16 + column % 4 * 4 + column % 16 / 4;
  return column;
}

// Rows of a strip; false if a code is unusual.
class StripPacker {
 public:
  StripPacker(const QuantizedTensor& weight, const CodeForm& form, const std::vector<std::int32_t>& source,
              std::uint64_t columns)
      : weight_(weight), form_(form), source_(source), columns_(columns) {
    for (int c = 0; c < static_cast<int>(kChunk); ++c) {
      shifts_[static_cast<std::size_t>(c)] = static_cast<unsigned>(field_of_column(form.bits, c) * form.bits);
    }
  }

  bool pack(std::uint64_t strip, std::uint32_t* out) const {
    bool usual = true;
    const std::uint64_t first = strip * kStripRows, end = std::min(weight_.rows, first + kStripRows);
    for (std::uint64_t row = first; row < end; ++row) usual = pack_row(row, out + (row - first)) && usual;
    return usual;
  }

 private:
  bool pack_row(std::uint64_t row, std::uint32_t* out) const {
    const std::int8_t* codes = weight_.codes.data() + row * weight_.cols;
    const auto bits = static_cast<std::size_t>(form_.bits);
    bool usual = true;
    for (std::uint64_t chunk = 0; chunk < columns_ / kChunk; ++chunk) {
      std::array<std::uint32_t, 9> words{};
      for (std::size_t c = 0; c < kChunk; ++c) {
        const std::uint64_t at = chunk * kChunk + c;
        const std::int64_t column = source_.empty() ? static_cast<std::int64_t>(at) : source_[at];
        if (column < 0 || column >= static_cast<std::int64_t>(weight_.cols)) continue;  // padding: its input is 0
        const int stored = stored_code(codes[column]);
        usual = usual && !is_unusual(form_, stored);
        const std::uint64_t field = static_cast<std::uint64_t>(stored & 0xFF) << (shifts_[c] % 32);
        words[shifts_[c] / 32] |= static_cast<std::uint32_t>(field);
        words[shifts_[c] / 32 + 1] |= static_cast<std::uint32_t>(field >> 32);
      }
      for (std::size_t p = 0; p < bits; ++p) out[(chunk * bits + p) * kStripRows] = words[p];
    }
    return usual;
  }

  int stored_code(std::int8_t code) const {
    return weight_.args.type == NumberType::integer ? code + form_.offset : static_cast<std::uint8_t>(code);
  }

  const QuantizedTensor& weight_;
  const CodeForm& form_;
  const std::vector<std::int32_t>& source_;
  std::uint64_t columns_;
  std::array<unsigned, kChunk> shifts_{};
};

// ---- scales and zero points

ScaleType smallest_type(const std::vector<float>& scales) {
  const auto all = [&](auto exact) { return std::ranges::all_of(scales, exact); };
  if (all([](float s) { return bf16_to_f32(f32_to_bf16(s)) == s; })) return ScaleType::bf16;
  if (all([](float s) { return f16_to_f32(f32_to_f16(s)) == s; })) return ScaleType::f16;
  return ScaleType::f32;
}

// The kernels move integers' scales by 2^27 at most; nothing may be lost by that.
bool is_unusual_scale(float scale) { return !std::isfinite(scale) || (std::abs(scale) < 0x1p-90F && scale != 0.0F); }

void store_scale(ScaleType type, float value, std::byte* out, std::uint64_t index) {
  if (type == ScaleType::f32) {
    std::memcpy(out + index * sizeof value, &value, sizeof value);
    return;
  }
  const std::uint16_t half = type == ScaleType::bf16 ? f32_to_bf16(value) : f32_to_f16(value);
  std::memcpy(out + index * sizeof half, &half, sizeof half);
}

void pack_scales(const QuantizedTensor& weight, std::uint64_t groups, PackedMatrix& out, int threads) {
  const bool unit_scales = weight.scales.empty();  // learned codebooks
  const std::vector<float> one{1.0F};
  out.shape.scale_type = smallest_type(unit_scales ? one : weight.scales);
  const std::size_t scale_bytes = out.shape.scale_type == ScaleType::f32 ? 4 : 2;
  const std::uint64_t count = out.strips * out.shape.groups * kStripRows;
  out.scales = AlignedBuffer(count * scale_bytes);
  const bool real = !weight.real_zero_points.empty();
  out.shape.real_zeros = real;
  if (real || !weight.zero_points.empty()) out.zeros = AlignedBuffer(count * (real ? sizeof(float) : 1));
  for_tasks(threads, out.strips, [&](std::size_t strip) {
    for (std::uint64_t g = 0; g < groups; ++g) {
      for (std::uint64_t r = 0; r < kStripRows && strip * kStripRows + r < weight.rows; ++r) {
        const std::uint64_t unit = unit_of(weight, strip * kStripRows + r, g);
        const std::uint64_t at = (strip * out.shape.groups + g) * kStripRows + r;
        store_scale(out.shape.scale_type, unit_scales ? 1.0F : weight.scales[unit], out.scales.data(), at);
        if (real) {
          out.zeros.as<float>()[at] = weight.real_zero_points[unit];
        } else if (out.zeros.size() != 0) {
          out.zeros.as<std::int8_t>()[at] = weight.zero_points[unit];
        }
      }
    }
  });
}

}  // namespace

bool usual_numbers(const QuantizedTensor& weight) {
  return std::ranges::none_of(weight.scales, is_unusual_scale) &&
         std::ranges::all_of(weight.real_zero_points, [](float zero) { return std::abs(zero) < 0x1p90F; }) &&
         std::ranges::all_of(weight.codebook, [](float value) { return std::isfinite(value); }) &&
         std::isfinite(1.0F / weight.global_scale);
}

std::uint64_t unit_of(const QuantizedTensor& weight, std::uint64_t row, std::uint64_t group) {
  if (weight.grid.flat == 0) return row / weight.grid.row_extent * weight.grid.cols + group;
  const std::uint64_t flat = weight.grid.flat;
  return flat <= weight.cols ? row * (weight.cols / flat) + group : row / (flat / weight.cols);
}

cpu::PackedStrip PackedMatrix::strip(std::uint64_t index) const {
  const std::size_t scale_bytes = shape.scale_type == ScaleType::f32 ? 4 : 2;
  const std::uint64_t first = index * shape.groups * kStripRows;
  return {codes.as<std::uint32_t>() + index * shape.chunks * shape.bits * kStripRows,
          scales.data() + first * scale_bytes,
          zeros.size() == 0 ? nullptr : zeros.data() + first * (shape.real_zeros ? sizeof(float) : 1)};
}

std::optional<std::uint64_t> packed_matrix_bytes(const QuantizedTensor& frame) {
  const auto form = form_of(frame);
  const auto plan = plan_columns(frame);
  if (!form || !plan) return std::nullopt;
  // Columns that are not in order take their group's place, also where groups in order would need no padding.
  const std::uint64_t chunks = pieces(std::max(plan->columns, plan->groups * plan->group_columns), kChunk);
  const std::uint64_t groups = plan->group_columns < kChunk ? 2 * chunks : plan->groups;
  const std::uint64_t rows = pieces(frame.rows, 2 * kStripRows) * 2 * kStripRows;
  const bool wide =
      !has_learned_codebook(frame.args) && (dtype_bits(frame.scale_dtype) > 16 || frame.args.double_quant);
  const bool real = has_real_zero_points(frame.args);
  std::uint64_t bytes = chunks * kChunk * sizeof(std::int32_t);  // where columns come from
  bytes += AlignedBuffer::rounded(rows * chunks * static_cast<std::uint64_t>(form->bits) * sizeof(std::uint32_t));
  if (!form->wide_table.empty()) bytes += AlignedBuffer::rounded(form->wide_table.size() * sizeof(float));
  bytes += AlignedBuffer::rounded(rows * groups * (wide ? 4 : 2));
  if (real || !frame.args.symmetric) bytes += AlignedBuffer::rounded(rows * groups * (real ? sizeof(float) : 1));
  return bytes;
}

std::optional<PackedMatrix> pack_matrix(const QuantizedTensor& weight, int threads) {
  if (!usual_numbers(weight)) return std::nullopt;
  const auto form = form_of(weight);
  auto plan = plan_columns(weight);
  if (!form || !plan) return std::nullopt;
  PackedMatrix out;
  out.rows = weight.rows;
  out.columns = plan->columns;
  out.strips = pieces(weight.rows, 2 * kStripRows) * 2;
  out.source = std::move(plan->source);
  out.shape.kind = form->kind;
  out.shape.bits = static_cast<std::uint8_t>(form->bits);
  out.shape.half_groups = plan->group_columns < kChunk;
  out.shape.chunks = plan->columns / kChunk;
  out.shape.group_chunks = std::max<std::uint64_t>(1, plan->group_columns / kChunk);
  out.shape.groups = out.shape.half_groups ? 2 * out.shape.chunks : plan->groups;
  std::ranges::copy(form->table, out.shape.table);
  if (!form->wide_table.empty()) {
    out.table = AlignedBuffer(form->wide_table.size() * sizeof(float));
    std::ranges::copy(form->wide_table, out.table.as<float>());
    out.shape.wide_table = out.table.as<float>();
  }
  out.factor = is_nvfp4(weight.args) ? 1.0F / weight.global_scale : 1.0F;
  out.int8 = weight.args.type == NumberType::integer && std::has_single_bit(static_cast<unsigned>(form->bits)) &&
             !out.shape.half_groups && weight.real_zero_points.empty();
  const std::uint64_t strip_words = out.shape.chunks * static_cast<std::uint64_t>(form->bits) * kStripRows;
  out.codes = AlignedBuffer(out.strips * strip_words * sizeof(std::uint32_t));
  const StripPacker packer(weight, *form, out.source, out.columns);
  std::atomic<bool> usual = true;
  for_tasks(threads, pieces(weight.rows, kStripRows), [&](std::size_t strip) {
    if (!packer.pack(strip, out.codes.as<std::uint32_t>() + strip * strip_words)) usual = false;
  });
  if (!usual) return std::nullopt;
  pack_scales(weight, plan->groups, out, threads);
  return out;
}

}  // namespace quant::packed
