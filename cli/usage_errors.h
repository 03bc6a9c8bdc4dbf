// Messages for wrong command lines, with the nearest valid name.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "quant/error.h"

namespace quant::cli {

Error usage_error(const CLI::App& program, const CLI::ParseError& error, const std::vector<std::string>& arguments);

}  // namespace quant::cli
