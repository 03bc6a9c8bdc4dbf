// The Python package's ids and texts, by tokenizers of every kind. golden/ was made by make_golden.py.
#include <nlohmann/json.hpp>
#include <thread>

#include "quant/tokenizer.h"
#include "support/catch.h"
#include "support/temp_dir.h"

namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

json golden(const std::string& name) {
  return json::parse(quant::test::read_file(std::filesystem::path(QUANT_SOURCE_DIR) / "tests/tokenizer/golden" / name));
}

// What make_golden.py left out because it equals another entry.
json entry(const json& result, const char* key, const char* otherwise) {
  return result.contains(key) ? result.at(key) : result.at(otherwise);
}

void check(const quant::Tokenizer& tokenizer, const std::string& text, const json& result) {
  INFO(text);
  CHECK(tokenizer.encode(text, false) == result.at("plain").get<Ids>());
  const auto special = entry(result, "special", "plain").get<Ids>();
  CHECK(tokenizer.encode(text, true) == special);
  const auto decoded = result.at("decoded").get<std::string>();
  CHECK(tokenizer.decode(special, true) == decoded);
  CHECK(tokenizer.decode(special, false) == entry(result, "decoded_all", "decoded").get<std::string>());
}

}  // namespace

TEST_CASE("every kind of tokenizer gives the reference's ids and texts") {
  const json file = golden("tokenizers.json");
  REQUIRE(file.at("cases").size() == 15);
  for (const json& item : file.at("cases")) {
    INFO(item.at("name"));
    const auto tokenizer = quant::Tokenizer::parse(item.at("tokenizer").dump(), item.at("name"));
    for (std::size_t i = 0; i < file.at("texts").size(); ++i) {
      check(tokenizer, file.at("texts")[i], item.at("results")[i]);
    }
  }
}

TEST_CASE("the example model's tokenizer gives the reference's ids and texts") {
  const json file = golden("example.json");
  const auto tokenizer = quant::Tokenizer::open(std::filesystem::path(QUANT_SOURCE_DIR) / "examples/tiny-llama-novels");
  for (std::size_t i = 0; i < file.at("texts").size(); ++i) {
    check(tokenizer, file.at("texts")[i], file.at("results")[i]);
  }
}

TEST_CASE("several threads use one tokenizer and get the same ids") {
  const json file = golden("tokenizers.json");
  for (const char* name : {"llama3", "llama2", "bert"}) {
    for (const json& item : file.at("cases")) {
      if (item.at("name") != name) continue;
      const auto tokenizer = quant::Tokenizer::parse(item.at("tokenizer").dump(), name);
      std::vector<std::vector<Ids>> results(4);
      std::vector<std::thread> threads;
      for (auto& result : results) {
        threads.emplace_back([&] {
          for (const json& text : file.at("texts")) result.push_back(tokenizer.encode(text.get<std::string>(), true));
        });
      }
      for (auto& thread : threads) thread.join();
      for (std::size_t i = 0; i < file.at("texts").size(); ++i) {
        const Ids expected = entry(item.at("results")[i], "special", "plain").get<Ids>();
        for (const auto& result : results) CHECK(result[i] == expected);
      }
    }
  }
}
