// Tokenizes for compare_with_python.py: reads [{"tokenizer": {...}, "texts": [...]}, ...] from a file and prints, for
// each text, the ids without and with special tokens and both decoded texts, or the error.
//   tokenizer_probe CASES.json
//   tokenizer_probe --rate DIRECTORY TEXT_FILE     prints how fast the file is tokenized
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "quant/error.h"
#include "quant/tokenizer.h"
#include "support/temp_dir.h"

namespace {

using nlohmann::json;

json run_text(const quant::Tokenizer& tokenizer, const std::string& text) {
  try {
    const auto plain = tokenizer.encode(text, false);
    const auto special = tokenizer.encode(text, true);
    return {{"plain", plain},
            {"special", special},
            {"decoded", tokenizer.decode(special, true)},
            {"decoded_all", tokenizer.decode(special, false)}};
  } catch (const quant::Error& error) {
    return {{"error", error.what()}};
  }
}

json run_case(const json& item) {
  try {
    const auto tokenizer = quant::Tokenizer::parse(item.at("tokenizer").dump(), "probe");
    json results = json::array();
    for (const auto& text : item.at("texts")) results.push_back(run_text(tokenizer, text.get<std::string>()));
    return results;
  } catch (const quant::Error& error) {
    return {{"error", error.what()}};
  }
}

int print_rate(const char* directory, const char* file) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point begin) {
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const auto opened = Clock::now();
  const auto tokenizer = quant::Tokenizer::open(directory);
  std::printf("open %.3f s\n", seconds(opened));
  const std::string text = quant::test::read_file(file);
  for (int run = 0; run < 3; ++run) {
    const auto begin = Clock::now();
    const std::size_t tokens = tokenizer.encode(text, false).size();
    const double time = seconds(begin);
    std::printf("%zu bytes, %zu tokens, %.3f s, %.0f tokens/s\n", text.size(), tokens, time,
                static_cast<double>(tokens) / time);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4 && std::string(argv[1]) == "--rate") return print_rate(argv[2], argv[3]);
    if (argc != 2) return 2;
    json results = json::array();
    for (const auto& item : json::parse(quant::test::read_file(argv[1]))) results.push_back(run_case(item));
    std::printf("%s\n", results.dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
