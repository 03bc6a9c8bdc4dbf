// A report as it lies beside a compressed checkpoint.
#pragma once

#include <filesystem>

#include "quant/report.h"

namespace quant::cli {

/// Reads report.json, with `arrays` also those of the report.h5 beside it, if there is one. Throws Error{io,
/// corrupt_file}.
RunReport load_report(const std::filesystem::path& file, bool arrays);

}  // namespace quant::cli
