// config.json.
#include "helpers.h"

namespace quant::test {
namespace {

ModelConfig config(const std::string& text) { return parse_model_config(text, "dir/config.json"); }

TEST_CASE("the fields that every model has are read") {
  const std::string text = R"({"model_type":"llama","architectures":["LlamaForCausalLM","X"],"tie_word_embeddings":true,
    "torch_dtype":"bfloat16","hidden_size":8,"quantization_config":{"z":1,"a":[0.1,"\u00e9"]}})";
  const ModelConfig result = config(text);
  CHECK(result.text == text);
  CHECK(result.model_type == "llama");
  CHECK(result.architectures == std::vector<std::string>{"LlamaForCausalLM", "X"});
  CHECK(result.tie_word_embeddings);
  CHECK(result.dtype == DType::BF16);
  CHECK(result.quantization_config == "{\"z\":1,\"a\":[0.1,\"\xC3\xA9\"]}");
}

TEST_CASE("absent and null fields have no value") {
  for (const char* text : {"{}", R"({"model_type":null,"architectures":null,"tie_word_embeddings":null,
                                    "torch_dtype":null,"dtype":null,"quantization_config":null,"text_config":null})"}) {
    const ModelConfig result = config(text);
    CHECK(result.model_type.empty());
    CHECK(result.architectures.empty());
    CHECK_FALSE(result.tie_word_embeddings);
    CHECK_FALSE(result.dtype.has_value());
    CHECK(result.quantization_config.empty());
  }
}

TEST_CASE("dtype has several spellings") {
  CHECK(config(R"({"dtype":"float16"})").dtype == DType::F16);
  CHECK(config(R"({"dtype":"torch.float32"})").dtype == DType::F32);
  CHECK(config(R"({"dtype":"float16","torch_dtype":"float32"})").dtype == DType::F16);
  CHECK(config(R"({"dtype":"auto","torch_dtype":"float32"})").dtype == DType::F32);
  CHECK_FALSE(config(R"({"dtype":"auto"})").dtype.has_value());
  CHECK_FALSE(config(R"({"dtype":{"text_config":"float16"}})").dtype.has_value());
}

TEST_CASE("what is missing at the top is taken from text_config") {
  const ModelConfig nested =
      config(R"({"model_type":"top","text_config":{"model_type":"inner","tie_word_embeddings":true,"dtype":"bfloat16",)"
             R"("quantization_config":{"bits":4}}})");
  CHECK(nested.model_type == "top");
  CHECK(nested.tie_word_embeddings);
  CHECK(nested.dtype == DType::BF16);
  CHECK(nested.quantization_config == R"({"bits":4})");
  const ModelConfig top = config(
      R"({"tie_word_embeddings":false,"dtype":"float32","text_config":{"tie_word_embeddings":true,"dtype":"float16"}})");
  CHECK_FALSE(top.tie_word_embeddings);
  CHECK(top.dtype == DType::F32);
  CHECK_FALSE(config(R"({"text_config":[true]})").tie_word_embeddings);
}

TEST_CASE("what is no JSON object, or has wrong types, is refused with the file's name") {
  const std::string deep = "{\"a\":" + std::string(100'000, '[') + std::string(100'000, ']') + "}";
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("null"), std::string("{"), std::string("{} x"),
        std::string("{'a':1}"), std::string("{\"a\":Infinity}"), std::string("{\"a\":1e999}"),
        std::string("{\"a\":\"\xff\"}"), std::string("\xEF\xBB\xBF{}"), std::string("{}\0", 3),
        std::string(R"({"model_type":1})"), std::string(R"({"architectures":"x"})"),
        std::string(R"({"architectures":[1]})"), std::string(R"({"tie_word_embeddings":"true"})"),
        std::string(R"({"tie_word_embeddings":1})"), std::string(R"({"quantization_config":"x"})"), deep,
        std::string(100'000, '[')}) {
    INFO(text.substr(0, 80));
    const Failure failure = failure_of([&] { config(text); });
    CHECK(failure.kind == "InvalidConfig");
    CHECK(failure.code == ErrorCode::corrupt_file);
    CHECK(mentions(failure, "'dir/config.json'"));
    CHECK_FALSE(failure.hint.empty());
  }
}

}  // namespace
}  // namespace quant::test
