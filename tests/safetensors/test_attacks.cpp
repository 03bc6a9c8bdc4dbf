// Headers made to cost much time, memory or stack, and numbers past 32 and 53 bits.
#include <random>

#include "helpers.h"

namespace quant::test {
namespace {

std::string many_entries(int count, const std::string& tail) {
  std::string json = "{";
  for (int i = 0; i < count; ++i) json += (i == 0 ? "\"t" : ",\"t") + std::to_string(i) + "\":" + tail;
  return json + "}";
}

TEST_CASE("100,000 tensors on the same bytes are no 100,000 copies") {
  const std::string json = many_entries(100'000, R"({"dtype":"F32","shape":[200,200],"data_offsets":[0,160000]})");
  CHECK(kind_of([&] { parse(make_file(json, std::string(160'000, '\0'))); }) == "InvalidOffset");
}

TEST_CASE("10 tensors on the same bytes") {
  const std::string json = many_entries(10, R"({"dtype":"F32","shape":[2,2],"data_offsets":[0,16]})");
  CHECK(kind_of([&] { parse(make_file(json, std::string(16, '\0'))); }) == "InvalidOffset");
}

TEST_CASE("a header of 10,000,000 entries is refused by its length alone") {
  // Only the length is there: had anything more been looked at, the call would end with an internal error.
  const std::string start = length_field(700'000'000);
  CHECK(kind_of([&] { safetensors::parse_header(as_bytes(start), 1'400'000'008, "big"); }) == "HeaderTooLarge");
}

TEST_CASE("100,000 empty tensors are legal") {
  const std::string json = many_entries(100'000, R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})");
  CHECK(parse(make_file(json)).tensors.size() == 100'000);
}

TEST_CASE("no depth of nesting costs stack") {
  const std::string deep_arrays(100'000, '[');
  std::string deep_objects;
  for (int i = 0; i < 100'000; ++i) deep_objects += "{\"a\":";
  for (const std::string& deep : {deep_arrays, deep_objects}) {
    const bool objects = deep.front() == '{';
    const std::string kind = objects ? "UnknownField" : "InvalidHeaderDeserialization";
    CHECK(kind_of([&] { parse(make_file(deep)); }) == kind);
    CHECK(kind_of([&] { parse(make_file("{\"a\":" + deep)); }) == kind);
    CHECK(kind_of([&] { parse(make_file("{\"a\":{\"shape\":" + deep)); }) == "InvalidHeaderDeserialization");
    CHECK(kind_of([&] { parse(make_file("{\"a\":{\"x\":" + deep)); }) == "UnknownField");
    CHECK(kind_of([&] { parse(make_file("{\"__metadata__\":{\"a\":" + deep)); }) == "InvalidHeaderDeserialization");
  }
}

TEST_CASE("long lists and long names stay bounded") {
  std::string zeros = "0";
  for (int i = 0; i < 1'000'000; ++i) zeros += ",0";
  const std::string start = R"({"a":{"dtype":"U8","shape":[)";
  CHECK(kind_of([&] { parse(make_file(start + zeros + "],\"data_offsets\":[0,0]}}")); }) == "RankTooLarge");
  CHECK(kind_of([&] { parse(make_file("{\"a\":{\"data_offsets\":[" + zeros + "]}}")); }) ==
        "InvalidHeaderDeserialization");

  const std::string name(5'000'000, 'n');
  CHECK(parse(make_file("{" + u8_entry(name, 0, 1) + "}", "x")).tensors.front().name == name);
  const Failure failure = failure_of([&] { parse(make_file("{" + u8_entry(name, 1, 1) + "}", "xx")); });
  CHECK(failure.kind == "InvalidOffset");
  CHECK(failure.message.size() < 1000);
}

// A file of more than 2^53 bytes cannot be made, but its header can be checked.
TEST_CASE("offsets past 32 and 53 bits are exact") {
  for (const std::uint64_t size : {(1ULL << 31) + 1, (1ULL << 32) + 1, (1ULL << 53) + 1, (1ULL << 60) + 1}) {
    const std::string start = make_file("{" + u8_entry("a", 0, size) + "," + u8_entry("b", size, 1) + "}");
    const std::uint64_t file_bytes = start.size() + size + 1;
    const safetensors::Header header = safetensors::parse_header(as_bytes(start), file_bytes, "big");
    CHECK(header.tensors[1].offset == start.size() + size);
    CHECK(header.tensors[0].bytes == size);
    const auto with_bytes = [&](std::uint64_t bytes) {
      return kind_of([&] { safetensors::parse_header(as_bytes(start), bytes, "big"); });
    };
    CHECK(with_bytes(file_bytes - 1) == "MetadataIncompleteBuffer");
    CHECK(with_bytes(file_bytes + 1) == "MetadataIncompleteBuffer");
  }
  const std::uint64_t odd = (1ULL << 53) + 1;  // as a double it would equal 2^53
  const std::string hole = make_file("{" + u8_entry("a", 0, odd - 1) + "," + u8_entry("b", odd, 1) + "}");
  CHECK(kind_of([&] { safetensors::parse_header(as_bytes(hole), hole.size() + odd + 1, "big"); }) == "InvalidOffset");
}

TEST_CASE("any changed byte of a header gives a valid header or an error") {
  const std::string json = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},)"
                           R"("b":{"dtype":"I8","shape":[4],"data_offsets":[12,16]}})";
  const std::string file = make_file(json, std::string(16, '\0'));
  std::mt19937 random(1);  // NOLINT: the same bytes in every run
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string changed = file;
    for (unsigned i = 0; i <= round % 3U; ++i)
      changed[random() % (8 + json.size())] = static_cast<char>(random() % 256);
    try {
      const safetensors::Header header = parse(changed);
      std::uint64_t end = header.data_offset;
      for (const TensorInfo& info : header.tensors) {
        REQUIRE(info.offset == end);
        REQUIRE(info.bytes == byte_count(info.dtype, info.shape));
        end += info.bytes;
      }
      REQUIRE(end == changed.size());
      ++accepted;
    } catch (const Error& error) {
      REQUIRE(error.code() == ErrorCode::corrupt_file);
      REQUIRE_FALSE(error.kind().empty());
    }
  }
  CHECK(accepted > 0);
  CHECK(accepted < 20'000);
}

}  // namespace
}  // namespace quant::test
