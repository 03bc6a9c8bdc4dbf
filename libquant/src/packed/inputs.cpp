#include "packed/inputs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "forward/row_quantizer.h"
#include "linalg/parallel.h"
#include "quant/kernels.h"

namespace quant::packed {
namespace {

using cpu::kChunk;
using linalg::for_tasks;
using linalg::pieces;

constexpr std::uint64_t kTaskBlocks = 1;

// To nearest, ties to even; a NaN stays one.
std::uint32_t bf16_bits(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  const std::uint32_t rounded = bits + 0x7FFFU + ((bits >> 16) & 1U);
  return ((bits & 0x7FFFFFFFU) > 0x7F800000U ? bits | 0x400000U : rounded) >> 16;
}

// body(block, place in the block, the token's packed row) for every token; rows of one block on one thread.
template <class Body>
void for_token_rows(const InputColumns& columns, std::span<const float> x, TokenBlocks blocks, int threads,
                    const Body& body) {
  for_tasks(threads, pieces(blocks.count(), kTaskBlocks), [&](std::size_t block) {
    std::vector<float> row(columns.packed, 0.0F);
    const std::uint64_t first = block * blocks.width, end = std::min(blocks.tokens, first + blocks.width);
    for (std::uint64_t token = first; token < end; ++token) {
      columns.gather(x.data() + token * columns.cols, row.data());
      body(block, token - first, row);
    }
  });
}

// Codes and scales of a token's packed row.
class CodeRow {
 public:
  CodeRow(const InputQuantizer* quantizer, const OutlierColumns& outliers, std::uint64_t packed, std::uint64_t segment)
      : quantizer_(quantizer),
        outliers_(outliers),
        segment_(segment),
        codes_(packed),
        scales_(pieces(packed, segment)) {}

  void set(std::span<float> row) {
    if (quantizer_ != nullptr) return set_token(row);
    const std::size_t count = scales_.size();
    std::vector<float> absmax(count);
    kernels().group_absmax(row.data(), WeightType::f32, row.size(), segment_, absmax.data());
    for (std::size_t i = 0; i < count; ++i) scales_[i] = absmax[i] / 127.0F;
    encode(row, -127.0F);
  }
  const std::vector<std::int8_t>& codes() const { return codes_; }
  const std::vector<float>& scales() const { return scales_; }

 private:
  void set_token(std::span<float> row) {
    const ScaleRules rules = forward::activation_rules(quantizer_->args, 1.0F);
    float scale = quantizer_->scale, least = 0.0F, most = 0.0F;
    if (outliers_.threshold > 0.0F) {
      scale = scale_below_threshold(rules, row);
    } else if (scale == 0.0F) {
      kernels().group_range(row.data(), WeightType::f32, row.size(), row.size(), &least, &most);
      if (std::isnan(most)) {
        scale = most;
      } else {
        scales_of_ranges(rules, {&least, 1}, {&most, 1}, {&scale, 1}, {});
      }
    }
    // Of a static scale; the others are NaN themselves then.
    if (std::ranges::any_of(row, [](float value) { return std::isnan(value); })) {
      scale = std::numeric_limits<float>::quiet_NaN();
    }
    std::fill(scales_.begin(), scales_.end(), scale);
    encode(row, rules.code_min);
  }

  // As RowQuantizer::without_outliers; the outliers' places become 0.
  float scale_below_threshold(const ScaleRules& rules, std::span<float> row) const {
    float absmax = 0.0F, largest = 0.0F, scale = 0.0F;
    kernels().group_absmax(row.data(), WeightType::f32, row.size(), row.size(), &absmax);
    if (!std::isfinite(absmax)) {
      largest = std::numeric_limits<float>::quiet_NaN();
    } else if (absmax < outliers_.threshold) {
      largest = absmax;
    } else {
      for (const float value : row) {
        const float size = std::fabs(value);
        largest = std::max(largest, size < outliers_.threshold ? size : 0.0F);
      }
    }
    for (const std::uint32_t place : outliers_.places) row[place] = 0.0F;
    if (std::isnan(largest)) return largest;
    scales_of_absmax(rules, {&largest, 1}, {&scale, 1});
    return scale;
  }

