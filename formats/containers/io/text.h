// What every JSON text of a checkpoint must be before a parser sees it, and names in messages.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quant::io {

/// True for well-formed UTF-8 (no surrogates, no overlong forms, nothing past U+10FFFF).
bool is_utf8(std::string_view text);

/// Why a parser must not see this text, or nothing: the JSON library skips a byte order mark and takes a NUL byte for
/// the end of the text, so that bytes behind it would go unchecked.
std::optional<std::string> json_objection(std::string_view text);

/// True if UTF-8 `text` holds a control character (C0, DEL or C1), which could garble a terminal or a log.
bool has_control_character(std::string_view text);

/// `text` for a message: in quotes, control characters as \xNN, cut after 160 bytes.
std::string in_quotes(std::string_view text);

}  // namespace quant::io
