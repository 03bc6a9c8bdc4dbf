// model.safetensors.index.json as text.
#include "containers/safetensors/index.h"
#include "helpers.h"

namespace quant::test {
namespace {

using safetensors::parse_index;
using safetensors::ShardIndex;

std::string index_kind(const std::string& text) {
  const Failure failure = failure_of([&] { parse_index(text, "dir/model.safetensors.index.json"); });
  if (failure.kind != "(no error)") {
    CHECK(failure.code == ErrorCode::corrupt_file);
    CHECK(mentions(failure, "'dir/model.safetensors.index.json'"));
    CHECK_FALSE(failure.hint.empty());
  }
  return failure.kind;
}

std::string with_shard(const std::string& json_name) { return R"({"weight_map":{"a":")" + json_name + "\"}}"; }

TEST_CASE("an index gives shards and tensors in order of name") {
  const ShardIndex index = parse_index(
      R"({"metadata":{"total_size":1.5e10,"x":[[{}],null,true,-1]},"weight_map":{"b":"z.safetensors","c":"m.safetensors",)"
      R"("a":"z.safetensors"},"extra":[1]})",
      "index");
  CHECK(index.shards == std::vector<std::string>{"m.safetensors", "z.safetensors"});
  const std::vector<std::pair<std::string, std::uint32_t>> expected{{"a", 1}, {"b", 1}, {"c", 0}};
  CHECK(index.weights == expected);
}

TEST_CASE("shard names must stay in the directory") {
  for (const char* name :
       {"/etc/passwd", "/etc/a.safetensors", "../a.safetensors", "..", ".", "", "sub/a.safetensors", "a..b.safetensors",
        "a\\\\b.safetensors", "C:\\\\a.safetensors", "a.bin", "a.safetensors.bin", "a.SAFETENSORS", ".safetensors",
        ".hidden.safetensors", "a\\u0000.safetensors", "a\\u001b.safetensors", "a.safetensors\\u0000",
        "\\u002e\\u002e/a.safetensors"}) {
    INFO(name);
    CHECK(index_kind(with_shard(name)) == "InvalidShardName");
  }
  for (const char* name : {"a.safetensors", "model-00001-of-00002.safetensors", "a b\xC3\xA9.safetensors"}) {
    INFO(name);
    CHECK(index_kind(with_shard(name)) == "(no error)");
  }
}

TEST_CASE("an index of another form is refused") {
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("[]"), std::string("1"), std::string("\"a\""), std::string("{}"),
        std::string(R"({"weight_map":null})"), std::string(R"({"weight_map":[]})"),
        std::string(R"({"weight_map":"a"})"), std::string(R"({"weight_map":{}})"),
        std::string(R"({"weight_map":{"a":1}})"), std::string(R"({"weight_map":{"a":null}})"),
        std::string(R"({"weight_map":{"a":["b.safetensors"]}})"), std::string(R"({"weight_map":{"a":{}}})"),
        std::string(R"({"metadata":{"weight_map":{"a":"b.safetensors"}}})"), with_shard("a.safetensors") + "x",
        "\xEF\xBB\xBF" + with_shard("a.safetensors"), with_shard("a.safetensors") + std::string("\0junk", 5),
        std::string("{\"\xff\":1}")}) {
    INFO(text);
    CHECK(index_kind(text) == "InvalidIndex");
  }
}

TEST_CASE("keys of an index are unique") {
  CHECK(index_kind(R"({"weight_map":{"a":"b.safetensors","a":"b.safetensors"}})") == "DuplicateKey");
  CHECK(index_kind(R"({"weight_map":{"a":"b.safetensors"},"weight_map":{"a":"b.safetensors"}})") == "DuplicateKey");
}

TEST_CASE("an index may be large but not deep") {
  std::string text = R"({"weight_map":{)";
  for (int i = 0; i < 100'000; ++i) {
    text += (i == 0 ? "\"t" : ",\"t") + std::to_string(i) + "\":\"s" + std::to_string(i % 50'000) + ".safetensors\"";
  }
  const ShardIndex index = parse_index(text + "}}", "index");
  CHECK(index.weights.size() == 100'000);
  CHECK(index.shards.size() == 50'000);

  const std::string tail = R"(,"weight_map":{"a":"b.safetensors"}})";
  const auto nested = [&](std::size_t depth) {
    return "{\"metadata\":" + std::string(depth, '[') + std::string(depth, ']') + tail;
  };
  CHECK(index_kind(nested(63)) == "(no error)");
  CHECK(index_kind(nested(64)) == "InvalidIndex");
  CHECK(index_kind("{\"metadata\":" + std::string(100'000, '[')) == "InvalidIndex");
  CHECK(index_kind(std::string(safetensors::kMaxIndexBytes + 1, ' ')) == "InvalidIndex");
}

}  // namespace
}  // namespace quant::test
