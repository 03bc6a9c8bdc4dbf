// Oniguruma's syntax (its Ruby flavour, which the reference tokenizers use) in PCRE2's.
// Sources: Oniguruma doc/RE, PCRE2 pcre2pattern(3). Where the two differ:
//   \s \w \h \b \v   other characters, or another meaning        ^ $   at every line (option MULTILINE)
//   (?m)             dot matches newline: (?s)                   {,n}  from 0
//   a{2}+            repeats a{2}; in PCRE2 possessive           [[..]] and && in classes: sets of sets
#include <string>
#include <vector>

#include "quant/error.h"
#include "tokenizer/regex.h"

namespace quant::tok {

namespace {

// White_Space as the inside of a class; PCRE2's own \s has U+180E too.
constexpr std::string_view kSpace =
    R"(\x09-\x0D \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
// Outside of a class Oniguruma looks Latin-1 up in another table, which has these numbers too.
constexpr std::string_view kWordAlone = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xB2\xB3\xB9\xBC-\xBE)";
constexpr std::string_view kHex = "0-9A-Fa-f";

struct PosixClass {
  std::string_view name;
  std::string_view inside;
};
constexpr PosixClass kPosixClasses[] = {{"alpha", R"(\p{Alphabetic})"},
                                        {"digit", R"(\p{Nd})"},
                                        {"space", kSpace},
                                        {"word", kWord},
                                        {"upper", R"(\p{Uppercase})"},
                                        {"lower", R"(\p{Lowercase})"},
                                        {"alnum", R"(\p{Alphabetic}\p{Nd})"},
                                        {"xdigit", kHex}};

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  bool ahead(std::string_view text) const { return in_.substr(at_).starts_with(text); }

  [[noreturn]] void unsupported(const std::string& what) const {
    throw Error(ErrorCode::unsupported,
                where_ + ": the expression '" + std::string(in_.substr(0, 200)) + "' uses " + what +
                    ", which this version does not know",
                "Use a tokenizer without it.", "UnknownRegex");
  }

  void copy(std::size_t count) {
    out_.append(in_.substr(at_, count));
    at_ += count;
  }

  void copy_braces() {
    const std::size_t end = in_.find('}', at_);
    if (end == std::string_view::npos) unsupported("a brace without an end");
    copy(end + 1 - at_);
  }

  void begin_atom() { atom_ = out_.size(); }

  void step() {
    switch (in_[at_]) {
      case '\\':
        begin_atom();
        return escape(false);
      case '[':
        begin_atom();
        return char_class();
      case '(':
        return open_group();
      case ')':
        if (!groups_.empty()) {
          atom_ = groups_.back();
          groups_.pop_back();
        }
        return copy(1);
      case '{':
        return interval();
      case '?':
      case '*':
      case '+':
      case '|':
        return copy(1);
      case '#':
        if (extended_) unsupported("comments in an extended expression");
        [[fallthrough]];
      default:
        begin_atom();
        copy(1);
        while (at_ < in_.size() && (static_cast<unsigned char>(in_[at_]) & 0xC0) == 0x80) copy(1);  // one character
    }
  }

  void set(std::string_view inside, bool negated, bool in_class) {
    if (!in_class) {
      out_.append(negated ? "[^" : "[").append(inside).append("]");
    } else {
      if (negated) unsupported("a negated class escape inside a class");
      out_.append(inside);
    }
  }

  void escape(bool in_class) {
    if (at_ + 1 >= in_.size()) unsupported("a backslash at the end");
    const char letter = in_[at_ + 1];
    switch (letter) {
      case 's':
      case 'S':
        at_ += 2;
        if (letter == 'S' && in_class) return void(out_.append(R"(\P{White_Space})"));
        return set(kSpace, letter == 'S', in_class);
      case 'w':
      case 'W':
        at_ += 2;
        return set(in_class ? kWord : kWordAlone, letter == 'W', in_class);
      case 'h':
      case 'H':
        at_ += 2;
        return set(kHex, letter == 'H', in_class);
      case 'v':
        at_ += 2;
        return void(out_.append(R"(\x0B)"));
      case 'b':
      case 'B':
        if (in_class) return letter == 'b' ? copy(2) : unsupported("\\B inside a class");
        at_ += 2;
        return boundary(letter == 'B');
      case 'u':
        return code_unit();
      case 'A':
      case 'G':
      case 'z':
      case 'k':
        if (in_class) unsupported(std::string("\\") + letter + " inside a class");
        return copy(2);
      case 'Z':
        if (in_class) unsupported("\\Z inside a class");
        return copy(2);
      default:
        if (std::string_view("dDpPnrtfaex").find(letter) == std::string_view::npos && is_letter(letter)) {
          unsupported(std::string("\\") + letter);
        }
        copy(2);
        if (std::string_view("pPx").find(letter) != std::string_view::npos && ahead("{")) copy_braces();
    }
  }

