// Numbers and names as they stand on the report page.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "quant/tensor.h"

namespace quant::report {

/// Safe as text and as a quoted attribute: & < > " ' as entities; control characters and characters that turn the
/// direction of writing as U+FFFD.
std::string escape_html(std::string_view text);
/// A name that escape_html made, with places where a line may break after each '.' and '_'.
std::string breakable(std::string_view escaped);

std::string format_bytes(double bytes);                                 ///< "16.1 GB" (decimal units)
std::string format_count(std::uint64_t count);                          ///< "6,738,415,616"
std::string format_plural(std::uint64_t count, std::string_view noun);  ///< "1 layer", "2,336 layers"
std::string format_bits(double bits);                                   ///< "4.125", "6.00"
std::string format_large(double count);                                 ///< "6.74 billion"
std::string format_db(double db);        ///< "19.8", "exact" for infinity, "none" for a result without meaning
std::string format_small(double value);  ///< "1.09e-2"; "0"
std::string format_fixed(double value, int digits);
std::string format_percent(double fraction);   ///< "0.12 %"; "0 %" for nothing at all, "<0.01 %" for nearly nothing
std::string format_seconds(double seconds);    ///< "1 h 12 min", "3 min 5 s", "4.2 s"
std::string format_shape(const Shape& shape);  ///< "4096 × 11008"

}  // namespace quant::report
