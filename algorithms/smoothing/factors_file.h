// Smoothing factors in files, so that a search can be inspected, reused and edited.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quant/smoothing_factors.h"

namespace quant::smoothing {

/// The file of one smooth layer within `directory`: its name with everything but letters, digits, '.', '_' and '-'
/// written as %XX, and ".json".
std::filesystem::path factors_path(const std::filesystem::path& directory, const std::string& smooth_layer);

/// The factors of a group with `cols` columns, if `directory` has a file of that smooth layer.
/// Throws Error{corrupt_file} or Error{io} naming the file; also if the number of factors is another one.
std::optional<SmoothingFactors> import_factors(const std::filesystem::path& directory, const std::string& smooth_layer,
                                               std::uint64_t cols);
/// All files with ".json" at their end in `directory`, sorted. Throws Error{io} if there is no such directory.
std::vector<std::filesystem::path> factor_files(const std::filesystem::path& directory);
/// Writes the file, under its name only when complete. Creates the directory.
void export_factors(const std::filesystem::path& directory, const SmoothingFactors& factors);

}  // namespace quant::smoothing
