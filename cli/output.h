// Writing to stdout, and the JSON that commands print there.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace quant::cli {

/// Keys keep the order in which they were added.
using Json = nlohmann::ordered_json;

/// Indented text with a newline at the end. Numbers that JSON does not know become null; bytes that are no UTF-8 become
/// U+FFFD.
std::string json_text(const Json& json);
/// Writes all of it. A reader that went away (`| head`) is no error: the rest is dropped. Throws Error{io} for others.
void write_stdout(std::string_view text);
/// Makes the folder that a file is to be written into. Throws Error{io}.
void make_parent(const std::filesystem::path& path);
/// Replaces `path` by a file of this content; the old one stays if that fails. Throws Error{io}.
void write_file(const std::filesystem::path& path, std::string_view text);
/// A name beside `path` that write_file and others use before they rename.
std::filesystem::path temporary_beside(const std::filesystem::path& path);
/// Throws Error{io} naming both.
void rename_file(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace quant::cli
