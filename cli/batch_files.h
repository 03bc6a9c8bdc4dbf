// What a job's commands look like, and the files that they leave.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "quant/batch.h"

namespace quant::cli {

/// What follows "quant" to run a job: "run", recipe, options. `threads` where the job does not say.
std::vector<std::string> run_arguments(const BatchJob& job, int threads);
/// With statistics of this file instead of the job's calibration data.
std::vector<std::string> run_arguments(const BatchJob& job, int threads, const std::filesystem::path& statistics);
/// "convert", the job's output, and where it goes.
std::vector<std::string> convert_arguments(const BatchJob& job, int threads);
/// To collect the statistics of `job`'s data with a recipe made for that.
std::vector<std::string> statistics_arguments(const BatchJob& job, int threads, const std::filesystem::path& recipe,
                                              const std::filesystem::path& output,
                                              const std::filesystem::path& statistics);

/// Threads of a job under the machine's.
int job_threads(const BatchJob& job, int usual);
bool wants_evaluation(const BatchJob& job);

/// "<output>.partial"
std::filesystem::path partial_of(const std::filesystem::path& output);
/// Bytes of a file, or of all files of a directory; 0 if it is not there.
std::uint64_t bytes_of(const std::filesystem::path& path);

}  // namespace quant::cli
