// Keys and values as attention reads them, plain and quantized.
//
// What a query at position t sees of a quantized cache. Of the t + 1 tokens that are there, the newest `residual` (the
// query's own among them) are float. Older ones are quantized:
//   token:   each token and head for itself, in groups of `group` columns along the head (0: the whole head);
//   tensor:  with the given static scale, or (0) one scale per token over all heads;
//   channel: each column for itself, in groups of `group` tokens that begin at multiples of `group`. A group is
//            quantized once all its tokens are older than the residual; until then they are float, as in KIVI. `group`
//            must be given: a scale over tokens that are yet to come would be seen before its time.
// A prefill sees exactly what decoding token by token would: a token is quantized once, when its turn comes, and
// queries before that read it as float.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "forward/elementwise.h"
#include "quant/forward.h"

namespace quant::forward {

/// Tokens whose keys (or values) are quantized for a query at position t: the first of the sequence.
struct QuantizedPrefix {
  std::uint64_t residual = 0;
  std::uint64_t group = 1;  ///< tokens that are quantized together

  std::uint64_t tokens(std::uint64_t t) const {
    const std::uint64_t older = t + 1 > residual ? t + 1 - residual : 0;
    return older / group * group;
  }
};

/// One of keys and values of one sequence: [tokens, heads * head_dim].
struct KvRows {
  std::vector<float> plain;
  std::vector<float> quantized;  ///< complete groups only; the rest is unspecified. Empty without quantizer
  std::uint64_t done = 0;        ///< tokens in `quantized`
};

enum class KvSide { keys, values };

/// Keys and values of one attention module.
struct KvLayer {
  KvRows keys, values;
  std::uint64_t tokens = 0;
};
using KvLayers = std::map<std::string, KvLayer>;

/// The most tokens that a module holds.
std::uint64_t cached_tokens(const KvLayers& layers);

/// Throws Error{usage} for settings that mean nothing.
void check_kv_quantizer(const KvQuantizer& quantizer);
QuantizedPrefix quantized_prefix(const KvQuantizer& quantizer, KvSide side);
/// Appends rows of `width` columns, and quantizes the tokens whose groups are complete.
void append(KvRows& to, ConstFloats rows, std::uint64_t width, std::uint64_t heads,
            const std::optional<KvQuantizer>& quantizer, KvSide side, int threads);

}  // namespace quant::forward

namespace quant {

struct KvCache::State {
  forward::KvLayers layers;  ///< by attention module
};

}  // namespace quant