  static bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

  void code_unit() {  // \uHHHH
    const std::string_view digits = in_.substr(at_ + 2, 4);
    if (digits.size() != 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos) {
      unsupported("\\u without four digits");
    }
    out_.append("\\x{").append(digits).append("}");
    at_ += 6;
  }

  void boundary(bool negated) {
    const std::string word = "[" + std::string(kWordAlone) + "]";
    const std::string a = "(?<=" + word + ")(?" + (negated ? "=" : "!") + word + ")";
    const std::string b = "(?<!" + word + ")(?" + (negated ? "!" : "=") + word + ")";
    out_.append("(?:" + a + "|" + b + ")");
  }

  void posix_class() {
    const std::size_t end = in_.find(":]", at_);
    const std::string_view name = end == std::string_view::npos ? "" : in_.substr(at_ + 2, end - at_ - 2);
    for (const PosixClass& item : kPosixClasses) {
      if (item.name != name) continue;
      out_.append(item.inside);
      at_ = end + 2;
      return;
    }
    unsupported("the class [:" + std::string(name.substr(0, 20)) + ":]");
  }

  void char_class() {
    copy(ahead("[^") ? 2 : 1);
    if (ahead("]")) unsupported("a class that begins with ]");
    while (at_ < in_.size() && in_[at_] != ']') {
      if (in_[at_] == '\\') {
        escape(true);
      } else if (ahead("[:")) {
        posix_class();
      } else if (in_[at_] == '[' || ahead("&&")) {
        unsupported("a set within a class ('[' or '&&')");
      } else {
        copy(1);
      }
    }
    if (at_ == in_.size()) unsupported("a class without an end");
    copy(1);
  }

  void open_group() {
    groups_.push_back(out_.size());
    if (!ahead("(?")) return copy(1);
    for (const std::string_view known : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?<"}) {
      if (ahead(known)) return copy(known.size());
    }
    copy(2);
    bool ends = false;
    while (at_ < in_.size() && !ends) {
      const char letter = in_[at_++];
      ends = letter == ':' || letter == ')';
      if (!ends && std::string_view("imx-").find(letter) == std::string_view::npos) {
        unsupported(std::string("the group option '") + letter + "'");
      }
      if (letter == 'x') extended_ = true;
      out_.push_back(letter == 'm' ? 's' : letter);
      if (letter == ')') groups_.pop_back();
    }
  }

  // {n}, {n,}, {n,m}, {,m}; anything else is text.
  void interval() {
    const std::size_t end = in_.find('}', at_);
    const std::string_view inside = end == std::string_view::npos ? "" : in_.substr(at_ + 1, end - at_ - 1);
    const bool counts = !inside.empty() && inside != "," &&
                        inside.find_first_not_of("0123456789,") == std::string_view::npos &&
                        inside.find(',') == inside.rfind(',');
    if (!counts) {
      begin_atom();
      out_.append("\\{");
      ++at_;
      return;
    }
    out_.append(inside.front() == ',' ? "{0" : "{").append(inside).append("}");
    at_ = end + 1;
    if (ahead("+")) {
      out_.insert(atom_, "(?:");
      out_.append(")");
    }
  }

  std::string_view in_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::string out_;
  std::size_t atom_ = 0;             // where the last atom begins in out_
  std::vector<std::size_t> groups_;  // where the open groups begin in out_
  bool extended_ = false;
};

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace quant::tok
