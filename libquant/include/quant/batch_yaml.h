// Reads job files of `quant batch`, strictly. Library quant::recipes.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "quant/batch.h"

namespace quant {

/// Reads a job file's text and works out all jobs. `file` is used in messages; relative paths in the text are taken
/// from its folder. All mistakes are collected: the Error{recipe} that is thrown has one line for each, with file, line
/// and column: unknown keys, wrong types, names and outputs that collide. docs/batch.md describes the language.
JobBatch parse_batch(std::string_view text, const std::string& file);
/// Reads a file. Errors as parse_batch, and Error{io}.
JobBatch load_batch(const std::filesystem::path& path);

}  // namespace quant
