// Models that look words up: WordPiece (the longest token first, from the left) and WordLevel.
#include <algorithm>
#include <limits>

#include "quant/error.h"
#include "tokenizer/model.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

/// The token for what no token covers. It need not exist as long as nobody needs it.
class UnknownToken {
 public:
  UnknownToken(const JsonPart& part, const Vocabulary& vocabulary, const std::string& name)
      : place_(part.place()), name_(name), id_(vocabulary.id(name)) {}

  std::int32_t id() const {
    if (id_ >= 0) return id_;
    throw Error(ErrorCode::corrupt_file,
                place_ + " names the unknown token " + shown(name_) + ", which is not in its vocab",
                "Fetch tokenizer.json again.", "InvalidTokenizer");
  }

 private:
  std::string place_;
  std::string name_;
  std::int32_t id_;
};

class WordPiece final : public Model {
 public:
  explicit WordPiece(const JsonPart& part)
      : vocabulary_(part.at("vocab")),
        unknown_(part, vocabulary_, part.text_or("unk_token", "[UNK]")),
        prefix_(part.text_or("continuing_subword_prefix", "##")),
        most_characters_(part.whole_or("max_input_chars_per_word", 100)) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view piece, Scratch&, std::vector<std::int32_t>& ids) const override {
    const std::size_t before = ids.size();
    bool known = count_code_points(piece) <= most_characters_;
    for (std::size_t at = 0; known && at < piece.size();) {
      const auto [id, end] = longest(piece, at);
      known = id >= 0;
      if (known) ids.push_back(id);
      at = end;
    }
    if (known) return;
    ids.resize(before);
    ids.push_back(unknown_.id());
  }

 private:
  struct Found {
    std::int32_t id;
    std::size_t end;
  };

  /// The longest token at `at`; no candidate is longer than the longest token.
  Found longest(std::string_view piece, std::size_t at) const {
    std::string text = at == 0 ? "" : prefix_;
    const std::size_t prefix = text.size();
    if (prefix >= vocabulary_.longest()) return {-1, at};
    std::size_t length = std::min(piece.size() - at, vocabulary_.longest() - prefix);
    text.append(piece.substr(at, length));
    while (length > 0) {
      const bool whole = at + length == piece.size() || (static_cast<unsigned char>(piece[at + length]) & 0xC0) != 0x80;
      if (whole) {
        const std::int32_t id = vocabulary_.id(std::string_view(text).substr(0, prefix + length));
        if (id >= 0) return {id, at + length};
      }
      --length;
    }
    return {-1, at};
  }

  Vocabulary vocabulary_;
  UnknownToken unknown_;
  std::string prefix_;
  std::uint64_t most_characters_;
};

class WordLevel final : public Model {
 public:
  explicit WordLevel(const JsonPart& part)
      : vocabulary_(part.at("vocab")), unknown_(part, vocabulary_, part.text_or("unk_token", "<unk>")) {}

  const Vocabulary& vocabulary() const override { return vocabulary_; }

  void encode(std::string_view piece, Scratch&, std::vector<std::int32_t>& ids) const override {
    const std::int32_t id = vocabulary_.id(piece);
    ids.push_back(id >= 0 ? id : unknown_.id());
  }

 private:
  Vocabulary vocabulary_;
  UnknownToken unknown_;
};

}  // namespace

std::unique_ptr<Model> read_word_piece(const JsonPart& part) { return std::make_unique<WordPiece>(part); }
std::unique_ptr<Model> read_word_level(const JsonPart& part) { return std::make_unique<WordLevel>(part); }

}  // namespace quant::tok
