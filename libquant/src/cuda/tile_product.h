// Products of tiled matrices on tensor cores: y^T = W x^T, 16 rows of W and 8 columns of x^T per instruction.
//
// A block of kTileWarps warps takes `strips` strips and `tiles` tiles of 8 columns of x^T. Its warps take the steps of
// a row in turns and add their sums up at the end, always in the same order: what a token gets does not depend on the
// tokens beside it. Weights are integers, small floats or table entries that BF16 holds; scales multiply the sums of a
// group. Float32 inputs come as three BF16 parts, each a column of its own, and nothing is lost but by the sums'
// rounding.
#pragma once

#include "cuda/operands.h"

namespace quant::cuda {

constexpr uint32_t kTileWarps = 8;
constexpr uint32_t kTileThreads = 32 * kTileWarps;

/// Inputs in the order of operands: BF16 [tokens][parts][packed] in Order::tiles16, 8-bit codes [tokens][packed] in
/// Order::tiles8, or, for 8 columns at most, float32 [tokens][packed] as they are, which are rounded or cut into parts
/// on the way.
struct TileInputs {
  const void* x;
  bool direct;     // float32
  uint32_t parts;  // 1 or 3 columns per token
  uint64_t tokens, packed;
  const float* scales;  // of 8-bit codes: [tokens][segments]
  const int32_t* sums;
  uint32_t segments, segment_runs;  // a row's; 2, 4 or 8, a divisor of the matrix's group_runs
};

struct TileProduct {
  TileMatrix matrix;
  TileInputs inputs;
  uint32_t splits;  // of the steps
  float* parts;     // [splits][tokens][rows], to be finished (finish.h); or null: the sums are the result but for ...
  float* y;         // [tokens][rows]: ... factor and bias
  float factor;
  const float* bias;  // or null
};

/// What a block computes.
struct TilePlace {
  uint32_t strip, split;
  uint64_t token;
  uint32_t tokens, columns;  // of x^T: tokens * parts
};

struct Bf16Mma {
  float* sums;  // [4]
  const uint32_t *a, *b;
};
struct ByteMma {
  int32_t* sums;
  const uint32_t *a, *b;
};

QUANT_HD uint32_t pair_rounded(float first, float second) {
#if defined(__CUDA_ARCH__)
  uint32_t result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(second), "f"(first));
  return result;
#else
  return pair_of(bf16_of(first), bf16_of(second));
#endif
}

/// Weights decoded to BF16. Lane 4 g + t holds column g of a tile of inputs.
template <class Operand>
struct Bf16Op {
  using Sum = float;
  using Mma = Bf16Mma;
  using Strip = typename Operand::Strip;
  using Shared = typename Operand::Shared;
  static constexpr uint32_t kBits = Operand::kBits;
  static constexpr uint32_t kInputWords = 4;  // of a lane and 32 columns
  static constexpr uint32_t kRuns = 1;        // of one instruction

  template <bool may_be_direct>
  static QUANT_HD void load_inputs(uint32_t* b, const TileInputs& in, uint64_t first, uint32_t column, uint64_t start,
                                   uint32_t t) {
    if (!may_be_direct || !in.direct) {
      const uint64_t at = (first * in.parts + column) * in.packed + start + 8 * t;
      const Words4 words = load_words<false>(static_cast<const uint16_t*>(in.x) + at);
      QUANT_UNROLL
      for (uint32_t i = 0; i < 4; ++i) b[i] = words.word[i];
      return;
    }
    const float* x = static_cast<const float*>(in.x) + (first + column / in.parts) * in.packed + start + 4 * t;
    QUANT_UNROLL
    for (uint32_t s = 0; s < 2; ++s) {
      const Words4 words = load_words<false>(x + 16 * s);
      QUANT_UNROLL
      for (uint32_t i = 0; i < 2; ++i) {
        const float one = float_of(words.word[2 * i]), other = float_of(words.word[2 * i + 1]);
        b[2 * s + i] = in.parts == 1 ? pair_rounded(one, other)
                                     : pair_of(bf16_part(one, column % 3), bf16_part(other, column % 3));
      }
    }
  }
  static QUANT_HD void start(Shared& shared, const TileMatrix& m, uint32_t plane) { Operand::start(shared, m, plane); }
  static QUANT_HD void load(Strip& strip, const TileMatrix& m, uint64_t place) { Operand::load(strip, m, place); }
  static QUANT_HD void decode(uint32_t* a, const uint32_t* words, uint32_t run, const Strip& strip,
                              const Shared& shared) {
    Operand::decode(a, words, run, strip, shared);
  }
  static QUANT_HD const uint32_t* input_of(const uint32_t* b, uint32_t run) { return b + 2 * run; }
  static QUANT_HD float scaled(float sum, float scale, const Strip&, uint32_t, const TileInputs&, uint64_t, uint32_t) {
    return sum * scale;
  }
};

