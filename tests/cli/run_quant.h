// Runs the program itself.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace quant::test {

using Arguments = std::vector<std::string>;

/// Both, one after the other.
Arguments with(Arguments arguments, const Arguments& more);

struct Outcome {
  int code = 0;  ///< exit code, or 128 + signal
  std::string out;
  std::string err;
};

/// `environment`: "NAME=value" entries on top of the present ones.
Outcome run_quant(const Arguments& arguments, const std::vector<std::string>& environment = {});
/// The same with threads that wait without keeping processors busy, for runs that compute.
Outcome quietly(const Arguments& arguments);
/// The same as run_quant with standard output going to `file`.
Outcome run_quant_into(const std::filesystem::path& file, const Arguments& arguments);
/// Output must be one JSON object and nothing else.
nlohmann::json json_of(const Outcome& outcome);

/// report.json of a run.
nlohmann::json report_of(const std::filesystem::path& output);

std::string example_model();
/// The example model, quantized with the ready recipe w4a16; made once for the whole program.
const std::filesystem::path& quantized_example();
/// A safetensors file of F32 tensors, written byte by byte here.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, std::vector<float>>>& tensors);

}  // namespace quant::test
