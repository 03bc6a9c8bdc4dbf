// model.safetensors.index.json and config.json, from raw text.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "../../formats/containers/safetensors/index.h"
#include "quant/checkpoint.h"
#include "quant/error.h"

namespace {

void require(bool condition) {
  if (!condition) __builtin_trap();
}

template <class Call>
void only_corrupt_file(Call call) {
  try {
    call();
  } catch (const quant::Error& error) {
    require(error.code() == quant::ErrorCode::corrupt_file && !error.kind().empty());
  }
}

void check_index(std::string_view text) {
  const quant::safetensors::ShardIndex index = quant::safetensors::parse_index(text, "fuzz");
  require(!index.weights.empty() && std::is_sorted(index.shards.begin(), index.shards.end()));
  for (const std::string& shard : index.shards) {
    require(shard.ends_with(".safetensors") && shard.find('/') == std::string::npos && shard.front() != '.');
    require(shard.find('\0') == std::string::npos && shard.find("..") == std::string::npos);
  }
  for (std::size_t i = 0; i < index.weights.size(); ++i) {
    require(index.weights[i].second < index.shards.size());
    require(i == 0 || index.weights[i - 1].first < index.weights[i].first);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  only_corrupt_file([&] { check_index(text); });
  only_corrupt_file([&] { quant::parse_model_config(std::string(text), "config.json"); });
  return 0;
}