/// Integers times 8-bit inputs, with exact sums.
template <uint32_t bits>
struct ByteOp {
  using Sum = int32_t;
  using Mma = ByteMma;
  struct Strip {
    int32_t zeros[2];
  };
  struct Shared {};
  static constexpr uint32_t kBits = bits;
  static constexpr uint32_t kInputWords = 2;
  static constexpr uint32_t kRuns = 2;

  template <bool may_be_direct>
  static QUANT_HD void load_inputs(uint32_t* b, const TileInputs& in, uint64_t first, uint32_t column, uint64_t start,
                                   uint32_t t) {
    const int8_t* from = static_cast<const int8_t*>(in.x) + (first + column) * in.packed + start + 8 * t;
    const Words2 words = *reinterpret_cast<const Words2*>(from);
    b[0] = words.word[0];
    b[1] = words.word[1];
  }
  static QUANT_HD void start(Shared&, const TileMatrix&, uint32_t) {}
  static QUANT_HD void load(Strip& strip, const TileMatrix& m, uint64_t place) {
    strip.zeros[0] = m.offset + (m.zeros == nullptr ? 0 : m.zeros[place]);
    strip.zeros[1] = m.offset + (m.zeros == nullptr ? 0 : m.zeros[place + 8]);
  }
  static QUANT_HD void decode(uint32_t* a, const uint32_t* words, uint32_t, const Strip&, const Shared&) {
    ByteOperand<bits>::decode(a, words);
  }
  static QUANT_HD const uint32_t* input_of(const uint32_t* b, uint32_t) { return b; }
  static QUANT_HD float scaled(int32_t sum, float scale, const Strip& strip, uint32_t half, const TileInputs& in,
                               uint64_t token, uint32_t run) {
    const uint64_t at = token * in.segments + run / in.segment_runs;
    return static_cast<float>(sum - strip.zeros[half] * in.sums[at]) * (scale * in.scales[at]);
  }
};

template <class Op, uint32_t strips, uint32_t tiles>
struct TileConfig {
  using Operation = Op;
  static constexpr uint32_t kStrips = strips;
  static constexpr uint32_t kTiles = tiles;
  static constexpr uint32_t kWords = 2 * Op::kBits;          // of a lane, a strip and a step
  static constexpr uint32_t kUnroll = tiles == 1 ? 4 : 1;    // blocks; code for many tiles is long as it is
  static constexpr uint32_t kResident = tiles <= 2 ? 2 : 1;  // blocks per multiprocessor that registers must allow
  // Steps whose codes are held, all but the first of them on their way: a token alone is bound by their latency.
  static constexpr uint32_t kDepth = tiles == 1 && kWords * strips < 16 ? 32 / (kWords * strips) : 2;
};

/// A lane's codes of a step, and the scales of its first group.
template <class Config>
struct TileCodes {
  uint32_t words[Config::kStrips][Config::kWords];
  float scales[Config::kStrips][2];
  typename Config::Operation::Strip strip[Config::kStrips];
};

