#include <cstring>

#include "layouts/awq/forms.h"
#include "layouts/stored/tensor_parts.h"
#include "layouts/stored/transposed.h"
#include "quant/error.h"

namespace quant::awq_layout {
namespace {

constexpr int kOffset = 8;  // from signed codes to fields

/// Words of eight rows: field i of word c comes from column c of row kGemmOrder[i], less nothing: signed codes become
/// fields by flipping their top bit.
void pack_eight_rows(const std::int8_t* rows, std::uint64_t stride, std::uint64_t cols, std::uint32_t* words) {
  std::memset(words, 0, cols * sizeof *words);
  for (unsigned i = 0; i < kFields; ++i) {
    const std::int8_t* const row = rows + kGemmOrder[i] * stride;
    for (std::uint64_t c = 0; c < cols; ++c) {
      words[c] |= (static_cast<std::uint32_t>(static_cast<std::uint8_t>(row[c]) & 15U) ^ 8U) << (kBits * i);
    }
  }
}

void unpack_eight_rows(const std::uint32_t* words, std::uint64_t cols, std::int8_t* rows, std::uint64_t stride) {
  for (unsigned i = 0; i < kFields; ++i) {
    std::int8_t* const row = rows + kGemmOrder[i] * stride;
    for (std::uint64_t c = 0; c < cols; ++c) {
      row[c] = static_cast<std::int8_t>(static_cast<int>(words[c] >> (kBits * i) & 15U) - kOffset);
    }
  }
}

/// A matrix [rows, cols] of codes, rows a multiple of 8, into the words [cols, linear rows / 8] of tensor `place`.
void write_fields(const LinearShape& linear, std::uint64_t first_row, std::span<const std::int8_t> codes,
                  std::uint64_t rows, std::uint64_t cols, std::size_t place, StoredBytesSink& sink) {
  const std::uint64_t run = rows / kRowsPerWord;
  std::vector<std::uint32_t> words(cols), out(run * cols);
  for (std::uint64_t w = 0; w < run; ++w) {
    pack_eight_rows(codes.data() + w * kRowsPerWord * cols, cols, cols, words.data());
    for (std::uint64_t c = 0; c < cols; ++c) out[c * run + w] = words[c];
  }
  for (std::uint64_t c = 0; c < cols; ++c) {
    sink.write(place, (c * (linear.rows / kRowsPerWord) + first_row / kRowsPerWord) * 4,
               std::as_bytes(std::span(out).subspan(c * run, run)));
  }
}

void read_fields(const Checkpoint& checkpoint, const StoredLinear& linear, std::size_t place, std::uint64_t first_row,
                 std::uint64_t rows, std::uint64_t cols, std::span<std::int8_t> codes) {
  const std::uint64_t stride = linear.shape.rows / kRowsPerWord, run = rows / kRowsPerWord;
  const TensorInfo& info = stored::need_tensor(checkpoint, linear.tensors[place], {DType::I32}, nullptr);
  const auto all = stored::bytes_of(checkpoint, info, 0, cols * stride * 4);
  std::vector<std::uint32_t> words(cols);
  for (std::uint64_t w = 0; w < run; ++w) {
    const std::byte* const column = all.data() + (first_row / kRowsPerWord + w) * 4;
    for (std::uint64_t c = 0; c < cols; ++c) std::memcpy(&words[c], column + c * stride * 4, 4);
    unpack_eight_rows(words.data(), cols, codes.data() + w * kRowsPerWord * cols, cols);
  }
}

}  // namespace

std::vector<StoredTensor> gemm_tensors(const QuantArgs& args, const LinearShape& linear) {
  const std::uint64_t groups = scale_grid(args, linear.rows, linear.cols).cols;
  return {{linear.module + ".qweight", DType::I32, {linear.cols, linear.rows / kRowsPerWord}},
          {linear.module + ".qzeros", DType::I32, {groups, linear.rows / kRowsPerWord}},
          {linear.module + ".scales", DType::F16, {groups, linear.rows}}};
}

void write_gemm_rows(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row,
                     const QuantizedTensor& slice, StoredBytesSink& sink) {
  stored::check_slice(args, linear, first_row, kRowsPerWord, slice);
  write_fields(linear, first_row, slice.codes, slice.rows, slice.cols, kWeight, sink);
  // The zero point 8 of symmetric weights is 0 here.
  const std::vector<std::int8_t> none(args.symmetric ? slice.grid.count() : 0);
  write_fields(linear, first_row, args.symmetric ? none : slice.zero_points, slice.rows, slice.grid.cols, kZeros, sink);
  stored::write_transposed_scales(linear, first_row, slice, kScales, sink);
}

void read_gemm_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    QuantizedTensor& out) {
  read_fields(checkpoint, linear, kWeight, first_row, out.rows, out.cols, out.codes);
  if (!linear.args.symmetric) {
    read_fields(checkpoint, linear, kZeros, first_row, out.rows, out.grid.cols, out.zero_points);
  }
  const TensorInfo& scales = stored::need_tensor(checkpoint, linear.tensors[kScales], {}, nullptr);
  stored::read_transposed_scales(checkpoint, scales, linear.shape.rows, first_row, out);
}

}  // namespace quant::awq_layout
