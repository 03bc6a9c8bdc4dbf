// Token texts and ids of a model.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "tokenizer/json_part.h"

namespace quant::tok {

struct TextHash {
  std::size_t operator()(std::string_view text) const;
};

class Vocabulary {
 public:
  /// Reads {"token": id, ...}.
  explicit Vocabulary(const JsonPart& part);

  std::size_t size() const { return ids_.size(); }  ///< number of tokens
  std::int32_t end_id() const { return end_id_; }   ///< one more than the largest id
  /// -1 if there is no such token.
  std::int32_t id(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? -1 : found->second;
  }
  std::optional<std::string_view> text(std::int32_t id) const;
  bool unique_ids() const { return texts_.size() == ids_.size(); }  ///< no two tokens share an id
  std::size_t longest() const { return longest_; }                  ///< bytes
  const std::unordered_map<std::string_view, std::int32_t, TextHash>& tokens() const { return ids_; }

 private:
  std::deque<std::string> storage_;
  std::unordered_map<std::string_view, std::int32_t, TextHash> ids_;
  std::unordered_map<std::int32_t, std::string_view> texts_;
  std::size_t longest_ = 0;
  std::int32_t end_id_ = 0;
};

}  // namespace quant::tok