template <class Config>
struct TileLane {
  using Op = typename Config::Operation;
  TileCodes<Config> held[Config::kDepth];  // the first: of the step that is computed
  typename Op::Shared shared;
  uint32_t b[Config::kTiles][Op::kInputWords];
  uint32_t a[4];
  typename Op::Sum part[Config::kStrips][Config::kTiles][4];
  float sums[Config::kStrips][Config::kTiles][4];
};

/// The work of one warp. `Warp` has the state of the lanes: `each` calls a function for every lane (the device's only
/// for its own), `multiply` executes an instruction of all of them.
template <class Config, class Warp>
class TileWorker {
 public:
  using Op = typename Config::Operation;
  using Lane = TileLane<Config>;

  QUANT_HD TileWorker(Warp& warp, const TileProduct& product, const TilePlace& place)
      : warp_(warp), p_(product), m_(product.matrix), place_(place) {}

  QUANT_HD void run(uint32_t warp_index) {
    const uint32_t begin = step_of(place_.split), end = step_of(place_.split + 1);
    warp_.each([](uint32_t, Lane& lane) {
      QUANT_UNROLL
      for (uint32_t i = 0; i < Config::kStrips * Config::kTiles * 4; ++i) {
        lane.sums[i / 4 / Config::kTiles][i / 4 % Config::kTiles][i % 4] = 0.0F;
      }
    });
    QUANT_UNROLL
    for (uint32_t d = 0; d + 1 < Config::kDepth; ++d) {
      const uint32_t step = begin + warp_index + d * kTileWarps;
      if (step < end) load(step, d + 1);
    }
    for (uint32_t step = begin + warp_index; step < end; step += kTileWarps) {
      shift();
      const uint32_t next = step + (Config::kDepth - 1) * kTileWarps;
      if (next < end) load(next, Config::kDepth - 1);
      compute(step);
    }
  }

 private:
  QUANT_HD uint32_t step_of(uint32_t split) const {
    return static_cast<uint32_t>(static_cast<uint64_t>(m_.steps) * split / p_.splits);
  }
  // Beyond the last strip: the last one again, whose results nobody keeps.
  QUANT_HD uint32_t strip_of(uint32_t s) const {
    return place_.strip + s < m_.strips ? place_.strip + s : m_.strips - 1;
  }

  QUANT_HD void load_group(Lane& lane, uint32_t place, uint32_t step, uint32_t d, uint32_t run) {
    QUANT_UNROLL
    for (uint32_t s = 0; s < Config::kStrips; ++s) {
      const uint64_t at = scale_place(m_, strip_of(s), group_of_run(m_, step, run), place / 4);
      lane.held[d].scales[s][0] = load_scale(m_.scale_type, m_.scales, at);
      lane.held[d].scales[s][1] = load_scale(m_.scale_type, m_.scales, at + 8);
      Op::load(lane.held[d].strip[s], m_, at);
    }
  }

  QUANT_HD void load(uint32_t step, uint32_t d) {
    warp_.each([&](uint32_t place, Lane& lane) {
      QUANT_UNROLL
      for (uint32_t s = 0; s < Config::kStrips; ++s) {
        const uint64_t first = (static_cast<uint64_t>(strip_of(s)) * m_.steps + step) * words_of_step(Op::kBits);
        QUANT_UNROLL
        for (uint32_t l = 0; l < Config::kWords / 4; ++l) {
          const Words4 words = load_words<true>(m_.codes + first + (l * 32 + place) * 4);
          QUANT_UNROLL
          for (uint32_t i = 0; i < 4; ++i) lane.held[d].words[s][4 * l + i] = words.word[i];
        }
      }
      load_group(lane, place, step, d, 0);
    });
  }

  // What was under way moves to the front: a few moves between registers, and no copy of the code below per step.
  QUANT_HD void shift() {
    warp_.each([](uint32_t, Lane& lane) {
      QUANT_UNROLL
      for (uint32_t d = 0; d + 1 < Config::kDepth; ++d) lane.held[d] = lane.held[d + 1];
    });
  }

