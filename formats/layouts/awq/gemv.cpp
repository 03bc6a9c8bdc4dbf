#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "layouts/awq/forms.h"
#include "layouts/stored/tensor_parts.h"
#include "layouts/stored/transposed.h"
#include "packing/pack_bits.h"
#include "quant/error.h"

namespace quant::awq_layout {
namespace {

constexpr std::uint64_t kStep = 64;  // inputs of a tile of gemv_fast
constexpr std::uint64_t kRun = 32;   // inputs that are reordered among each other

/// The input, among 32, that lies at place `place`: pairs of inputs go to the four quarters, and within a quarter the
/// first of all pairs come before the second ones.
constexpr std::uint64_t fast_input(std::uint64_t place) {
  const std::uint64_t quarter = place / 8, second = place / 4 % 2, pair = place % 4;
  return 8 * pair + 2 * quarter + second;
}

/// -scale * zero, rounded to float16, back to zero - 8.
std::int8_t zero_of(float product, float scale, const Checkpoint& checkpoint, const TensorInfo& info) {
  const float zero = std::nearbyint(-product / scale);
  // Half a unit is far above what rounding to float16 makes of 15.
  if (!(zero >= 0 && zero <= 15) || std::fabs(-product / scale - zero) > 0.1F) {
    stored::fail(checkpoint, info.name,
                 fmt::format("holds {} beside the scale {}, which gives no zero point of 4 bits", product, scale));
  }
  return static_cast<std::int8_t>(static_cast<int>(zero) - 8);
}

}  // namespace

std::uint64_t zero_words(std::uint64_t groups, std::uint64_t group) {
  const std::uint64_t multiple = group >= 128 ? 1 : group >= 64 ? 2 : 4;
  const std::uint64_t words = groups / kFields + (groups % kFields != 0 ? 1 : 0);
  return (words + multiple - 1) / multiple * multiple;
}

void read_gemv_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    QuantizedTensor& out) {
  const std::uint64_t groups = out.grid.cols;
  const std::uint64_t words = zero_words(groups, stored::group_columns(linear.args, out.cols));
  const TensorInfo& codes = stored::need_tensor(checkpoint, linear.tensors[kWeight], {DType::I32}, nullptr);
  const TensorInfo& zeros = stored::need_tensor(checkpoint, linear.tensors[kZeros], {DType::I32}, nullptr);
  const TensorInfo& scales = stored::need_tensor(checkpoint, linear.tensors[kScales], {}, nullptr);
  for (std::uint64_t r = 0; r < out.rows; ++r) {
    const std::uint64_t row = first_row + r;
    packing::unpack_row(stored::bytes_of(checkpoint, codes, row * out.cols / 2, out.cols / 2), kBits,
                        packing::Coding::offset, std::span(out.codes).subspan(r * out.cols, out.cols));
    stored::read_floats(checkpoint, scales, row * words * kFields, std::span(out.scales).subspan(r * groups, groups));
    if (linear.args.symmetric) continue;
    packing::unpack_row(stored::bytes_of(checkpoint, zeros, row * words * 4, words * 4), kBits, packing::Coding::offset,
                        std::span(out.zero_points).subspan(r * groups, groups));
  }
}

void read_fast_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    QuantizedTensor& out) {
  const TensorInfo& codes = stored::need_tensor(checkpoint, linear.tensors[kWeight], {DType::I16}, nullptr);
  for (std::uint64_t four = 0; four < out.rows; four += kInterleave) {
    const auto tiles =
        stored::bytes_of(checkpoint, codes, (first_row + four) / kInterleave * out.cols * 2, out.cols * 2);
    for (std::uint64_t tile = 0; tile < out.cols / kStep; ++tile) {
      for (std::uint64_t flat = 0; flat < kInterleave * kStep; ++flat) {
        std::uint16_t word = 0;
        std::memcpy(&word, tiles.data() + (tile * kStep + flat / 4) * 2, 2);
        const std::uint64_t place = flat % kStep;
        const std::uint64_t col = tile * kStep + place / kRun * kRun + fast_input(place % kRun);
        out.codes[(four + flat / kStep) * out.cols + col] =
            static_cast<std::int8_t>(static_cast<int>(word >> (kBits * (flat % 4)) & 15) - 8);
      }
    }
  }
  const TensorInfo& scales = stored::need_tensor(checkpoint, linear.tensors[kScales], {}, nullptr);
  stored::read_transposed_scales(checkpoint, scales, linear.shape.rows, first_row, out);
  if (linear.args.symmetric) return;
  const TensorInfo& products = stored::need_tensor(checkpoint, linear.tensors[kZeros], {}, nullptr);
  std::vector<float> run(out.rows);
  for (std::uint64_t g = 0; g < out.grid.cols; ++g) {
    stored::read_floats(checkpoint, products, g * linear.shape.rows + first_row, run);
    for (std::uint64_t r = 0; r < out.rows; ++r) {
      const std::uint64_t unit = r * out.grid.cols + g;
      out.zero_points[unit] = zero_of(run[r], out.scales[unit], checkpoint, products);
    }
  }
}

}  // namespace quant::awq_layout
