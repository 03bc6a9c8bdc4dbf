#include "tokenizer/decoder.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <utility>

#include "tokenizer/byte_level.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/replacement.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  std::size_t covered = 0;
  for (std::size_t found = text.find(from); found != std::string::npos; found = text.find(from, covered)) {
    out.append(text, covered, found - covered).append(to);
    covered = found + from.size();
  }
  if (covered == 0) return;
  text = out.append(text, covered);
}

std::string join(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

/// A decoder that is one function of the tokens.
template <class Function>
class Simple final : public Decoder {
 public:
  explicit Simple(Function function) : function_(std::move(function)) {}
  void apply(std::vector<std::string>& tokens, Matcher&) const override { function_(tokens); }

 private:
  Function function_;
};
template <class Function>
std::unique_ptr<Decoder> simple(Function function) {
  return std::make_unique<Simple<Function>>(std::move(function));
}

class Replace final : public Decoder {
 public:
  explicit Replace(const JsonPart& part) : replacement_(part) {}
  void apply(std::vector<std::string>& tokens, Matcher& matcher) const override {
    for (std::string& token : tokens) replacement_.apply(token, matcher);
  }

 private:
  Replacement replacement_;
};

class Sequence final : public Decoder {
 public:
  explicit Sequence(const JsonPart& part) {
    for (const JsonPart& step : part.list("decoders")) steps_.push_back(read_decoder(step));
  }
  void apply(std::vector<std::string>& tokens, Matcher& matcher) const override {
    for (const auto& step : steps_) {
      step->apply(tokens, matcher);
      std::size_t bytes = 0;
      for (const std::string& token : tokens) bytes += token.size();
      matcher.check_size(bytes);
    }
  }

 private:
  std::vector<std::unique_ptr<Decoder>> steps_;
};

// A token with a character that stands for no byte is taken as it is.
void decode_byte_level(std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) {
    const std::size_t before = bytes.size();
    for (std::size_t at = 0; at < token.size();) {
      const auto byte = byte_of(next_code_point(token, at));
      if (!byte) {
        bytes.resize(before);
        bytes += token;
        break;
      }
      bytes.push_back(static_cast<char>(*byte));
    }
  }
  tokens.assign(1, replace_invalid_utf8(bytes));
}

std::optional<char> byte_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || !token.ends_with('>')) return std::nullopt;
  int value = 0;
  // Rust's number parser takes a sign before a digit, and so does the reference.
  const std::size_t first = token[3] == '+' ? 4 : 3;
  for (std::size_t i = first; i < 5; ++i) {
    const char c = token[i];
    const bool digit = c >= '0' && c <= '9';
    const char lower = static_cast<char>(c | 0x20);
    if (!digit && (lower < 'a' || lower > 'f')) return std::nullopt;
    value = 16 * value + (digit ? c - '0' : lower - 'a' + 10);
  }
  return static_cast<char>(value);
}

// Runs of byte tokens that are no UTF-8 become one U+FFFD per byte.
void decode_byte_fallback(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (is_valid_utf8(bytes)) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), "\xEF\xBF\xBD");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = byte_token(token)) {
      bytes.push_back(*byte);
    } else {
      flush();
      out.push_back(std::move(token));
    }
  }
  flush();
  tokens = std::move(out);
}

std::unique_ptr<Decoder> metaspace(const JsonPart& part) {
  const MetaspaceSettings settings = read_metaspace(part);
  const bool drops_first = settings.prepend != MetaspaceSettings::Prepend::never;
  return simple([mark = to_utf8(settings.replacement), drops_first](std::vector<std::string>& tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) replace_all(tokens[i], mark, i == 0 && drops_first ? "" : " ");
  });
}

// Removes up to `start` characters `content` from the front of every token and up to `stop` from its end.
void strip(std::string& token, const std::string& content, std::uint64_t start, std::uint64_t stop) {
  std::string_view rest = token;
  for (std::uint64_t i = 0; i < start && rest.starts_with(content); ++i) rest.remove_prefix(content.size());
  for (std::uint64_t i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
  token = std::string(rest);
}

std::unique_ptr<Decoder> strip(const JsonPart& part) {
  return simple([content = to_utf8(part.character("content")), start = part.whole("start"),
                 stop = part.whole("stop")](std::vector<std::string>& tokens) {
    for (std::string& token : tokens) strip(token, content, start, stop);
  });
}

// The spaces that English does not have, as the reference removes them.
void clean_up(std::string& text) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 11> changes{{{" .", "."},
                                                                                   {" ?", "?"},
                                                                                   {" !", "!"},
                                                                                   {" ,", ","},
                                                                                   {" ' ", "'"},
                                                                                   {" n't", "n't"},
                                                                                   {" 'm", "'m"},
                                                                                   {" do not", " don't"},
                                                                                   {" 's", "'s"},
                                                                                   {" 've", "'ve"},
                                                                                   {" 're", "'re"}}};
  for (const auto& [from, to] : changes) replace_all(text, from, to);
}

std::unique_ptr<Decoder> word_piece(const JsonPart& part) {
  return simple([prefix = part.text_or("prefix", "##"),
                 cleans = part.flag_or("cleanup", true)](std::vector<std::string>& tokens) {
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i > 0 && tokens[i].starts_with(prefix)) {
        tokens[i].erase(0, prefix.size());
      } else if (i > 0) {
        tokens[i].insert(0, " ");
      }
      if (cleans) clean_up(tokens[i]);
    }
  });
}

std::unique_ptr<Decoder> bpe(const JsonPart& part) {
  return simple([suffix = part.text_or("suffix", "</w>")](std::vector<std::string>& tokens) {
    for (std::size_t i = 0; i < tokens.size() && !suffix.empty(); ++i) {
      replace_all(tokens[i], suffix, i + 1 == tokens.size() ? "" : " ");
    }
  });
}

}  // namespace

std::unique_ptr<Decoder> read_decoder(const JsonPart& part) {
  const std::string type = part.type();
  if (type == "ByteLevel") return simple(decode_byte_level);
  if (type == "ByteFallback") return simple(decode_byte_fallback);
  if (type == "Fuse") return simple([](std::vector<std::string>& tokens) { tokens.assign(1, join(tokens)); });
  if (type == "Metaspace") return metaspace(part);
  if (type == "Strip") return strip(part);
  if (type == "WordPiece") return word_piece(part);
  if (type == "BPEDecoder") return bpe(part);
  if (type == "Replace") return std::make_unique<Replace>(part);
  if (type == "Sequence") return std::make_unique<Sequence>(part);
  part.unsupported("the decoder " + shown(type));
}

}  // namespace quant::tok