  QUANT_HD void load_inputs(uint32_t step, uint32_t block) {
    warp_.each([&](uint32_t place, Lane& lane) {
      QUANT_UNROLL
      for (uint32_t n = 0; n < Config::kTiles; ++n) {
        const uint32_t column = 8 * n + place / 4;
        QUANT_UNROLL
        for (uint32_t i = 0; i < Op::kInputWords; ++i) lane.b[n][i] = 0;
        if (column >= place_.columns) continue;
        const uint64_t start = static_cast<uint64_t>(step) * kStepColumns + 2 * kRun * block;
        Op::template load_inputs<Config::kTiles == 1>(lane.b[n], p_.inputs, place_.token, column, start, place % 4);
      }
    });
  }

  QUANT_HD void clear_parts() {
    warp_.each([](uint32_t, Lane& lane) {
      QUANT_UNROLL
      for (uint32_t i = 0; i < Config::kStrips * Config::kTiles * 4; ++i) {
        lane.part[i / 4 / Config::kTiles][i / 4 % Config::kTiles][i % 4] = 0;
      }
    });
  }

  // Sums of a group are multiplied by its scales.
  QUANT_HD void add_parts(uint32_t step, uint32_t run) {
    warp_.each([&](uint32_t place, Lane& lane) {
      QUANT_UNROLL
      for (uint32_t i = 0; i < Config::kStrips * Config::kTiles * 4; ++i) {
        const uint32_t s = i / 4 / Config::kTiles, n = i / 4 % Config::kTiles, half = i % 4 / 2;
        const uint32_t column = 8 * n + 2 * (place % 4) + i % 2;
        if (Op::kRuns == 2 && column >= place_.columns) continue;  // tokens that are not there have no scales
        lane.sums[s][n][i % 4] +=
            Op::scaled(lane.part[s][n][i % 4], lane.held[0].scales[s][half], lane.held[0].strip[s], half, p_.inputs,
                       place_.token + column, step * kStepRuns + run);
      }
    });
  }

  // Run 0 or 1 of the block.
  QUANT_HD void multiply(uint32_t run) {
    QUANT_UNROLL
    for (uint32_t s = 0; s < Config::kStrips; ++s) {
      warp_.each([&](uint32_t, Lane& lane) {
        Op::decode(lane.a, lane.held[0].words[s], run, lane.held[0].strip[s], lane.shared);
      });
      QUANT_UNROLL
      for (uint32_t n = 0; n < Config::kTiles; ++n) {
        warp_.multiply([&](Lane& lane) {
          return typename Op::Mma{lane.part[s][n], lane.a, Op::input_of(lane.b[n], run)};
        });
      }
    }
  }

  // The words of the next block of two runs come first, in a circle.
  QUANT_HD void rotate() {
    warp_.each([](uint32_t, Lane& lane) {
      constexpr uint32_t kBlockWords = Config::kWords / kStepBlocks;
      QUANT_UNROLL
      for (uint32_t s = 0; s < Config::kStrips; ++s) {
        uint32_t first[kBlockWords];
        QUANT_UNROLL
        for (uint32_t i = 0; i < kBlockWords; ++i) first[i] = lane.held[0].words[s][i];
        QUANT_UNROLL
        for (uint32_t i = 0; i + kBlockWords < Config::kWords; ++i) {
          lane.held[0].words[s][i] = lane.held[0].words[s][i + kBlockWords];
        }
        QUANT_UNROLL
        for (uint32_t i = 0; i < kBlockWords; ++i) {
          lane.held[0].words[s][Config::kWords - kBlockWords + i] = first[i];
        }
      }
    });
  }

  QUANT_HD void compute_block(uint32_t step, uint32_t block) {
    load_inputs(step, block);
    QUANT_UNROLL
    for (uint32_t at = 0; at < 2; at += Op::kRuns) {
      const uint32_t run = 2 * block + at;
      if (run > 0 && run % m_.group_runs == 0) {
        warp_.each([&](uint32_t place, Lane& lane) { load_group(lane, place, step, 0, run); });
      }
      multiply(at);
      if ((run + Op::kRuns) % m_.group_runs != 0) continue;
      add_parts(step, run);
      clear_parts();
    }
    rotate();
  }

