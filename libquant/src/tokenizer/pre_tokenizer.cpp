#include "tokenizer/pre_tokenizer.h"

#include <optional>
#include <vector>

#include "tokenizer/byte_level.h"
#include "tokenizer/replacement.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

namespace {

/// Cuts every piece where `find(piece, matcher, stretches)` says; the text stays.
template <class Find>
class Cutter final : public PreTokenizer {
 public:
  Cutter(Find find, Behavior behavior) : find_(std::move(find)), behavior_(behavior) {}
  void apply(Pieces& pieces, Matcher& matcher) const override {
    std::vector<Span> spans;
    std::vector<Stretch> stretches;
    spans.reserve(pieces.text.size() / 4);
    for (const Span& span : pieces.spans) {
      find_(pieces.view(span), matcher, stretches);
      cut(stretches, behavior_, span.begin, spans);
    }
    pieces.spans = std::move(spans);
  }

 private:
  Find find_;
  Behavior behavior_;
};
template <class Find>
std::unique_ptr<PreTokenizer> cutter(Find find, Behavior behavior) {
  return std::make_unique<Cutter<Find>>(std::move(find), behavior);
}

/// Every character with the property is a match of its own.
template <class Predicate>
std::unique_ptr<PreTokenizer> character_cutter(Predicate predicate, Behavior behavior) {
  return cutter([predicate](std::string_view piece, Matcher&,
                            std::vector<Stretch>& out) { find_characters(piece, predicate, out); },
                behavior);
}

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(const JsonPart& part) {
    for (const JsonPart& step : part.list("pretokenizers")) steps_.push_back(read_pre_tokenizer(step));
  }
  Sequence(std::unique_ptr<PreTokenizer> first, std::unique_ptr<PreTokenizer> second) {
    steps_.push_back(std::move(first));
    steps_.push_back(std::move(second));
  }
  void apply(Pieces& pieces, Matcher& matcher) const override {
    for (const auto& step : steps_) {
      step->apply(pieces, matcher);
      matcher.check_size(pieces.text.size());
    }
  }

 private:
  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

// The expression of GPT-2's encoder.py.
constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class ByteLevel final : public PreTokenizer {
 public:
  explicit ByteLevel(const JsonPart& part) : prefix_space_(part.flag_or("add_prefix_space", true)) {
    if (part.flag_or("use_regex", true)) regex_.emplace(kGpt2Pattern, part.place());
  }

  void apply(Pieces& pieces, Matcher& matcher) const override {
    std::string text;
    text.reserve(pieces.text.size() + pieces.text.size() / 4);
    std::vector<Span> spans;
    spans.reserve(regex_ ? pieces.text.size() / 4 : pieces.spans.size());
    std::vector<Stretch> stretches;
    std::string prefixed;
    for (const Span& span : pieces.spans) {
      std::string_view piece = pieces.view(span);
      if (prefix_space_ && !piece.starts_with(' ')) {
        prefixed.assign(1, ' ').append(piece);
        piece = prefixed;
      }
      stretches.assign(1, {{0, piece.size()}, false});
      if (regex_) find_stretches(*regex_, piece, matcher, stretches);
      for (const Stretch& stretch : stretches) {
        if (stretch.span.begin == stretch.span.end) continue;
        const std::size_t begin = text.size();
        append_byte_level(text, piece.substr(stretch.span.begin, stretch.span.end - stretch.span.begin));
        spans.push_back({begin, text.size()});
      }
    }
    pieces.text = std::move(text);
    pieces.spans = std::move(spans);
  }

 private:
  bool prefix_space_;
  std::optional<Regex> regex_;
};

class Metaspace final : public PreTokenizer {
 public:
  explicit Metaspace(const JsonPart& part) : settings_(read_metaspace(part)), mark_(to_utf8(settings_.replacement)) {}

  void apply(Pieces& pieces, Matcher&) const override {
    Pieces out;
    out.at_start = pieces.at_start;
    out.text.reserve(pieces.text.size() + pieces.text.size() / 2);
    std::vector<Stretch> stretches;
    for (const Span& span : pieces.spans) {
      const std::size_t begin = out.text.size();
      append_marked(out.text, pieces.view(span), pieces.at_start && span.begin == 0);
      const std::string_view piece = std::string_view(out.text).substr(begin);
      if (settings_.split) {
        find_stretches(mark_, piece, stretches);
        cut(stretches, Behavior::merged_with_next, begin, out.spans);
      } else {
        out.spans.push_back({begin, out.text.size()});
      }
    }
    pieces = std::move(out);
  }

