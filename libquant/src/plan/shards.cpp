#include "plan/shards.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <numeric>

#include "output/model_files.h"

namespace quant::plan_detail {
namespace {

struct Item {
  std::string_view name;
  PlannedItem planned;
  std::vector<StoredTensor> tensors;
  std::uint64_t bytes;
};

std::vector<Item> items_in_model_order(const Plan& plan) {
  std::vector<Item> items;
  for (std::size_t i = 0; i < plan.linears.size(); ++i) {
    const PlannedLinear& linear = plan.linears[i];
    items.push_back({linear.weight->name, {true, false, i, {}}, linear.stored, linear.stored_bytes});
  }
  for (std::size_t i = 0; i < plan.copies.size(); ++i) {
    const TensorInfo* tensor = plan.copies[i].tensor;
    if (tensor == nullptr) continue;
    items.push_back(
        {tensor->name, {false, false, i, {}}, {{tensor->name, tensor->dtype, tensor->shape}}, tensor->bytes});
  }
  for (std::size_t i = 0; i < plan.caches.size(); ++i) {
    const std::vector<StoredTensor>& stored = plan.caches[i].stored;
    items.push_back(
        {stored.front().name, {false, true, i, {}}, stored, stored.front().bytes() + stored.back().bytes()});
  }
  std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return natural_less(a.name, b.name); });
  return items;
}

void place_tensors(PlannedShard& shard, std::vector<std::vector<StoredTensor>>& per_item) {
  struct Place {
    std::size_t item;
    std::size_t tensor;
  };
  std::vector<Place> order;
  for (std::size_t i = 0; i < per_item.size(); ++i) {
    shard.items[i].places.resize(per_item[i].size());
    for (std::size_t t = 0; t < per_item[i].size(); ++t) order.push_back({i, t});
  }
  std::sort(order.begin(), order.end(), [&](const Place& a, const Place& b) {
    return stored_before(per_item[a.item][a.tensor], per_item[b.item][b.tensor]);
  });
  for (std::size_t place = 0; place < order.size(); ++place) {
    shard.items[order[place].item].places[order[place].tensor] = place;
    shard.tensors.push_back(per_item[order[place].item][order[place].tensor]);
  }
}

std::vector<PlannedShard> split(const std::vector<Item>& items, std::uint64_t limit) {
  std::vector<PlannedShard> shards;
  std::vector<std::vector<StoredTensor>> pending;
  std::uint64_t bytes = 0;
  const auto flush = [&] {
    if (!pending.empty()) place_tensors(shards.back(), pending);
    pending.clear();
    bytes = 0;
  };
  for (const Item& item : items) {
    if (shards.empty() || (bytes > 0 && bytes + item.bytes > limit)) {
      flush();
      shards.emplace_back();
    }
    shards.back().items.push_back(item.planned);
    pending.push_back(item.tensors);
    bytes += item.bytes;
  }
  flush();
  return shards;
}

std::vector<std::pair<std::string, std::string>> merged_metadata(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> all;
  for (const CheckpointFile& file : checkpoint.files()) {
    for (const auto& [key, value] : file.metadata) all.emplace(key, value);
  }
  all["format"] = "pt";  // loaders refuse files that do not say so
  return {all.begin(), all.end()};
}

std::string index_of(const Plan& plan) {
  std::map<std::string, std::string> file_of_tensor;
  for (const PlannedShard& shard : plan.shards) {
    for (const StoredTensor& tensor : shard.tensors) file_of_tensor[tensor.name] = shard.file;
  }
  return index_text(file_of_tensor, plan.bytes_after);
}

// False if two tensors have one name, which is a problem then.
bool check_names(Plan& plan) {
  bool distinct = true;
  std::map<std::string_view, int> seen;
  for (const PlannedShard& shard : plan.shards) {
    for (const StoredTensor& tensor : shard.tensors) {
      if (++seen[tensor.name] != 2) continue;
      plan.problems.push_back("two output tensors would be named '" + tensor.name +
                              "': the quantized weight beside it needs this name; put that module on the ignore list");
      distinct = false;
    }
  }
  return distinct;
}

/// Whether loaders look at a file that lies beside the weights: tokenizer, configuration, code; not what people read.
bool is_loaded(const std::filesystem::path& companion) {
  const std::string extension = companion.extension().string();
  for (const char* needed : {".json", ".model", ".jinja", ".py", ".spm", ".tiktoken", ".bpe"}) {
    if (extension == needed) return true;
  }
  const std::string name = companion.filename().string();
  for (const char* needed : {"tokenizer", "vocab", "merges", "special_tokens", "chat_template"}) {
    if (name.starts_with(needed)) return true;
  }
  return false;
}

}  // namespace

void lay_out_shards(Plan& plan, const Container& container) {
  plan.metadata = merged_metadata(*plan.checkpoint);
  plan.shards = split(items_in_model_order(plan), std::max<std::uint64_t>(plan.options.shard_bytes, 1));
  if (!check_names(plan)) {  // the container would refuse it, in words about its caller
    plan.shards.clear();
    return;
  }
  const std::size_t count = plan.shards.size();
  for (std::size_t i = 0; i < count; ++i) {
    PlannedShard& shard = plan.shards[i];
    shard.file = shard_file_name(i, count, container.extension());
    shard.file_bytes = container.file_bytes(shard.tensors, plan.metadata);
    plan.output_bytes += shard.file_bytes;
    for (const StoredTensor& tensor : shard.tensors) plan.bytes_after += tensor.bytes();
  }
  if (count > 1) plan.index_json = index_of(plan);
  plan.output_bytes += plan.index_json.size() + plan.config_json.size();
  plan.loading_bytes = plan.output_bytes;
  for (const auto& companion : plan.checkpoint->companions()) {
    std::error_code failed;
    const auto size = std::filesystem::file_size(companion, failed);
    if (failed) continue;
    plan.output_bytes += size;
    if (is_loaded(companion)) plan.loading_bytes += size;
  }
}

}  // namespace quant::plan_detail