  QUANT_HD void compute(uint32_t step) {
    for (uint32_t plane = 0; plane < m_.planes; ++plane) {
      warp_.each([&](uint32_t, Lane& lane) { Op::start(lane.shared, m_, plane); });
      clear_parts();
      QUANT_UNROLL_BY((Config::kUnroll))
      for (uint32_t block = 0; block < kStepBlocks; ++block) compute_block(step, block);
      // A table in several planes reads the first group's scales again.
      if (m_.planes > 1 && m_.group_runs < kStepRuns) {
        warp_.each([&](uint32_t place, Lane& lane) { load_group(lane, place, step, 0, 0); });
      }
    }
  }

  Warp& warp_;
  const TileProduct& p_;
  const TileMatrix& m_;
  const TilePlace& place_;
};

// ---- what a block does

/// Tokens of one block.
template <class Config>
QUANT_HD uint32_t tokens_of_tile(const TileInputs& in) {
  return 8 * Config::kTiles / in.parts;
}

/// Block `index` of tile_blocks; blocks with the same weights come one after another.
template <class Config>
QUANT_HD TilePlace tile_place(const TileProduct& p, uint64_t index, uint32_t split) {
  const uint32_t width = tokens_of_tile<Config>(p.inputs);
  const uint64_t count = (p.inputs.tokens + width - 1) / width;
  TilePlace place{};
  place.strip = static_cast<uint32_t>(index / count) * Config::kStrips;
  place.split = split;
  place.token = index % count * width;
  place.tokens = static_cast<uint32_t>(p.inputs.tokens - place.token < width ? p.inputs.tokens - place.token : width);
  place.columns = place.tokens * p.inputs.parts;
  return place;
}

template <class Config>
uint64_t tile_blocks(const TileProduct& p) {
  const uint32_t width = tokens_of_tile<Config>(p.inputs);
  return (p.matrix.strips + Config::kStrips - 1) / Config::kStrips * ((p.inputs.tokens + width - 1) / width);
}

/// Sums of all warps for one strip, [kTileWarps][16 rows][columns].
template <class Config>
struct TileShared {
  static constexpr uint32_t kColumns = 8 * Config::kTiles;
  static constexpr uint32_t kPitch = kColumns + 2;  // other banks for other rows
  float sums[kTileWarps][kStripRows][kPitch];
};

template <class Config>
QUANT_HD void store_sums(TileShared<Config>& shared, const TileLane<Config>& lane, uint32_t warp, uint32_t place,
                         uint32_t s) {
  QUANT_UNROLL
  for (uint32_t i = 0; i < Config::kTiles * 4; ++i) {
    const uint32_t row = place / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + 2 * (place % 4) + i % 2;
    shared.sums[warp][row][column] = lane.sums[s][i / 4][i % 4];
  }
}

/// What thread `thread` of a block does with the sums of strip `s`.
template <class Config>
QUANT_HD void write_sums(const TileShared<Config>& shared, const TileProduct& p, const TilePlace& place, uint32_t s,
                         uint32_t thread) {
  for (uint32_t i = thread; i < kStripRows * place.tokens; i += kTileThreads) {
    const uint32_t in_strip = i % kStripRows, token = i / kStripRows;
    const uint64_t row = static_cast<uint64_t>(place.strip + s) * kStripRows + in_strip;
    if (row >= p.matrix.rows) continue;
    float sum = 0.0F;
    for (uint32_t part = 0; part < p.inputs.parts; ++part) {
      QUANT_UNROLL
      for (uint32_t warp = 0; warp < kTileWarps; ++warp) {
        sum += shared.sums[warp][in_strip][token * p.inputs.parts + part];
      }
    }
    const uint64_t tokens = p.inputs.tokens, at = (place.token + token) * p.matrix.rows + row;
    if (p.parts != nullptr) {
      p.parts[place.split * tokens * p.matrix.rows + at] = sum;
    } else {
      p.y[at] = p.bias == nullptr ? sum * p.factor : sum * p.factor + p.bias[row];
    }
  }
}

}  // namespace quant::cuda
