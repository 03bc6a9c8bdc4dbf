#include "tokenizer/vocabulary.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

namespace quant::tok {

std::size_t TextHash::operator()(std::string_view text) const {
  return static_cast<std::size_t>(XXH3_64bits(text.data(), text.size()));
}

Vocabulary::Vocabulary(const JsonPart& part) {
  const nlohmann::json& tokens = part.value();
  if (!tokens.is_object()) part.corrupt(std::string("is not an object but ") + tokens.type_name());
  ids_.reserve(tokens.size());
  texts_.reserve(tokens.size());
  for (const auto& [token, id] : tokens.items()) {
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= kIdLimit) {
      part.corrupt("gives the token " + shown(token) + " no id below " + std::to_string(kIdLimit));
    }
    const auto number = id.get<std::int32_t>();
    storage_.push_back(token);
    ids_.emplace(storage_.back(), number);
    texts_[number] = storage_.back();
    end_id_ = std::max(end_id_, number + 1);
    longest_ = std::max(longest_, token.size());
  }
}

std::optional<std::string_view> Vocabulary::text(std::int32_t id) const {
  const auto found = texts_.find(id);
  return found == texts_.end() ? std::nullopt : std::optional(found->second);
}

}  // namespace quant::tok
