// Names of modules: classes, matching of targets, and nearest names for messages.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quant {

/// A compiled target or ignore entry. Source of the semantics: compressed-tensors utils/match.py.
class NamePattern {
 public:
  enum class Kind { exact, regex, class_name };
  /// `text` is "re:<regex>", or a name that is exact or a class. Throws Error{recipe} for a regex that does not
  /// compile.
  explicit NamePattern(std::string_view text);
  ~NamePattern();
  NamePattern(NamePattern&&) noexcept;
  NamePattern& operator=(NamePattern&&) noexcept;

  const std::string& text() const;
  /// How it matches the module `name` of class `class_name`, or nothing. Regexes match from the start of the name.
  std::optional<Kind> match(std::string_view name, std::string_view class_name) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The candidate with the smallest edit distance to `name`, if it is near enough to be a misspelling; else empty.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

}  // namespace quant
