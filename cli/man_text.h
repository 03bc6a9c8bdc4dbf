// Text of manual pages: the few words of roff that they need.
#pragma once

#include <string>
#include <string_view>

namespace quant::cli::man {

/// Text as roff shows it: backslashes, hyphens of options and lines that begin like requests are escaped.
std::string escaped(std::string_view text);
/// The same on one line, for arguments of macros: in double quotes.
std::string quoted(std::string_view text);

std::string section(std::string_view title);
/// A paragraph that is filled.
std::string paragraph(std::string_view text);
/// A term in bold with what `metavar` names in italics, and its description indented below.
std::string item(std::string_view term, std::string_view metavar, std::string_view text);
/// Lines as they are, indented.
std::string example(std::string_view text);

}  // namespace quant::cli::man
