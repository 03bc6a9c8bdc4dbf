// The manual pages of the program, made of its own description so that they cannot drift from it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace quant::cli {

struct ManPage {
  std::string file;  ///< "quant-run.1"
  std::string text;  ///< roff, with the macros of man(7)
};

/// One page of the program and one of each command; commands below a command are sections of its page.
std::vector<ManPage> man_pages(const CLI::App& program, const std::string& version);

}  // namespace quant::cli
