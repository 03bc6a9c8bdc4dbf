// Regular expressions of tokenizer.json. They are written for Oniguruma; PCRE2 runs a translation of them.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace quant::tok {

struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// What a thread needs to match with any expression: buffers and limits.
class Matcher {
 public:
  Matcher();
  /// Replacements may make a text of `bytes` so much longer, no more: a damaged file can ask for any length.
  void set_text_size(std::size_t bytes) { largest_text_ = 64 * (bytes + 1024); }
  /// Throws Error{unsupported} if the text has become too long.
  void check_size(std::size_t bytes) const;
  ~Matcher();
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;

 private:
  friend class Regex;
  struct Impl;
  std::size_t largest_text_ = 0;
  std::unique_ptr<Impl> impl_;
};

class Regex {
 public:
  /// `where` names the expression in errors. Throws Error{unsupported} for what cannot be compiled or means something
  /// else in PCRE2.
  Regex(const std::string& pattern, std::string where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  /// The first match at or after `from` in valid UTF-8.
  std::optional<Span> find(std::string_view text, std::size_t from, Matcher& matcher) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The expression in PCRE2's syntax (with UTF, UCP and MULTILINE on). Throws Error{unsupported} naming the construct.
std::string translate_regex(std::string_view pattern, const std::string& where);

}  // namespace quant::tok
