// Runs the program itself.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace quant::test {

struct Outcome {
  int code = 0;  ///< exit code, or 128 + signal
  std::string out;
  std::string err;
};

/// `environment`: "NAME=value" entries on top of the present ones.
Outcome run_quant(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {});
/// The same with standard output going to `file`.
Outcome run_quant_into(const std::filesystem::path& file, const std::vector<std::string>& arguments);
/// Output must be one JSON object and nothing else.
nlohmann::json json_of(const Outcome& outcome);

std::string example_model();
/// The example model, quantized with the ready recipe w4a16; made once for the whole program.
const std::filesystem::path& quantized_example();
/// A safetensors file of F32 tensors, written byte by byte here.
void write_safetensors(const std::filesystem::path& file,
                       const std::vector<std::pair<std::string, std::vector<float>>>& tensors);

}  // namespace quant::test
