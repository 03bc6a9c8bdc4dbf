#include "forward/kv_cache.h"

#include <algorithm>

#include "forward/row_quantizer.h"
#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant {
namespace forward {
namespace {

using Scale = KvQuantizer::Scale;
using linalg::for_tasks;
using linalg::pieces;

constexpr std::uint64_t kTokens = 32;   // of a task
constexpr std::uint64_t kColumns = 64;  // of a task

struct Side {
  Scale scale;
  float fixed;
};

Side side_of(const KvQuantizer& q, KvSide side) {
  return side == KvSide::keys ? Side{q.keys, q.key_scale} : Side{q.values, q.value_scale};
}

ScaleRules rules_of(const KvQuantizer& q) {
  QuantArgs args;
  args.num_bits = q.bits;
  args.type = q.type;
  args.symmetric = q.symmetric || q.type == NumberType::floating;
  return activation_rules(args, 1.0F);
}

// Tokens [first, end) of rows of `width`, every token alone.
void quantize_tokens(const KvQuantizer& q, const Side& side, float* rows, std::uint64_t first, std::uint64_t end,
                     std::uint64_t width, std::uint64_t heads, int threads) {
  const ScaleRules rules = rules_of(q);
  const std::uint64_t head = width / heads, group = q.group == 0 ? head : q.group;
  for_tasks(threads, pieces(end - first, kTokens), [&](std::size_t task) {
    RowQuantizer quantizer(rules);
    for (std::uint64_t t = first + task * kTokens; t < std::min(end, first + (task + 1) * kTokens); ++t) {
      float* row = rows + t * width;
      if (side.scale == Scale::tensor && side.fixed != 0.0F) {
        quantizer.fixed({row, width}, side.fixed, 0.0F);
      } else if (side.scale == Scale::tensor) {
        quantizer.dynamic({row, width}, width);
      } else {
        for (std::uint64_t h = 0; h < heads; ++h) quantizer.dynamic({row + h * head, head}, group);
      }
    }
  });
}

// Tokens [first, end), whole groups, every column alone: columns are brought together, and put back.
void quantize_channels(const KvQuantizer& q, float* rows, std::uint64_t first, std::uint64_t end, std::uint64_t width,
                       int threads) {
  const ScaleRules rules = rules_of(q);
  const std::uint64_t tokens = end - first;
  for_tasks(threads, pieces(width, kColumns), [&](std::size_t task) {
    RowQuantizer quantizer(rules);
    std::vector<float> column(tokens);
    for (std::uint64_t c = task * kColumns; c < std::min(width, (task + 1) * kColumns); ++c) {
      for (std::uint64_t t = 0; t < tokens; ++t) column[t] = rows[(first + t) * width + c];
      quantizer.dynamic(column, q.group);
      for (std::uint64_t t = 0; t < tokens; ++t) rows[(first + t) * width + c] = column[t];
    }
  });
}

}  // namespace

void check_kv_quantizer(const KvQuantizer& q) {
  const bool integer = q.type == NumberType::integer;
  if (integer ? q.bits < 1 || q.bits > 8 : q.bits != 8 && q.bits != 4) {
    throw Error(ErrorCode::usage, "a cache of keys and values in " + std::to_string(q.bits) + " bits",
                "use 1 to 8 bits for integers, 4 or 8 for floats");
  }
  if ((q.keys == Scale::channel || q.values == Scale::channel) && q.group == 0) {
    throw Error(ErrorCode::usage, "a cache with scales per channel needs a group size",
                "give the number of tokens that share a scale, such as 32");
  }
}

QuantizedPrefix quantized_prefix(const KvQuantizer& q, KvSide side) {
  return {q.residual, side_of(q, side).scale == Scale::channel ? q.group : 1};
}

void append(KvRows& to, ConstFloats rows, std::uint64_t width, std::uint64_t heads, const std::optional<KvQuantizer>& q,
            KvSide side, int threads) {
  to.plain.insert(to.plain.end(), rows.begin(), rows.end());
  if (!q) return;
  to.quantized.insert(to.quantized.end(), to.plain.begin() + static_cast<std::ptrdiff_t>(to.quantized.size()),
                      to.plain.end());
  const Side how = side_of(*q, side);
  const std::uint64_t group = quantized_prefix(*q, side).group;
  const std::uint64_t end = to.plain.size() / width / group * group;
  if (end <= to.done) return;
  if (how.scale == Scale::channel) {
    quantize_channels(*q, to.quantized.data(), to.done, end, width, threads);
  } else {
    quantize_tokens(*q, how, to.quantized.data(), to.done, end, width, heads, threads);
  }
  to.done = end;
}

std::uint64_t cached_tokens(const KvLayers& layers) {
  std::uint64_t tokens = 0;
  for (const auto& [module, layer] : layers) tokens = std::max(tokens, layer.tokens);
  return tokens;
}

}  // namespace forward

KvCache::KvCache() : state_(std::make_unique<State>()) {}
KvCache::~KvCache() = default;

std::uint64_t KvCache::length() const { return forward::cached_tokens(state_->layers); }

}  // namespace quant
