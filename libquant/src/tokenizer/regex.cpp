#include "tokenizer/regex.h"

#include <array>

#include "quant/error.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace quant::tok {

namespace {

constexpr std::size_t kLongestPattern = 65'536;    // bytes
constexpr std::uint32_t kMatchSteps = 10'000'000;  // ends catastrophic backtracking after a fraction of a second
constexpr std::uint32_t kHeapKiB = 262'144;
constexpr std::size_t kJitStackBytes = 16 << 20;  // grows to this

template <auto free_function>
struct Free {
  template <class T>
  void operator()(T* pointer) const {
    free_function(pointer);
  }
};
template <class T, auto free_function>
using Owned = std::unique_ptr<T, Free<free_function>>;

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

template <class T>
T* need(T* pointer) {
  if (pointer == nullptr) throw Error(ErrorCode::internal, "PCRE2 has no memory");
  return pointer;
}

}  // namespace

struct Matcher::Impl {
  Owned<pcre2_match_data, pcre2_match_data_free> data{need(pcre2_match_data_create(1, nullptr))};
  Owned<pcre2_match_context, pcre2_match_context_free> context{need(pcre2_match_context_create(nullptr))};
  Owned<pcre2_jit_stack, pcre2_jit_stack_free> stack{pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr)};
};

Matcher::Matcher() : impl_(std::make_unique<Impl>()) {
  pcre2_set_match_limit(impl_->context.get(), kMatchSteps);
  pcre2_set_heap_limit(impl_->context.get(), kHeapKiB);
  if (impl_->stack) pcre2_jit_stack_assign(impl_->context.get(), nullptr, impl_->stack.get());
}

Matcher::~Matcher() = default;

void Matcher::check_size(std::size_t bytes) const {
  if (bytes <= largest_text_) return;
  throw Error(ErrorCode::unsupported,
              "tokenizer: the replacements of tokenizer.json make a text longer than " + std::to_string(largest_text_) +
                  " bytes, 64 times what it was",
              "The file is damaged; fetch it again.", "TextGrows");
}

struct Regex::Impl {
  std::string where;
  std::string pattern;
  Owned<pcre2_code, pcre2_code_free> code;
};

Regex::Regex(const std::string& pattern, std::string where) : impl_(std::make_unique<Impl>()) {
  impl_->where = std::move(where);
  impl_->pattern = pattern.substr(0, 200);
  if (pattern.size() > kLongestPattern) {
    throw Error(ErrorCode::unsupported,
                impl_->where + ": an expression of " + std::to_string(pattern.size()) + " bytes is too long", {},
                "UnknownRegex");
  }
  const std::string translated = translate_regex(pattern, impl_->where);
  const Owned<pcre2_compile_context, pcre2_compile_context_free> context(need(pcre2_compile_context_create(nullptr)));
  pcre2_set_max_pattern_length(context.get(), kLongestPattern);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  constexpr std::uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
  impl_->code.reset(pcre2_compile(units(translated), translated.size(), options, &error, &offset, context.get()));
  if (!impl_->code) {
    throw Error(ErrorCode::unsupported,
                impl_->where + ": the expression '" + impl_->pattern + "' does not compile: " + message_of(error),
                "PCRE2 knows no such expression; use a tokenizer without it.", "UnknownRegex");
  }
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);  // where there is no JIT, pcre2_match interprets
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

std::optional<Span> Regex::find(std::string_view text, std::size_t from, Matcher& matcher) const {
  pcre2_match_data* data = matcher.impl_->data.get();
  const int found = pcre2_match(impl_->code.get(), units(text), text.size(), from, PCRE2_NO_UTF_CHECK, data,
                                matcher.impl_->context.get());
  if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (found < 0) {
    throw Error(ErrorCode::unsupported,
                impl_->where + ": the expression '" + impl_->pattern + "' cannot be matched with a text of " +
                    std::to_string(text.size()) + " bytes: " + message_of(found),
                "The text or the expression needs too much backtracking.", "RegexLimit");
  }
  const PCRE2_SIZE* place = pcre2_get_ovector_pointer(data);
  return Span{place[0], place[1] < place[0] ? place[0] : place[1]};
}

}  // namespace quant::tok
