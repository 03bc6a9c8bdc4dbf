// Sizes, counts and durations as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace quant::cli {

/// Bytes of "500M", "8G", "5GB", "1.5 GiB" or "4096". K, M, G and T are powers of 1000, with or without B; Ki, Mi, Gi
/// and Ti are powers of 1024. Case does not matter. Throws Error{usage} naming `option`; zero is refused as well.
std::uint64_t parse_size(std::string_view text, std::string_view option);

std::string human_bytes(std::uint64_t bytes);  ///< "9.18 MB"
std::string human_count(std::uint64_t count);  ///< "4.59 M"
std::string human_seconds(double seconds);     ///< "40 ms", "1.4 s", "1:05", "2:03:04"
/// "1 file", "3 files".
std::string counted(std::uint64_t count, std::string_view noun);
std::string percent(std::uint64_t part, std::uint64_t whole);  ///< "12.3 %"
/// `text` with control characters (also of the C1 range) and bytes that are no UTF-8 written as \xNN: names from files
/// must not move the cursor of a terminal.
std::string printable(std::string_view text);
/// Columns that `text`, which must be valid UTF-8, takes on a terminal, counting every code point as one.
std::size_t display_width(std::string_view text);

}  // namespace quant::cli
