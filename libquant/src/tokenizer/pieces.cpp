#include "tokenizer/pieces.h"

#include <algorithm>
#include <optional>

namespace quant::tok {

Behavior read_behavior(const JsonPart& owner, const char* key) {
  const std::string name = owner.text_or(key, "Isolated");
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  owner.unsupported("the split behavior " + shown(name));
}

namespace {

// `joins(stretch, last)`: whether the stretch belongs to the piece that the stretch before it is in.
template <class Joins>
void cut_joined(const std::vector<Stretch>& stretches, std::size_t offset, std::vector<Span>& out, Joins joins) {
  std::optional<Span> open;
  bool last = false;
  const auto flush = [&] {
    if (open && open->begin < open->end) out.push_back({open->begin + offset, open->end + offset});
  };
  for (const Stretch& stretch : stretches) {
    if (open && joins(stretch.is_match, last)) {
      open->end = stretch.span.end;
    } else {
      flush();
      open = stretch.span;
    }
    last = stretch.is_match;
  }
  flush();
}

}  // namespace

void cut(const std::vector<Stretch>& stretches, Behavior behavior, std::size_t offset, std::vector<Span>& out) {
  switch (behavior) {
    case Behavior::isolated:
      return cut_joined(stretches, offset, out, [](bool, bool) { return false; });
    case Behavior::merged_with_previous:
      return cut_joined(stretches, offset, out, [](bool match, bool last) { return match && !last; });
    case Behavior::merged_with_next:
      return cut_joined(stretches, offset, out, [](bool match, bool last) { return last && !match; });
    case Behavior::contiguous:
      return cut_joined(stretches, offset, out, [](bool match, bool last) { return match == last; });
    case Behavior::removed:
      for (const Stretch& stretch : stretches) {
        if (stretch.is_match || stretch.span.begin == stretch.span.end) continue;
        out.push_back({stretch.span.begin + offset, stretch.span.end + offset});
      }
  }
}

void find_stretches(const Regex& regex, std::string_view piece, Matcher& matcher, std::vector<Stretch>& out) {
  out.clear();
  if (piece.empty()) return;
  std::size_t covered = 0;
  std::size_t from = 0;
  std::optional<std::size_t> last_end;
  while (from <= piece.size()) {
    const std::optional<Span> match = regex.find(piece, from, matcher);
    if (!match) break;
    const bool empty = match->begin == match->end;
    from = match->end;
    if (empty && from < piece.size()) {
      next_code_point(piece, from);
    } else if (empty) {
      ++from;
    }
    if (empty && last_end == match->end) continue;
    last_end = match->end;
    if (covered < match->begin) out.push_back({{covered, match->begin}, false});
    out.push_back({*match, true});
    covered = match->end;
  }
  if (covered < piece.size()) out.push_back({{covered, piece.size()}, false});
}

void find_stretches(std::string_view needle, std::string_view piece, std::vector<Stretch>& out) {
  out.clear();
  std::size_t covered = 0;
  while (!needle.empty()) {
    const std::size_t found = piece.find(needle, covered);
    if (found == std::string_view::npos) break;
    if (covered < found) out.push_back({{covered, found}, false});
    out.push_back({{found, found + needle.size()}, true});
    covered = found + needle.size();
  }
  if (covered < piece.size()) out.push_back({{covered, piece.size()}, false});
}

}  // namespace quant::tok
