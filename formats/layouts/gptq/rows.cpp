#include "layouts/gptq/rows.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "layouts/stored/tensor_parts.h"
#include "layouts/stored/transposed.h"
#include "packing/pack_bits.h"
#include "quant/error.h"

namespace quant::gptq_layout {
namespace {

// Square blocks of words keep both sides of a transposition in the first-level cache.
constexpr std::uint64_t kBlock = 32;

/// words [rows, cols] to [cols, rows]
void transpose(const std::uint32_t* from, std::uint64_t rows, std::uint64_t cols, std::uint32_t* to) {
  for (std::uint64_t r0 = 0; r0 < rows; r0 += kBlock) {
    for (std::uint64_t c0 = 0; c0 < cols; c0 += kBlock) {
      for (std::uint64_t r = r0; r < std::min(r0 + kBlock, rows); ++r) {
        for (std::uint64_t c = c0; c < std::min(c0 + kBlock, cols); ++c) to[c * rows + r] = from[r * cols + c];
      }
    }
  }
}

void write_codes(const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                 StoredBytesSink& sink) {
  const auto bits = static_cast<unsigned>(slice.args.num_bits);
  const std::uint64_t words = packing::dense_words(linear.cols, bits);
  std::vector<std::uint32_t> by_row(slice.rows * words), by_word(slice.rows * words);
  for (std::uint64_t r = 0; r < slice.rows; ++r) {
    packing::pack_row(std::span(slice.codes).subspan(r * slice.cols, slice.cols), bits, packing::Coding::offset,
                      std::as_writable_bytes(std::span(by_row).subspan(r * words, words)));
  }
  transpose(by_row.data(), slice.rows, words, by_word.data());
  for (std::uint64_t w = 0; w < words; ++w) {
    sink.write(kWeight, (w * linear.rows + first_row) * 4,
               std::as_bytes(std::span(by_word).subspan(w * slice.rows, slice.rows)));
  }
}

[[noreturn]] void fail_zero(const LinearShape& linear, std::uint64_t row) {
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: row {} has the zero point 0, and format gptq stores zero points less one: readers "
                          "disagree on what is below 0",
                          linear.module, row),
              "use format gptq_v2", "ZeroPointBelowOne");
}

void write_zeros(const LinearShape& linear, Version version, std::uint64_t first_row, const QuantizedTensor& slice,
                 StoredBytesSink& sink) {
  const auto bits = static_cast<unsigned>(slice.args.num_bits);
  const std::uint64_t groups = slice.grid.cols, words = packing::dense_words(linear.rows, bits);
  const std::uint64_t run = packing::dense_words(slice.rows, bits);
  const int less = version == Version::v1 ? 1 : 0;
  std::vector<std::int8_t> zeros(slice.rows, static_cast<std::int8_t>(-less));
  std::vector<std::byte> bytes(run * 4);
  for (std::uint64_t g = 0; g < groups; ++g) {
    for (std::uint64_t r = 0; r < slice.rows && !slice.args.symmetric; ++r) {
      const int zero = slice.zero_points[r * groups + g];
      if (zero - less < -(1 << (bits - 1))) fail_zero(linear, first_row + r);
      zeros[r] = static_cast<std::int8_t>(zero - less);
    }
    packing::pack_row(zeros, bits, packing::Coding::offset, bytes);
    sink.write(kZeros, (g * words + first_row / kAlignment * bits) * 4, bytes);
  }
}

void write_index(const LinearShape& linear, const QuantizedTensor& slice, StoredBytesSink& sink) {
  if (!slice.group_index.empty()) return sink.write(kIndex, 0, std::as_bytes(std::span(slice.group_index)));
  std::vector<std::int32_t> natural(linear.cols);
  for (std::uint64_t c = 0; c < linear.cols; ++c) natural[c] = static_cast<std::int32_t>(c / slice.grid.col_extent);
  sink.write(kIndex, 0, std::as_bytes(std::span(natural)));
}

void read_codes(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                QuantizedTensor& out) {
  const auto bits = static_cast<unsigned>(linear.args.num_bits);
  const std::uint64_t words = packing::dense_words(out.cols, bits), rows = linear.shape.rows;
  const TensorInfo& info = stored::need_tensor(checkpoint, linear.tensors[kWeight], {DType::I32}, nullptr);
  const auto all = stored::bytes_of(checkpoint, info, 0, words * rows * 4);
  std::vector<std::uint32_t> by_word(words * out.rows), by_row(words * out.rows);
  for (std::uint64_t w = 0; w < words; ++w) {
    std::memcpy(by_word.data() + w * out.rows, all.data() + (w * rows + first_row) * 4, out.rows * 4);
  }
  transpose(by_word.data(), words, out.rows, by_row.data());
  for (std::uint64_t r = 0; r < out.rows; ++r) {
    packing::unpack_row(std::as_bytes(std::span(by_row).subspan(r * words, words)), bits, packing::Coding::offset,
                        std::span(out.codes).subspan(r * out.cols, out.cols));
  }
}

