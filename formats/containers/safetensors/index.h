// model.safetensors.index.json: which shard holds which tensor. A pure function on text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quant::safetensors {

/// Largest index file that is read.
inline constexpr std::uint64_t kMaxIndexBytes = 100'000'000;

struct ShardIndex {
  std::vector<std::string> shards;                             ///< plain file names, sorted, each once
  std::vector<std::pair<std::string, std::uint32_t>> weights;  ///< tensor and number of its shard, sorted by tensor
};

/// Reads an index. Members other than "weight_map" are ignored ("metadata" and its total_size are often wrong and
/// decide nothing). Throws Error{corrupt_file} of kind InvalidIndex (not JSON, wrong types, nesting deeper than 64, no
/// tensor), DuplicateKey, or InvalidShardName for a file name that is not a plain "*.safetensors". `file` is for
/// messages.
ShardIndex parse_index(std::string_view text, std::string_view file);

}  // namespace quant::safetensors
