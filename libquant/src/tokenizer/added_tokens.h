// Tokens that are recognized in a text before the model sees it.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "tokenizer/json_part.h"
#include "tokenizer/regex.h"
#include "tokenizer/vocabulary.h"

namespace quant::tok {

struct AddedToken {
  std::string content;
  std::string text;  ///< what is looked for and what it decodes to: the content, normalized if `normalized`
  std::int32_t id = 0;
  bool single_word = false;
  bool strip_left = false;
  bool strip_right = false;
  bool normalized = false;
  bool special = false;
};

/// Finds the longest of several texts at the leftmost place.
class TextFinder {
 public:
  /// Of equal texts the first one counts. `index` is what `find` gives back.
  void add(std::string_view text, std::size_t index);

  struct Found {
    Span span;
    std::size_t index = 0;
  };
  std::optional<Found> find(std::string_view text, std::size_t from) const;

 private:
  struct Node {
    std::unordered_map<unsigned char, std::uint32_t> next;
    std::optional<std::size_t> index;
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
};

class AddedTokens {
 public:
  using Normalize = std::function<void(std::string&)>;
  /// Reads the list "added_tokens". A token of the model keeps the model's id, others are numbered as the reference
  /// does: behind the model's tokens, in order. `normalize`: applied to tokens that are looked for in normalized text.
  AddedTokens(const JsonPart& list, const Vocabulary& vocabulary, const Normalize& normalize);

  /// Part of a text: an added token, or the text between two.
  struct Section {
    Span span;
    std::int32_t id = -1;  ///< -1: text
  };
  /// Cuts at the tokens that are looked for in text as given, or in normalized text.
  void find(std::string_view text, bool normalized, std::vector<Section>& out) const;

  std::int32_t id(std::string_view token) const;   ///< -1 if there is none
  const AddedToken* token(std::int32_t id) const;  ///< null if there is none
  bool is_special(std::string_view token) const { return special_.contains(std::string(token)); }
  std::int32_t end_id() const { return end_id_; }  ///< one more than the largest id

 private:
  void add(AddedToken token, const Vocabulary& vocabulary);

  std::unordered_map<std::string, std::int32_t> ids_;
  std::unordered_map<std::int32_t, AddedToken> tokens_;
  std::unordered_set<std::string> special_;
  std::vector<AddedToken> order_;  // as in the file
  std::int32_t largest_ = -1;
  std::int32_t end_id_ = 0;
  TextFinder as_given_;
  TextFinder in_normalized_;
};

}  // namespace quant::tok
