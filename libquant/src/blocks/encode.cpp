#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "kernels/blocks/blocks_table.h"
#include "quant/block_encode.h"
#include "quant/dtype.h"
#include "quant/error.h"
#include "quant/kernels.h"

namespace quant {
namespace {

using blocks::BlockEncoders;
using blocks::BlockJob;
using blocks::BlockTable;

const BlockTable& table_of(std::string_view isa) {
#if defined(__x86_64__)
  if (isa == "avx512") return blocks::kAvx512Blocks;
  if (isa == "avx2") return blocks::kAvx2Blocks;
#endif
  static_cast<void>(isa);
  return blocks::kScalarBlocks;
}

const BlockEncoders* encoders_of(const BlockTable& table, BlockType type) {
  switch (type) {
    case BlockType::q4_0:
      return &table.q4_0;
    case BlockType::q4_1:
      return &table.q4_1;
    case BlockType::q5_0:
      return &table.q5_0;
    case BlockType::q5_1:
      return &table.q5_1;
    case BlockType::q8_0:
      return &table.q8_0;
    case BlockType::q2_k:
      return &table.q2_k;
    case BlockType::q3_k:
      return &table.q3_k;
    case BlockType::q4_k:
      return &table.q4_k;
    case BlockType::q5_k:
      return &table.q5_k;
    case BlockType::q6_k:
      return &table.q6_k;
    case BlockType::iq4_nl:
      return &table.iq4_nl;
    case BlockType::iq4_xs:
      return &table.iq4_xs;
    case BlockType::tq1_0:
      return &table.tq1_0;
    case BlockType::tq2_0:
      return &table.tq2_0;
    case BlockType::mxfp4:
      return &table.mxfp4;
    default:
      return nullptr;
  }
}

bool is_plain(BlockType type) { return type == BlockType::f32 || type == BlockType::f16 || type == BlockType::bf16; }

void encode_plain(BlockType type, std::span<const float> weights, std::span<std::byte> out) {
  if (type == BlockType::f32) {
    std::memcpy(out.data(), weights.data(), out.size());
    return;
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::uint16_t bits = type == BlockType::f16 ? f32_to_f16(weights[i]) : f32_to_bf16(weights[i]);
    std::memcpy(out.data() + 2 * i, &bits, 2);
  }
}

struct Request {
  BlockType type;
  std::span<const float> weights;
  std::uint64_t cols;
  std::span<const float> importance;
  BlockEncoder encoder;
  std::span<std::byte> out;
};

void check(const Request& request) {
  const BlockFormat& format = block_format(request.type);
  const std::uint64_t count = request.weights.size();
  if (!can_encode(request.type)) {
    throw Error(ErrorCode::usage, fmt::format("blocks of {} are read but not made", format.name),
                "choose another block type, Q4_K for example");
  }
  if (request.cols == 0 || count % request.cols != 0 || request.cols % format.weights != 0) {
    throw Error(ErrorCode::usage, fmt::format("{} weights in rows of {} are no whole blocks of {}, which hold {}",
                                              count, request.cols, format.name, format.weights));
  }
  if (request.out.size() != block_bytes(request.type, count)) {
    throw Error(ErrorCode::usage, fmt::format("{} weights become {} bytes of {}, not {}", count,
                                              block_bytes(request.type, count), format.name, request.out.size()));
  }
  const std::size_t given = request.importance.size();
  if (given != 0 && given != request.cols && given != count) {
    throw Error(ErrorCode::usage,
                fmt::format("{} numbers say how much {} weights in rows of {} matter", given, count, request.cols));
  }
}

// The mean square of a row as the reference encoder finds it: a float sum in order.
float mean_square(const float* row, std::uint64_t cols) {
  float sum = 0;
  for (std::uint64_t i = 0; i < cols; ++i) sum += row[i] * row[i];
  return sum / static_cast<float>(cols);
}

// Makes jobs of blocks that follow each other.
class Jobs {
 public:
  Jobs(const Request& request, const BlockTable& table)
      : request_(request), format_(block_format(request.type)), lanes_(static_cast<std::uint64_t>(table.lanes)) {
    each_ = request.importance.size() > request.cols;
    // Only the formats of 32 weights weigh by their row.
    needs_rows_ = request.encoder == BlockEncoder::reference && !request.importance.empty() && format_.weights == 32;
  }

  std::uint64_t count() const { return request_.weights.size() / format_.weights; }

  /// The job of blocks [first, first + lanes); lanes past the end do the last block again, for nobody.
  const BlockJob& job(std::uint64_t first) {
    for (std::uint64_t lane = 0; lane < lanes_; ++lane) {
      const std::uint64_t block = std::min(first + lane, count() - 1);
      job_.x[lane] = request_.weights.data() + block * format_.weights;
      const bool wanted = first + lane < count();
      std::byte* place = wanted ? request_.out.data() + block * format_.bytes : unused_.data();
      job_.out[lane] = reinterpret_cast<std::uint8_t*>(place);
      if (!request_.importance.empty()) weigh(lane, block);
    }
    return job_;
  }

 private:
  void weigh(std::uint64_t lane, std::uint64_t block) {
    const std::uint64_t weight = block * format_.weights;
    job_.importance[lane] = request_.importance.data() + (each_ ? weight : weight % request_.cols);
    if (!needs_rows_) return;
    if (const std::uint64_t row = weight / request_.cols; row != row_) {
      row_square_ = mean_square(request_.weights.data() + row * request_.cols, request_.cols);
      row_ = row;
    }
    job_.row_square[lane] = row_square_;
  }

  const Request& request_;
  const BlockFormat& format_;
  std::uint64_t lanes_;
  bool each_ = false, needs_rows_ = false;
  BlockJob job_{};
  std::array<std::byte, 256> unused_{};
  std::uint64_t row_ = ~std::uint64_t{0};
  float row_square_ = 0;
};

void encode(const Request& request, const BlockTable& table) {
  check(request);
  if (request.weights.empty()) return;
  if (is_plain(request.type)) return encode_plain(request.type, request.weights, request.out);
  const BlockEncoders& encoders = *encoders_of(table, request.type);
  const auto function = request.encoder == BlockEncoder::reference ? encoders.reference : encoders.search;
  Jobs jobs(request, table);
  for (std::uint64_t first = 0; first < jobs.count(); first += static_cast<std::uint64_t>(table.lanes)) {
    function(jobs.job(first));
  }
}

}  // namespace

bool can_encode(BlockType type) { return is_plain(type) || encoders_of(blocks::kScalarBlocks, type) != nullptr; }

void encode_blocks(BlockType type, std::span<const float> weights, std::uint64_t cols,
                   std::span<const float> importance, BlockEncoder encoder, std::span<std::byte> out) {
  encode({type, weights, cols, importance, encoder, out}, table_of(kernels().isa));
}

void encode_blocks(BlockType type, std::span<const float> weights, std::uint64_t cols,
                   std::span<const float> importance, BlockEncoder encoder, std::span<std::byte> out,
                   std::string_view isa) {
  encode({type, weights, cols, importance, encoder, out}, table_of(select_kernels(isa).isa));
}

}  // namespace quant
