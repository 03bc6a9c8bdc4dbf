// From a word to token ids.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "tokenizer/json_part.h"
#include "tokenizer/regex.h"
#include "tokenizer/vocabulary.h"

namespace quant::tok {

/// Remembers the ids of short words; a new word takes the place of the old one in its slot.
class WordCache {
 public:
  static constexpr std::size_t kLongestWord = 32;  // bytes
  static constexpr std::size_t kMostIds = 7;

  /// The ids of `word`, or null. Words longer than kLongestWord are never here.
  struct Slot {
    std::uint64_t hash = 0;
    std::array<std::int32_t, kMostIds> ids{};
    std::array<char, kLongestWord> word{};
    std::uint8_t length = 0;  // 0: free
    std::uint8_t count = 0;
  };
  const Slot* find(std::string_view word, std::uint64_t hash) const;
  void put(std::string_view word, std::uint64_t hash, const std::int32_t* ids, std::size_t count);

 private:
  static constexpr std::size_t kSlots = 1 << 15;  // 2.6 MB
  std::vector<Slot> slots_;                       // empty until the first word
};

/// What one thread works with while it encodes.
struct Scratch {
  struct Symbol {
    std::int32_t id = 0;
    std::uint32_t previous = 0;
    std::uint32_t next = 0;
    bool merged = false;  // into the symbol before it
  };
  struct Candidate {
    std::uint64_t order = 0;  // rank and place of a pair
    std::int32_t result = 0;
  };

  Matcher matcher;
  WordCache cache;
  std::vector<std::int32_t> symbols;
  std::vector<std::uint64_t> pairs;
  std::vector<Symbol> list;
  std::vector<Candidate> heap;
};

class Model {
 public:
  virtual ~Model() = default;
  /// Appends the ids of a piece of valid UTF-8, not empty.
  virtual void encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const = 0;
  virtual const Vocabulary& vocabulary() const = 0;
};

/// Throws Error{unsupported} for a type that this version does not know.
std::unique_ptr<Model> read_model(const JsonPart& part);

std::unique_ptr<Model> read_bpe(const JsonPart& part);
std::unique_ptr<Model> read_word_piece(const JsonPart& part);
std::unique_ptr<Model> read_word_level(const JsonPart& part);

}  // namespace quant::tok