void read_zeros(const Checkpoint& checkpoint, const StoredLinear& linear, const ZeroRule& rule, std::uint64_t first_row,
                QuantizedTensor& out) {
  if (linear.args.symmetric) return;  // find_linears has read them all
  const auto bits = static_cast<unsigned>(linear.args.num_bits);
  const std::uint64_t words = packing::dense_words(linear.shape.rows, bits);
  const std::uint64_t run = packing::dense_words(out.rows, bits);
  const TensorInfo& info = stored::need_tensor(checkpoint, linear.tensors[kZeros], {DType::I32}, nullptr);
  std::vector<std::int8_t> zeros(out.rows);
  for (std::uint64_t g = 0; g < out.grid.cols; ++g) {
    const auto bytes = stored::bytes_of(checkpoint, info, (g * words + first_row / kAlignment * bits) * 4, run * 4);
    unpack_zeros(bytes, bits, rule, zeros);
    for (std::uint64_t r = 0; r < out.rows; ++r) out.zero_points[r * out.grid.cols + g] = zeros[r];
  }
}

void read_index(const Checkpoint& checkpoint, const StoredLinear& linear, QuantizedTensor& out) {
  if (linear.args.actorder != ActOrder::group) return;
  const TensorInfo& info = stored::need_tensor(checkpoint, linear.tensors[kIndex], {DType::I32}, nullptr);
  const auto bytes = stored::bytes_of(checkpoint, info, 0, out.cols * 4);
  out.group_index.resize(out.cols);
  std::memcpy(out.group_index.data(), bytes.data(), bytes.size());
  for (const std::int32_t group : out.group_index) {
    if (group >= 0 && static_cast<std::uint64_t>(group) < out.grid.cols) continue;
    stored::fail(checkpoint, info.name, fmt::format("holds {}, but there are {} groups", group, out.grid.cols));
  }
}

}  // namespace

void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row, const QuantizedTensor& slice,
                StoredBytesSink& sink) {
  stored::check_slice(*scheme.weights, linear, first_row, kAlignment, slice);
  write_codes(linear, first_row, slice, sink);
  write_zeros(linear, version_of(scheme), first_row, slice, sink);
  stored::write_transposed_scales(linear, first_row, slice, kScales, sink);
  if (first_row == 0) write_index(linear, slice, sink);
}

void unpack_zeros(std::span<const std::byte> words, unsigned bits, const ZeroRule& rule,
                  std::span<std::int8_t> values) {
  if (rule.version == Version::v2) return packing::unpack_row(words, bits, packing::Coding::offset, values);
  if (rule.whole_words && bits != 3) {
    std::vector<std::uint32_t> sums(words.size() / 4);
    std::memcpy(sums.data(), words.data(), sums.size() * 4);
    std::uint32_t ones = 0;
    for (unsigned shift = 0; shift < 32; shift += bits) ones |= 1U << shift;
    for (std::uint32_t& word : sums) word += ones;
    return packing::unpack_row(std::as_bytes(std::span(sums)), bits, packing::Coding::offset, values);
  }
  packing::unpack_row(words, bits, packing::Coding::offset, values);
  const int largest = (1 << (bits - 1)) - 1;
  for (std::int8_t& value : values) {
    value = static_cast<std::int8_t>(value == largest ? -largest - 1 : value + 1);  // modulo 2^b, as readers mask it
  }
}

void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, const ZeroRule& rule, std::uint64_t first_row,
               std::uint64_t count, QuantizedTensor& out) {
  stored::check_read(linear, first_row, count, kAlignment);
  out.resize(linear.args, count, linear.shape.cols);
  out.scale_dtype = linear.scale_dtype;
  read_codes(checkpoint, linear, first_row, out);
  read_zeros(checkpoint, linear, rule, first_row, out);
  const TensorInfo& scales = stored::need_tensor(checkpoint, linear.tensors[kScales], {}, nullptr);
  stored::read_transposed_scales(checkpoint, scales, linear.shape.rows, first_row, out);
  read_index(checkpoint, linear, out);
}

}  // namespace quant::gptq_layout
