#include "quant/names.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <limits>
#include <numeric>

#include "quant/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace quant {
namespace {

constexpr std::string_view kRegexPrefix = "re:";
constexpr std::size_t kLongestPattern = 4096;     // bytes of a regex
constexpr std::uint32_t kMatchSteps = 1'000'000;  // a few milliseconds: ends catastrophic backtracking
constexpr std::uint32_t kMatchHeapKiB = 65'536;
constexpr std::size_t kLongestName = 256;  // longer names are not compared: the cost is quadratic

struct CodeFree {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct CompileContextFree {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};
struct MatchContextFree {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
struct MatchDataFree {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using Code = std::unique_ptr<pcre2_code, CodeFree>;
using CompileContext = std::unique_ptr<pcre2_compile_context, CompileContextFree>;
using MatchContext = std::unique_ptr<pcre2_match_context, MatchContextFree>;
using MatchData = std::unique_ptr<pcre2_match_data, MatchDataFree>;

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string pcre2_message(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

Code compile(std::string_view regex) {
  const CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw Error(ErrorCode::internal, "PCRE2 has no memory for a regex");
  pcre2_set_max_pattern_length(context.get(), kLongestPattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  const std::uint32_t options = PCRE2_ANCHORED | PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_NEVER_BACKSLASH_C;
  Code code(pcre2_compile(units(regex), regex.size(), options, &error, &offset, context.get()));
  if (!code) {
    const std::string shown(regex.substr(0, 200));
    throw Error(ErrorCode::recipe,
                "regex '" + shown + "': " + pcre2_message(error) + " at offset " + std::to_string(offset),
                "The text after 're:' must be a regular expression (PCRE2, like Python's 're').");
  }
  return code;
}

MatchContext bounded_matching() {
  MatchContext context(pcre2_match_context_create(nullptr));
  if (!context) throw Error(ErrorCode::internal, "PCRE2 has no memory for a regex");
  pcre2_set_match_limit(context.get(), kMatchSteps);
  pcre2_set_depth_limit(context.get(), kMatchSteps);
  pcre2_set_heap_limit(context.get(), kMatchHeapKiB);
  return context;
}

std::string_view canonical_class(std::string_view name) { return name == "LinearBase" ? "Linear" : name; }

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), [](unsigned char c) { return std::tolower(c); });
  return result;
}

/// Insertions, deletions, substitutions and swaps of neighbours, each at a cost of 1 (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1);
  std::vector<std::size_t> last(b.size() + 1);
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
      if (swapped) row[j] = std::min(row[j], before[j - 2] + 1);
    }
    std::swap(before, last);
    std::swap(last, row);
  }
  return last[b.size()];
}

}  // namespace

struct NamePattern::Impl {
  std::string text;
  Code code;  // null for names
  MatchContext context;
};

NamePattern::NamePattern(std::string_view text) : impl_(std::make_unique<Impl>()) {
  impl_->text = text;
  if (!text.starts_with(kRegexPrefix)) return;
  impl_->code = compile(text.substr(kRegexPrefix.size()));
  impl_->context = bounded_matching();
}

NamePattern::~NamePattern() = default;
NamePattern::NamePattern(NamePattern&&) noexcept = default;
NamePattern& NamePattern::operator=(NamePattern&&) noexcept = default;

const std::string& NamePattern::text() const { return impl_->text; }

std::optional<NamePattern::Kind> NamePattern::match(std::string_view name, std::string_view class_name) const {
  if (!impl_->code) {
    if (name == impl_->text) return Kind::exact;
    if (!class_name.empty() && canonical_class(class_name) == canonical_class(impl_->text)) return Kind::class_name;
    return std::nullopt;
  }
  const MatchData data(pcre2_match_data_create_from_pattern(impl_->code.get(), nullptr));
  if (!data) throw Error(ErrorCode::internal, "PCRE2 has no memory for a match");
  const int found = pcre2_match(impl_->code.get(), units(name), name.size(), 0, 0, data.get(), impl_->context.get());
  // Behind broken UTF-8 PCRE2 starts anew, anchored there: that is not the start of the name.
  if (found >= 0 && pcre2_get_ovector_pointer(data.get())[0] != 0) return std::nullopt;
  if (found >= 0) return Kind::regex;
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  throw Error(ErrorCode::recipe,
              "'" + impl_->text.substr(0, 200) + "' cannot be matched with '" + std::string(name.substr(0, 200)) +
                  "': " + pcre2_message(found),
              "Write the regex without nested repetitions such as '(a+)+'.");
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  if (name.empty() || name.size() > kLongestName) return {};
  const std::string wanted = lower(name);
  std::size_t smallest = std::numeric_limits<std::size_t>::max();
  const std::string* nearest = nullptr;
  for (const auto& candidate : candidates) {
    if (candidate.size() > kLongestName) continue;
    const std::size_t distance = edit_distance(wanted, lower(candidate));
    const std::size_t allowed = std::max<std::size_t>(1, std::max(wanted.size(), candidate.size()) / 3);
    if (distance > allowed || distance >= std::min(wanted.size(), candidate.size()) || distance >= smallest) continue;
    smallest = distance;
    nearest = &candidate;
  }
  return nearest == nullptr ? std::string() : *nearest;
}

}  // namespace quant
