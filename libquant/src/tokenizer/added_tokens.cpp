#include "tokenizer/added_tokens.h"

#include <algorithm>

#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

constexpr std::size_t kLongestToken = 1024;  // bytes; looking for a token costs its length at every place

AddedToken read_token(const JsonPart& part) {
  AddedToken token;
  token.content = part.text("content");
  token.special = part.flag_or("special", false);
  token.single_word = part.flag_or("single_word", false);
  token.strip_left = part.flag_or("lstrip", false);
  token.strip_right = part.flag_or("rstrip", false);
  token.normalized = part.flag_or("normalized", !token.special);
  if (token.content.size() > kLongestToken) part.unsupported("added tokens of more than 1024 bytes");
  return token;
}

std::size_t character_before(std::string_view text, std::size_t at) {
  do --at;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80);
  return at;
}

bool word_ends_at(std::string_view text, std::size_t at) {
  if (at == 0) return false;
  std::size_t before = character_before(text, at);
  return is_word(next_code_point(text, before));
}

bool word_begins_at(std::string_view text, std::size_t at) {
  return at < text.size() && is_word(next_code_point(text, at));
}

std::size_t before_spaces(std::string_view text, std::size_t at) {
  while (at > 0) {
    const std::size_t before = character_before(text, at);
    std::size_t next = before;
    if (!is_white_space(next_code_point(text, next))) break;
    at = before;
  }
  return at;
}

std::size_t behind_spaces(std::string_view text, std::size_t at) {
  while (at < text.size()) {
    std::size_t next = at;
    if (!is_white_space(next_code_point(text, next))) break;
    at = next;
  }
  return at;
}

}  // namespace

void TextFinder::add(std::string_view text, std::size_t index) {
  if (text.empty()) return;
  std::uint32_t node = 0;
  for (const char c : text) {
    const auto next = static_cast<std::uint32_t>(nodes_.size());
    const auto [place, is_new] = nodes_[node].next.try_emplace(static_cast<unsigned char>(c), next);
    node = place->second;
    if (is_new) nodes_.emplace_back();
  }
  if (!nodes_[node].index) nodes_[node].index = index;
}

std::optional<TextFinder::Found> TextFinder::find(std::string_view text, std::size_t from) const {
  if (nodes_.size() == 1) return std::nullopt;
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    std::optional<Found> longest;
    std::uint32_t node = 0;
    for (std::size_t at = begin; at < text.size(); ++at) {
      const auto next = nodes_[node].next.find(static_cast<unsigned char>(text[at]));
      if (next == nodes_[node].next.end()) break;
      node = next->second;
      if (nodes_[node].index) longest = Found{{begin, at + 1}, *nodes_[node].index};
    }
    if (longest) return longest;
  }
  return std::nullopt;
}

AddedTokens::AddedTokens(const JsonPart& list, const Vocabulary& vocabulary, const Normalize& normalize) {
  std::vector<AddedToken> read;
  for (const JsonPart& part : list.elements()) read.push_back(read_token(part));
  for (AddedToken& token : read) {
    token.text = token.content;
    if (token.normalized) normalize(token.text);
    if (token.special) special_.insert(token.content);
    if (!token.content.empty()) add(std::move(token), vocabulary);
  }
  end_id_ = vocabulary.end_id();
  for (const auto& [id, token] : tokens_) end_id_ = std::max(end_id_, id + 1);
  for (std::size_t i = 0; i < order_.size(); ++i) {
    (order_[i].normalized ? in_normalized_ : as_given_).add(order_[i].text, i);
  }
}

void AddedTokens::add(AddedToken token, const Vocabulary& vocabulary) {
  token.id = id(token.content);
  if (token.id < 0) token.id = vocabulary.id(token.content);
  if (token.id < 0) {
    // Behind the model's tokens by number, or behind the added one with the largest id.
    const auto model_size = static_cast<std::int32_t>(vocabulary.size());
    token.id = largest_ >= model_size || model_size == 0 ? largest_ + 1 : model_size;
  }
  largest_ = std::max(largest_, token.id);
  ids_[token.content] = token.id;
  tokens_[token.id] = token;
  order_.push_back(std::move(token));
}

void AddedTokens::find(std::string_view text, bool normalized, std::vector<Section>& out) const {
  const TextFinder& finder = normalized ? in_normalized_ : as_given_;
  out.clear();
  std::size_t covered = 0;
  std::size_t from = 0;
  while (const auto found = finder.find(text, from)) {
    from = found->span.end;
    Span span = found->span;
    const AddedToken& token = tokens_.at(order_[found->index].id);
    if (token.single_word && (word_ends_at(text, span.begin) || word_begins_at(text, span.end))) continue;
    if (token.strip_left) span.begin = std::max(before_spaces(text, span.begin), covered);
    if (token.strip_right) span.end = behind_spaces(text, span.end);
    if (covered < span.begin) out.push_back({{covered, span.begin}, -1});
    // White space that belongs to the token before is no token again.
    if (span.begin < span.end) out.push_back({span, token.id});
    covered = span.end;
  }
  if (covered < text.size()) out.push_back({{covered, text.size()}, -1});
}

std::int32_t AddedTokens::id(std::string_view token) const {
  const auto found = ids_.find(std::string(token));
  return found == ids_.end() ? -1 : found->second;
}

const AddedToken* AddedTokens::token(std::int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second;
}

}  // namespace quant::tok