 private:
  void append_marked(std::string& out, std::string_view piece, bool first) const {
    const bool marked = piece.starts_with(' ') || piece.starts_with(mark_);
    const bool prepends = settings_.prepend == MetaspaceSettings::Prepend::always ||
                          (settings_.prepend == MetaspaceSettings::Prepend::first && first);
    if (prepends && !marked) out.append(mark_);
    for (const char c : piece) {
      if (c == ' ') {
        out.append(mark_);
      } else {
        out.push_back(c);
      }
    }
  }

  MetaspaceSettings settings_;
  std::string mark_;
};

std::unique_ptr<PreTokenizer> read_split(const JsonPart& part) {
  const Behavior behavior = read_behavior(part, "behavior");
  auto pattern = std::make_shared<const Pattern>(read_pattern(part.at("pattern")));
  const bool invert = part.flag_or("invert", false);
  return cutter(
      [pattern, invert](std::string_view piece, Matcher& matcher, std::vector<Stretch>& out) {
        if (pattern->regex) {
          find_stretches(*pattern->regex, piece, matcher, out);
        } else {
          find_stretches(pattern->text, piece, out);
        }
        if (!invert) return;
        for (Stretch& stretch : out) stretch.is_match = !stretch.is_match;
      },
      behavior);
}

/// Words and runs of other characters, without white space: \w+|[^\w\s]+.
std::unique_ptr<PreTokenizer> read_whitespace() {
  const auto kind = [](char32_t c) { return is_word(c) ? 1 : is_white_space(c) ? 2 : 0; };
  return cutter(
      [kind](std::string_view piece, Matcher&, std::vector<Stretch>& out) {
        out.clear();
        int last = -1;
        for (std::size_t at = 0; at < piece.size();) {
          const std::size_t here = at;
          const int now = kind(next_code_point(piece, at));
          if (now == last) {
            out.back().span.end = at;
          } else {
            out.push_back({{here, at}, now == 2});
          }
          last = now;
        }
      },
      Behavior::removed);
}

std::unique_ptr<PreTokenizer> read_fixed_length(const JsonPart& part) {
  const std::uint64_t length = part.whole_or("length", 5);
  if (length == 0) part.corrupt("has pieces of no length");
  return cutter(
      [length](std::string_view piece, Matcher&, std::vector<Stretch>& out) {
        out.clear();
        for (std::size_t at = 0; at < piece.size();) {
          const std::size_t begin = at;
          for (std::uint64_t i = 0; i < length && at < piece.size(); ++i) next_code_point(piece, at);
          out.push_back({{begin, at}, true});
        }
      },
      Behavior::isolated);
}

}  // namespace

MetaspaceSettings read_metaspace(const JsonPart& part) {
  MetaspaceSettings settings;
  settings.replacement = part.character("replacement");
  settings.split = part.flag_or("split", true);
  using Prepend = MetaspaceSettings::Prepend;
  const std::string scheme =
      part.text_or("prepend_scheme", part.flag_or("add_prefix_space", true) ? "always" : "never");
  if (scheme == "always") {
    settings.prepend = Prepend::always;
  } else if (scheme == "first") {
    settings.prepend = Prepend::first;
  } else if (scheme == "never") {
    settings.prepend = Prepend::never;
  } else {
    part.unsupported("the prepend_scheme " + shown(scheme));
  }
  return settings;
}

std::unique_ptr<PreTokenizer> read_pre_tokenizer(const JsonPart& part) {
  const std::string type = part.type();
  if (type == "ByteLevel") return std::make_unique<ByteLevel>(part);
  if (type == "Metaspace") return std::make_unique<Metaspace>(part);
  if (type == "Split") return read_split(part);
  if (type == "Sequence") return std::make_unique<Sequence>(part);
  if (type == "Whitespace") return read_whitespace();
  if (type == "WhitespaceSplit") return character_cutter(is_white_space, Behavior::removed);
  if (type == "Punctuation") return character_cutter(is_punctuation, read_behavior(part, "behavior"));
  if (type == "Digits") {
    return character_cutter(is_numeric,
                            part.flag_or("individual_digits", false) ? Behavior::isolated : Behavior::contiguous);
  }
  if (type == "CharDelimiterSplit") {
    return character_cutter([mark = part.character("delimiter")](char32_t c) { return c == mark; }, Behavior::removed);
  }
  if (type == "BertPreTokenizer") {
    return std::make_unique<Sequence>(character_cutter(is_white_space, Behavior::removed),
                                      character_cutter(is_punctuation, Behavior::isolated));
  }
  if (type == "FixedLength") return read_fixed_length(part);
  part.unsupported("the pre-tokenizer " + shown(type));
}

}  // namespace quant::tok
