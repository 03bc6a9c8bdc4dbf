#include "support/catch.h"
#include "support/temp_dir.h"
#include "tokenizer/support.h"

using quant::ErrorCode;
using quant::Tokenizer;
using quant::test::bpe_model;
using quant::test::error_of;
using quant::test::Ids;
using quant::test::json;
using quant::test::TempDir;
using quant::test::tokenizer_json;
using quant::test::write_file;

TEST_CASE("a model's directory gives the tokenizer and the names of its special tokens") {
  const TempDir directory;
  write_file(directory / "tokenizer.json", tokenizer_json(bpe_model({"a", "<s>", "</s>"})).dump());
  CHECK(!Tokenizer::open(directory.path()).bos().has_value());
  write_file(directory / "tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}})");
  const Tokenizer tokenizer = Tokenizer::open(directory.path());
  CHECK(tokenizer.bos() == 1);
  CHECK(tokenizer.eos() == 2);
  CHECK(tokenizer.size() == 3);
  write_file(directory / "tokenizer_config.json", R"({"bos_token": "<none>", "eos_token": null})");
  CHECK(!Tokenizer::open(directory.path()).bos().has_value());
  CHECK(!Tokenizer::open(directory.path()).eos().has_value());
}

TEST_CASE("a missing or damaged file is named") {
  const TempDir directory;
  auto error = error_of([&] { Tokenizer::open(directory.path()); });
  CHECK(error.code() == ErrorCode::io);
  CHECK(std::string(error.what()).find("no tokenizer.json") != std::string::npos);
  write_file(directory / "tokenizer.json", "{");
  error = error_of([&] { Tokenizer::open(directory.path()); });
  CHECK(error.code() == ErrorCode::corrupt_file);
  CHECK(std::string(error.what()).find((directory / "tokenizer.json").string()) == 0);
  write_file(directory / "tokenizer.json", tokenizer_json(bpe_model({"a"})).dump());
  for (const char* text : {"[]", "{\"bos_token\": 1}", "{\"eos_token\": {}}"}) {
    write_file(directory / "tokenizer_config.json", text);
    error = error_of([&] { Tokenizer::open(directory.path()); });
    CHECK(error.code() == ErrorCode::corrupt_file);
    CHECK(std::string(error.what()).find("tokenizer_config.json") != std::string::npos);
  }
}
