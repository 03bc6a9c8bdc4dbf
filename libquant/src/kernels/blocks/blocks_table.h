// Encoders of block formats, one table per instruction set. Blocks of a table are coded side by side, one per vector
// lane, so that the sums of each run over its weights in order: all tables give the same bytes.
#pragma once

#include <cstdint>

namespace quant::blocks {

constexpr int kMaxLanes = 16;

/// Blocks that are coded together: `lanes` of the table, each with its own place.
struct BlockJob {
  const float* x[kMaxLanes];           ///< finite weights of each block
  const float* importance[kMaxLanes];  ///< one number for each weight, or null for all blocks
  float row_square[kMaxLanes];         ///< mean square of the block's row; read with importance only
  std::uint8_t* out[kMaxLanes];
};

using EncodeFunction = void (*)(const BlockJob&);

/// The functions of one format: ggml's own search, and this project's.
struct BlockEncoders {
  EncodeFunction reference;
  EncodeFunction search;
};

struct BlockTable {
  const char* isa;
  int lanes;
  BlockEncoders q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs, tq1_0, tq2_0, mxfp4;
};

extern const BlockTable kScalarBlocks;
extern const BlockTable kAvx2Blocks;
extern const BlockTable kAvx512Blocks;

}  // namespace quant::blocks
