#include "containers/safetensors/directory.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "containers/io/file_io.h"
#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::safetensors {
namespace {

namespace fs = std::filesystem;
using io::fail_io;
using io::in_quotes;
using io::read_text_file;

constexpr std::string_view kWhole = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kExtension = ".safetensors";
constexpr std::size_t kMaxListed = 12;

// Names in the directory, sorted; hidden files are nobody's weights.
std::vector<std::string> visible_names(const fs::path& directory) {
  std::error_code error;
  std::vector<std::string> names;
  fs::directory_iterator at(directory, error);
  for (; !error && at != fs::directory_iterator(); at.increment(error)) {
    std::string name = at->path().filename().string();
    if (!name.starts_with('.')) names.push_back(std::move(name));
  }
  if (error) fail_io("list", directory, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

std::string listing(const std::vector<std::string>& names) {
  std::string text;
  for (std::size_t i = 0; i < std::min(names.size(), kMaxListed); ++i) {
    text += (i == 0 ? "" : ", ") + in_quotes(names[i]);
  }
  if (names.size() > kMaxListed) text += fmt::format(" and {} more", names.size() - kMaxListed);
  return text;
}

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::binary_search(names.begin(), names.end(), name);
}

// The number of shards in "...-00001-of-00003.safetensors"; 1 for other names.
unsigned long shards_in_name(std::string_view name) {
  name.remove_suffix(kExtension.size());
  const std::size_t digits = name.find_last_not_of("0123456789") + 1;
  if (digits < 4 || name.substr(digits - 4, 4) != "-of-" || digits == name.size() || name.size() - digits > 9) return 1;
  return std::stoul(std::string(name.substr(digits)));
}

[[noreturn]] void fail_no_weights(const fs::path& directory, const std::vector<std::string>& names) {
  throw Error(ErrorCode::io,
              fmt::format("{} has no *.safetensors file; there is {}.", in_quotes(directory.string()),
                          names.empty() ? "nothing in it" : listing(names)),
              "Give the directory of a model saved as safetensors; .bin, .pt and .gguf files are not read.",
              "NoWeights");
}

WeightFiles indexed_weights(const fs::path& directory, const std::vector<std::string>& names) {
  WeightFiles result;
  result.index_path = directory / kIndex;
  result.index =
      parse_index(read_text_file(result.index_path, kMaxIndexBytes, "InvalidIndex"), result.index_path.string());
  const std::vector<std::string>& shards = result.index->shards;
  std::vector<std::string> missing;
  std::set_difference(shards.begin(), shards.end(), names.begin(), names.end(), std::back_inserter(missing));
  if (!missing.empty()) {
    throw Error(ErrorCode::io,
                fmt::format("{} of the {} shards that {} lists are missing: {}.", missing.size(), shards.size(),
                            in_quotes(result.index_path.string()), listing(missing)),
                "Fetch the missing files.", "MissingShard");
  }
  if (contains(names, kWhole) && !contains(shards, kWhole)) {
    throw Error(
        ErrorCode::corrupt_file,
        fmt::format("{} has both {} and an index of other shards.", in_quotes(directory.string()), in_quotes(kWhole)),
        "Remove the one that is out of date, or give a single file.", "AmbiguousWeights");
  }
  for (const std::string& shard : shards) result.files.push_back(directory / shard);
  return result;
}

}  // namespace

WeightFiles find_weights(const fs::path& directory) {
  const std::vector<std::string> names = visible_names(directory);
  if (contains(names, kIndex)) return indexed_weights(directory, names);
  if (contains(names, kWhole)) return {{directory / kWhole}, std::nullopt, {}};

  std::vector<std::string> weights;
  std::copy_if(names.begin(), names.end(), std::back_inserter(weights),
               [](const std::string& name) { return name.ends_with(kExtension); });
  if (weights.empty()) fail_no_weights(directory, names);
  if (weights.size() > 1 || shards_in_name(weights.front()) > 1) {
    throw Error(ErrorCode::io,
                fmt::format("{} has no {} that says how its files belong together: {}.", in_quotes(directory.string()),
                            in_quotes(kIndex), listing(weights)),
                "Fetch the index and all shards, or give a single file.", "MissingIndex");
  }
  return {{directory / weights.front()}, std::nullopt, {}};
}

}  // namespace quant::safetensors