  // Where a scale is no number, the codes are 0 and the result is NaN by the scale.
  void encode(std::span<float> row, float code_min) {
    std::vector<float> divisors = scales_;
    bool finite = true;
    for (std::size_t i = 0; i < divisors.size(); ++i) {
      if (std::isfinite(divisors[i]) && divisors[i] != 0.0F) continue;
      finite = finite && divisors[i] == 0.0F;
      if (divisors[i] != 0.0F) scales_[i] = std::numeric_limits<float>::quiet_NaN();
      divisors[i] = 1.0F;
    }
    RowSums sums{};
    kernels().encode({row.data(), WeightType::f32, Element::integer, row.size(), segment_, divisors.data(), nullptr,
                      code_min, 127.0F, codes_.data(), &sums, nullptr, nullptr});
    if (finite) return;
    for (std::size_t i = 0; i < scales_.size(); ++i) {
      if (!std::isnan(scales_[i])) continue;
      const std::size_t first = i * segment_, end = std::min(codes_.size(), first + segment_);
      std::fill(codes_.begin() + static_cast<std::ptrdiff_t>(first), codes_.begin() + static_cast<std::ptrdiff_t>(end),
                std::int8_t{0});
    }
  }

  const InputQuantizer* quantizer_;
  const OutlierColumns& outliers_;
  std::uint64_t segment_;
  std::vector<std::int8_t> codes_;
  std::vector<float> scales_;
};

// Chunks that share a scale of the inputs: at most 128 columns, or with a scale per token as many as the weights'
// scales and 32-bit sums allow.
std::uint64_t segment_chunks(const cpu::PackedShape& shape, bool per_token) {
  constexpr std::uint64_t kBlockChunks = 4, kSafeChunks = 1024;  // 32768 columns * 255 * 128 < 2^31
  if (shape.groups == 1) return std::min<std::uint64_t>(shape.chunks, per_token ? kSafeChunks : kBlockChunks);
  if (per_token && shape.group_chunks <= kSafeChunks) return shape.group_chunks;
  for (std::uint64_t chunks = kBlockChunks; chunks > 1; chunks /= 2) {
    if (shape.group_chunks % chunks == 0) return chunks;
  }
  return 1;
}

}  // namespace

void InputColumns::gather(const float* row, float* out) const {
  if (source->empty()) {
    std::copy_n(row, cols, out);
    return;
  }
  for (std::size_t c = 0; c < packed; ++c) out[c] = (*source)[c] < 0 ? 0.0F : row[(*source)[c]];
}

std::vector<float> interleave(const InputColumns& columns, std::span<const float> x, TokenBlocks blocks, int threads) {
  std::vector<float> out(blocks.padded() * columns.packed, 0.0F);
  for_token_rows(columns, x, blocks, threads,
                 [&](std::uint64_t block, std::uint64_t at, const std::vector<float>& row) {
                   float* to = out.data() + block * columns.packed * blocks.width + at;
                   for (std::size_t c = 0; c < columns.packed; ++c) to[c * blocks.width] = row[c];
                 });
  return out;
}

std::vector<std::uint32_t> interleave_bf16(const InputColumns& columns, std::span<const float> x, TokenBlocks blocks,
                                           int threads) {
  std::vector<std::uint32_t> out(blocks.padded() * columns.packed / 2, 0);
  for_token_rows(columns, x, blocks, threads,
                 [&](std::uint64_t block, std::uint64_t at, const std::vector<float>& row) {
                   std::uint32_t* to = out.data() + block * columns.packed / 2 * blocks.width + at;
                   for (std::size_t c = 0; c < columns.packed / 2; ++c) {
                     to[c * blocks.width] = bf16_bits(row[2 * c]) | bf16_bits(row[2 * c + 1]) << 16;
                   }
                 });
  return out;
}

OutlierColumns find_outliers(const InputColumns& columns, std::span<const float> x, std::uint64_t rows,
                             const InputQuantizer* quantizer, int threads) {
  OutlierColumns out;
  if (quantizer == nullptr || quantizer->args.outlier_threshold == 0) return out;
  out.threshold = static_cast<float>(quantizer->args.outlier_threshold);
  const std::vector<char> marked = forward::outlier_columns(x, rows, out.threshold, threads);
  for (std::size_t place = 0; place < columns.packed; ++place) {
    const std::int64_t column = columns.source->empty() ? static_cast<std::int64_t>(place)
                                                        : static_cast<std::int64_t>((*columns.source)[place]);
    if (column < 0 || column >= static_cast<std::int64_t>(columns.cols)) continue;  // padding
    if (marked[static_cast<std::size_t>(column)] == 0) continue;
    out.source.push_back(static_cast<std::int32_t>(column));
    out.places.push_back(static_cast<std::uint32_t>(place));
  }
  return out;
}

std::vector<float> interleave_outliers(const InputColumns& columns, const OutlierColumns& outliers,
                                       std::span<const float> x, TokenBlocks blocks) {
  const std::size_t count = outliers.source.size();
  if (count == 0) return {};
  std::vector<float> out(blocks.padded() * count, 0.0F);
  for (std::uint64_t token = 0; token < blocks.tokens; ++token) {
    const float* row = x.data() + token * columns.cols;
    float* to = out.data() + token / blocks.width * count * blocks.width + token % blocks.width;
    for (std::size_t i = 0; i < count; ++i) to[i * blocks.width] = row[outliers.source[i]];
  }
  return out;
}

bool multiplies_as_integers(const InputQuantizer& quantizer) {
  const QuantArgs& args = quantizer.args;
  if (args.type != NumberType::integer || args.num_bits != 8 || !args.symmetric || quantizer.zero_point != 0.0F) {
    return false;
  }
  return args.strategy == Strategy::token || (args.strategy == Strategy::tensor && quantizer.scale > 0.0F);
}

cpu::Int8Inputs IntegerInputs::block(std::uint64_t index, TokenBlocks blocks, std::uint64_t packed) const {
  const std::uint64_t first = index * segments * blocks.width;
  return {codes.data() + index * packed / 4 * blocks.width, scales.data() + first, sums.data() + first, segment_chunks};
}

IntegerInputs quantize_inputs(const InputColumns& columns, const cpu::PackedShape& shape, std::span<const float> x,
                              TokenBlocks blocks, const InputQuantizer* quantizer, const OutlierColumns& outliers,
                              int threads) {
  IntegerInputs out;
  out.segment_chunks = segment_chunks(shape, quantizer != nullptr);
  out.segments = pieces(shape.chunks, out.segment_chunks);
  out.codes.resize(blocks.padded() * columns.packed / 4);
  out.scales.resize(blocks.count() * out.segments * blocks.width);
  out.sums.resize(out.scales.size());
  const std::uint64_t segment = out.segment_chunks * kChunk;
  for_token_rows(columns, x, blocks, threads, [&](std::uint64_t block, std::uint64_t at, std::vector<float>& row) {
    CodeRow coded(quantizer, outliers, columns.packed, segment);
    coded.set(row);
    std::uint32_t* codes = out.codes.data() + block * columns.packed / 4 * blocks.width + at;
    for (std::size_t quad = 0; quad < columns.packed / 4; ++quad) {
      std::memcpy(codes + quad * blocks.width, coded.codes().data() + 4 * quad, sizeof(std::uint32_t));
    }
    for (std::uint64_t s = 0; s < out.segments; ++s) {
      const std::uint64_t first = s * segment, end = std::min(columns.packed, first + segment);
      std::int32_t sum = 0;
      for (std::uint64_t c = first; c < end; ++c) sum += coded.codes()[c];
      out.sums[(block * out.segments + s) * blocks.width + at] = sum;
      out.scales[(block * out.segments + s) * blocks.width + at] = coded.scales()[s];
    }
  });
  return out;
}

}  // namespace quant::packed
