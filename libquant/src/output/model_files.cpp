#include "output/model_files.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

namespace quant {

std::string shard_file_name(std::size_t shard, std::size_t count, std::string_view extension) {
  if (count == 1) return fmt::format("model{}", extension);
  return fmt::format("model-{:05}-of-{:05}{}", shard + 1, count, extension);
}

std::string index_file_name(std::string_view extension) { return fmt::format("model{}.index.json", extension); }

std::string index_text(const std::map<std::string, std::string>& file_of_tensor, std::uint64_t total_bytes) {
  nlohmann::ordered_json index;
  index["metadata"]["total_size"] = total_bytes;
  index["weight_map"] = file_of_tensor;
  return index.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

bool belongs_to_quantization(const std::filesystem::path& file) {
  const std::string name = file.filename().string();
  for (const char* own :
       {"report.json", "report.h5", "report.html", "recipe.yaml", "quantize_config.json", "quant_config.json"}) {
    if (name == own) return true;
  }
  return false;
}

}  // namespace quant
