// A text cut into pieces, and the ways in which matches cut it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/json_part.h"
#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

namespace quant::tok {

/// Parts of `text`, in order, none empty; what lies between them was removed.
struct Pieces {
  std::string text;
  std::vector<Span> spans;
  bool at_start = true;  ///< the text begins where the user's text begins

  std::string_view view(const Span& span) const {
    return std::string_view(text).substr(span.begin, span.end - span.begin);
  }
};

/// What happens to the matches of a pattern.
enum class Behavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };
Behavior read_behavior(const JsonPart& owner, const char* key);

/// A stretch of a piece that the pattern matches, or that lies between matches.
struct Stretch {
  Span span;
  bool is_match = false;
};

/// The stretches cover the piece. Appends non-empty spans, shifted by `offset`.
void cut(const std::vector<Stretch>& stretches, Behavior behavior, std::size_t offset, std::vector<Span>& out);

/// All matches of the expression and what lies between. After an empty match the search goes on one character later,
/// and an empty match right behind the last one does not count. Nothing matches an empty piece.
void find_stretches(const Regex& regex, std::string_view piece, Matcher& matcher, std::vector<Stretch>& out);
void find_stretches(std::string_view needle, std::string_view piece, std::vector<Stretch>& out);
/// Every character for which `matches` holds is a match of its own.
template <class Predicate>
void find_characters(std::string_view piece, Predicate matches, std::vector<Stretch>& out) {
  out.clear();
  std::size_t begin = 0;
  for (std::size_t at = 0; at < piece.size();) {
    const std::size_t here = at;
    if (!matches(next_code_point(piece, at))) continue;
    if (begin < here) out.push_back({{begin, here}, false});
    out.push_back({{here, at}, true});
    begin = at;
  }
  if (begin < piece.size()) out.push_back({{begin, piece.size()}, false});
}

}  // namespace quant::tok
