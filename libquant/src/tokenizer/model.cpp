#include "tokenizer/model.h"

#include <algorithm>
#include <cstring>

namespace quant::tok {

const WordCache::Slot* WordCache::find(std::string_view word, std::uint64_t hash) const {
  if (slots_.empty()) return nullptr;
  const Slot& slot = slots_[hash % kSlots];
  const bool same = slot.hash == hash && slot.length == word.size() && slot.length > 0 &&
                    std::memcmp(slot.word.data(), word.data(), word.size()) == 0;
  return same ? &slot : nullptr;
}

void WordCache::put(std::string_view word, std::uint64_t hash, const std::int32_t* ids, std::size_t count) {
  if (word.empty() || word.size() > kLongestWord || count > kMostIds) return;
  if (slots_.empty()) slots_.resize(kSlots);
  Slot& slot = slots_[hash % kSlots];
  slot.hash = hash;
  slot.length = static_cast<std::uint8_t>(word.size());
  slot.count = static_cast<std::uint8_t>(count);
  std::copy(word.begin(), word.end(), slot.word.begin());
  std::copy(ids, ids + count, slot.ids.begin());
}

namespace {

// Old files leave the type out; then the members tell.
std::string model_type(const JsonPart& part) {
  if (part.has("type")) return part.type();
  if (part.has("merges")) return "BPE";
  if (part.has("max_input_chars_per_word")) return "WordPiece";
  return part.has("vocab") && part.at("vocab").value().is_array() ? "Unigram" : "WordLevel";
}

}  // namespace

std::unique_ptr<Model> read_model(const JsonPart& part) {
  const std::string type = model_type(part);
  if (type == "BPE") return read_bpe(part);
  if (type == "WordPiece") return read_word_piece(part);
  if (type == "WordLevel") return read_word_level(part);
  part.unsupported("the model " + shown(type));
}

}  // namespace quant::tok
