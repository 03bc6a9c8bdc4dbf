#include "man_text.h"

#include <fmt/format.h>

namespace quant::cli::man {

std::string escaped(std::string_view text) {
  std::string out;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) out += "\\&";
    line_begins = c == '\n';
    switch (c) {
      case '\\':
        out += "\\e";
        break;
      case '-':
        out += "\\-";
        break;
      case '`':
        out += "\\(ga";
        break;
      case '^':
        out += "\\(ha";
        break;
      case '~':
        out += "\\(ti";
        break;
      case '\'':
        out += "\\(aq";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : escaped(text)) out += c == '"' ? std::string("\\(dq") : std::string(1, c);
  return out + "\"";
}

std::string section(std::string_view title) { return fmt::format(".SH {}\n", quoted(title)); }

std::string paragraph(std::string_view text) { return fmt::format(".PP\n{}\n", escaped(text)); }

std::string item(std::string_view term, std::string_view metavar, std::string_view text) {
  std::string head = fmt::format("\\fB{}\\fR", escaped(term));
  if (!metavar.empty()) head += fmt::format("{}\\fI{}\\fR", term.empty() ? "" : " ", escaped(metavar));
  return fmt::format(".TP\n{}\n{}\n", head, escaped(text));
}

std::string example(std::string_view text) { return fmt::format(".PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n", escaped(text)); }

}  // namespace quant::cli::man
