#include "tokenizer/normalizer.h"

#include <optional>
#include <vector>

#include "tokenizer/byte_level.h"
#include "tokenizer/replacement.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

/// Builds the text anew: `put(out, c)` for each character.
template <class Put>
void rewrite(std::string& text, Put put) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) put(out, next_code_point(text, at));
  text = std::move(out);
}

/// A normalizer that is one function of the text.
template <class Function>
class Simple final : public Normalizer {
 public:
  explicit Simple(Function function) : function_(std::move(function)) {}
  void apply(std::string& text, Matcher&) const override { function_(text); }

 private:
  Function function_;
};
template <class Function>
std::unique_ptr<Normalizer> simple(Function function) {
  return std::make_unique<Simple<Function>>(std::move(function));
}

class Replace final : public Normalizer {
 public:
  explicit Replace(const JsonPart& part) : replacement_(part) {}
  void apply(std::string& text, Matcher& matcher) const override { replacement_.apply(text, matcher); }

 private:
  Replacement replacement_;
};

class Sequence final : public Normalizer {
 public:
  explicit Sequence(const JsonPart& part) {
    for (const JsonPart& step : part.list("normalizers")) steps_.push_back(read_normalizer(step));
  }
  void apply(std::string& text, Matcher& matcher) const override {
    for (const auto& step : steps_) {
      step->apply(text, matcher);
      matcher.check_size(text.size());
    }
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

void strip(std::string& text, bool left, bool right) {
  std::size_t begin = 0;
  std::size_t end = text.size();
  for (std::size_t at = 0; left && at < text.size();) {
    if (!is_white_space(next_code_point(text, at))) break;
    begin = at;
  }
  std::size_t last = begin;  // behind the last character that stays
  for (std::size_t at = begin; right && at < text.size();) {
    if (!is_white_space(next_code_point(text, at))) last = at;
  }
  if (right) end = last;
  text = text.substr(begin, end - begin);
}

void lowercase(std::string& text) { rewrite(text, append_lower); }

// As in BERT's own code: newer blocks of ideographs are not among them.
bool is_cjk_ideograph(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

class Bert final : public Normalizer {
 public:
  explicit Bert(const JsonPart& part)
      : clean_(part.flag_or("clean_text", true)),
        space_cjk_(part.flag_or("handle_chinese_chars", true)),
        lower_(part.flag_or("lowercase", true)),
        strip_accents_(part.flag_or("strip_accents", lower_)) {}

  void apply(std::string& text, Matcher&) const override {
    if (clean_) rewrite(text, clean);
    if (space_cjk_) rewrite(text, space_cjk);
    if (strip_accents_) {
      text = normalize(text, NormalForm::nfd);
      rewrite(text, [](std::string& out, char32_t c) {
        if (!is_nonspacing_mark(c)) append_utf8(out, c);
      });
    }
    if (lower_) lowercase(text);
  }

 private:
  static void clean(std::string& out, char32_t c) {
    const bool kept = c == '\t' || c == '\n' || c == '\r' || (c != 0xFFFD && !is_other(c));
    if (kept) append_utf8(out, is_white_space(c) ? ' ' : c);
  }
  static void space_cjk(std::string& out, char32_t c) {
    const bool spaced = is_cjk_ideograph(c);
    if (spaced) out.push_back(' ');
    append_utf8(out, c);
    if (spaced) out.push_back(' ');
  }

  bool clean_;
  bool space_cjk_;
  bool lower_;
  bool strip_accents_;
};

std::unique_ptr<Normalizer> unicode_form(NormalForm form) {
  return simple([form](std::string& text) { text = normalize(text, form); });
}

std::unique_ptr<Normalizer> prepend(const JsonPart& part) {
  return simple([prefix = part.text("prepend")](std::string& text) {
    if (!text.empty()) text.insert(0, prefix);
  });
}

std::unique_ptr<Normalizer> strip_accents() {
  return simple([](std::string& text) {
    rewrite(text, [](std::string& out, char32_t c) {
      if (!is_mark(c)) append_utf8(out, c);
    });
  });
}

std::unique_ptr<Normalizer> byte_level() {
  return simple([](std::string& text) {
    std::string out;
    append_byte_level(out, text);
    text = std::move(out);
  });
}

}  // namespace

std::unique_ptr<Normalizer> read_normalizer(const JsonPart& part) {
  const std::string type = part.type();
  if (type == "NFC") return unicode_form(NormalForm::nfc);
  if (type == "NFD") return unicode_form(NormalForm::nfd);
  if (type == "NFKC") return unicode_form(NormalForm::nfkc);
  if (type == "NFKD") return unicode_form(NormalForm::nfkd);
  if (type == "Lowercase") return simple(lowercase);
  if (type == "StripAccents") return strip_accents();
  if (type == "Strip") {
    return simple([left = part.flag_or("strip_left", true),
                   right = part.flag_or("strip_right", true)](std::string& text) { strip(text, left, right); });
  }
  if (type == "Prepend") return prepend(part);
  if (type == "ByteLevel") return byte_level();
  if (type == "Replace") return std::make_unique<Replace>(part);
  if (type == "BertNormalizer") return std::make_unique<Bert>(part);
  if (type == "Sequence") return std::make_unique<Sequence>(part);
  part.unsupported("the normalizer " + shown(type));
}

}  // namespace quant::tok
