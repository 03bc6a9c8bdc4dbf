// Small file operations that either complete or say why not.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace quant {

/// The whole file. Throws Error{io}.
std::string read_text_file(const std::filesystem::path& path);
/// Writes a temporary file beside `path`, makes it durable, and renames it. Throws Error{io}.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);
/// Makes the names in a directory durable. Throws Error{io}.
void sync_directory(const std::filesystem::path& path);
/// Error{io} with the path, the operation and the system's reason.
[[noreturn]] void throw_io_error(const std::string& what, const std::filesystem::path& path, int error_number);

}  // namespace quant
