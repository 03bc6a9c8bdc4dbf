#include "containers/safetensors/index.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>

#include "containers/io/text.h"
#include "quant/error.h"

namespace quant::safetensors {
namespace {

using io::has_control_character;
using io::in_quotes;
using io::is_utf8;
using io::json_objection;

using Json = nlohmann::json;

constexpr std::size_t kMaxDepth = 64;
constexpr std::string_view kExtension = ".safetensors";
constexpr const char* kHint = "The index is damaged or was edited: fetch it again, or save the model again.";

[[noreturn]] void fail(const char* kind, std::string_view file, const std::string& reason) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{} is not a valid index: {}.", in_quotes(file), reason), kHint,
              kind);
}

// Names must stay in the directory by their spelling alone. A shard may be a symbolic link, as in the Hugging Face
// cache: that is the choice of whoever made the directory, not of the index.
void check_shard_name(std::string_view name, std::string_view file) {
  const bool plain = name.find_first_of("/\\") == std::string_view::npos && name.find("..") == std::string_view::npos &&
                     !has_control_character(name) && !name.starts_with('.');
  if (!plain || !name.ends_with(kExtension)) {
    fail("InvalidShardName", file,
         fmt::format("{} is no name of a shard, which is a plain file name that ends in {}", in_quotes(name),
                     kExtension));
  }
}

class IndexHandler final : public nlohmann::json_sax<Json> {
 public:
  IndexHandler(ShardIndex& out, std::string_view file) : out_(out), file_(file) {}

  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t) override { return scalar("a number"); }
  bool number_unsigned(number_unsigned_t) override { return scalar("a number"); }
  bool number_float(number_float_t, const string_t&) override { return scalar("a number"); }
  bool binary(binary_t&) override { return scalar("binary data"); }
  bool string(string_t& value) override;
  bool start_object(std::size_t) override;
  bool key(string_t& name) override;
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override {
    if (depth_ == 0 || place_ != Place::elsewhere) fail_type("an array");
    return enter();
  }
  bool end_array() override { return leave(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("InvalidIndex", file_, fmt::format("it is not valid JSON at byte {}", position));
  }

  bool has_weight_map() const { return seen_; }

 private:
  enum class Place { elsewhere, weight_map_value, weight_map };

  [[noreturn]] void fail_type(const char* found) const {
    const bool inside = place_ == Place::weight_map && !out_.weights.empty();
    fail("InvalidIndex", file_,
         inside ? fmt::format("the shard of tensor {} is {} instead of a string", in_quotes(out_.weights.back().first),
                              found)
                : fmt::format("{} is {} instead of an object", depth_ == 0 ? "the whole" : "'weight_map'", found));
  }
  bool scalar(const char* found) {
    if (depth_ == 0 || place_ != Place::elsewhere) fail_type(found);
    return true;
  }
  bool enter() {
    if (++depth_ > kMaxDepth) fail("InvalidIndex", file_, fmt::format("it is nested deeper than {} levels", kMaxDepth));
    return true;
  }
  bool leave() {
    --depth_;
    if (place_ == Place::weight_map) place_ = Place::elsewhere;
    return true;
  }

  ShardIndex& out_;
  std::string_view file_;
  std::map<std::string, std::uint32_t, std::less<>> shard_numbers_;
  std::size_t depth_ = 0;
  Place place_ = Place::elsewhere;
  bool seen_ = false;
};

bool IndexHandler::string(string_t& value) {
  if (place_ != Place::weight_map) return scalar("a string");
  auto found = shard_numbers_.find(value);
  if (found == shard_numbers_.end()) {
    check_shard_name(value, file_);
    found = shard_numbers_.emplace(value, static_cast<std::uint32_t>(out_.shards.size())).first;
    out_.shards.push_back(std::move(value));
  }
  out_.weights.back().second = found->second;
  return true;
}

bool IndexHandler::start_object(std::size_t) {
  if (place_ == Place::weight_map) fail_type("an object");
  if (place_ == Place::weight_map_value) place_ = Place::weight_map;
  return enter();
}

bool IndexHandler::key(string_t& name) {
  if (place_ == Place::weight_map) {
    out_.weights.emplace_back(std::move(name), 0);
  } else if (depth_ == 1 && name == "weight_map") {
    if (seen_) fail("DuplicateKey", file_, "'weight_map' is there twice");
    seen_ = true;
    place_ = Place::weight_map_value;
  }
  return true;
}

// Shards were numbered as they came; number them by name, so that the order of files does not depend on the text.
void sort_shards(ShardIndex& index) {
  const std::vector<std::string> as_found = index.shards;
  std::sort(index.shards.begin(), index.shards.end());
  std::vector<std::uint32_t> number(as_found.size());
  for (std::size_t i = 0; i < as_found.size(); ++i) {
    const auto at = std::lower_bound(index.shards.begin(), index.shards.end(), as_found[i]);
    number[i] = static_cast<std::uint32_t>(at - index.shards.begin());
  }
  for (auto& [tensor, shard] : index.weights) shard = number[shard];
}

}  // namespace

ShardIndex parse_index(std::string_view text, std::string_view file) {
  if (text.size() > kMaxIndexBytes) {
    fail("InvalidIndex", file, fmt::format("it has {} bytes, the limit is {}", text.size(), kMaxIndexBytes));
  }
  if (!is_utf8(text)) fail("InvalidIndex", file, "it is not UTF-8");
  if (const auto objection = json_objection(text)) fail("InvalidIndex", file, *objection);
  ShardIndex index;
  IndexHandler handler(index, file);
  Json::sax_parse(text.data(), text.data() + text.size(), &handler);
  if (!handler.has_weight_map()) fail("InvalidIndex", file, "it has no 'weight_map'");
  if (index.weights.empty()) fail("InvalidIndex", file, "its 'weight_map' lists no tensor");
  sort_shards(index);
  std::sort(index.weights.begin(), index.weights.end());
  const auto same = std::adjacent_find(index.weights.begin(), index.weights.end(),
                                       [](const auto& a, const auto& b) { return a.first == b.first; });
  if (same != index.weights.end()) {
    fail("DuplicateKey", file, fmt::format("it lists the tensor {} twice", in_quotes(same->first)));
  }
  return index;
}

}  // namespace quant::safetensors
