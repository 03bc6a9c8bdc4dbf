// Byte-pair encoding: of bytes (as characters) and of characters with a fall back to bytes.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "tokenizer/model.h"
#include "tokenizer/pair_map.h"

namespace quant::tok {

class Bpe final : public Model {
 public:
  explicit Bpe(const JsonPart& part);

  const Vocabulary& vocabulary() const override { return vocabulary_; }
  void encode(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const override;

 private:
  void read_merges(const JsonPart& part);
  void add_merge(const JsonPart& part, std::uint32_t rank, const std::string& a, const std::string& b);
  void read_characters();
  void find_inner_pairs();

  std::int32_t character_id(char32_t c) const;
  std::int32_t unknown_id() const;
  void encode_cached(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;
  void encode_long(std::string_view piece, Scratch& scratch, std::vector<std::int32_t>& ids) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;
  bool separable(char32_t before, char32_t after) const;
  void first_symbols(std::string_view word, std::vector<std::int32_t>& symbols) const;
  bool append_bytes(std::string_view text, std::vector<std::int32_t>& symbols) const;
  void merge_few(Scratch& scratch, std::vector<std::int32_t>& ids) const;
  void merge_many(Scratch& scratch, std::vector<std::int32_t>& ids) const;

  Vocabulary vocabulary_;
  std::string place_;
  std::optional<std::string> unknown_token_;
  std::string prefix_;  // of every character but a word's first
  std::string suffix_;  // of a word's last character
  bool fuse_unknown_;
  bool byte_fallback_;
  bool ignore_merges_;
  std::int32_t unknown_ = -1;

  struct Merge {
    std::int32_t a;
    std::int32_t b;
    std::uint32_t rank;
    std::int32_t result;
  };
  std::vector<Merge> read_;                   // while reading
  PairMap merges_;                            // pair of ids -> rank and id of the result
  std::vector<std::int32_t> characters_;      // ids of one-character tokens below kTableEnd
  std::array<std::int32_t, 256> byte_ids_{};  // ids of <0x00> ... <0xFF>
  bool all_bytes_ = false;
  bool separates_ = false;  // inner_ is valid
  PairMap inner_;           // pairs of characters that some merge joins
};

}  // namespace quant::tok
