// Headers as the reference writer makes them, byte by byte.
#include <algorithm>
#include <random>

#include "helpers.h"

namespace quant::test {
namespace {

using safetensors::make_header;

std::string golden(std::uint64_t length, const std::string& text) {
  std::string padded = text;
  padded.resize(length, ' ');
  return length_field(length) + padded;
}

TEST_CASE("golden bytes") {
  CHECK(make_header({}, {}) == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  CHECK(make_header({}, {{"framework", "pt"}}) == golden(40, R"({"__metadata__":{"framework":"pt"}})"));
  const std::string attn = R"({"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}})";
  REQUIRE(attn.size() == 64);
  CHECK(make_header({{"attn.0", DType::F32, {1, 2, 3}}}, {}) == golden(64, attn));
  const std::string attn4 = R"({"attn0":{"dtype":"F32","shape":[1,1,2,3],"data_offsets":[0,24]}})";
  REQUIRE(attn4.size() == 65);
  CHECK(make_header({{"attn0", DType::F32, {1, 1, 2, 3}}}, {}) == golden(72, attn4));
  const std::string f4 = R"({"attn.0":{"dtype":"F4","shape":[1,2],"data_offsets":[0,1]}})";
  REQUIRE(f4.size() == 60);
  CHECK(make_header({{"attn.0", DType::F4, {1, 2}}}, {}) == golden(64, f4));
}

TEST_CASE("golden file with data") {
  const TempDir dir;
  const float values[] = {0, 1, 2, 3, 4, 5};
  const auto writer =
      SafetensorsContainer()->create(dir / "a.safetensors", {{"attn.0", DType::F32, {1, 2, 3}}}, {}, false);
  writer->write(0, 0, std::as_bytes(std::span(values)));
  const std::string expected = std::string("\x40\0\0\0\0\0\0\0", 8) +
                               R"({"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}})" +
                               std::string("\0\0\0\0\0\0\x80\x3f\0\0\0\x40\0\0\x40\x40\0\0\x80\x40\0\0\xa0\x40", 24);
  CHECK(read_file(dir / "a.safetensors") == expected);
}

TEST_CASE("metadata is sorted and escaped, tensors keep their order") {
  const std::string header =
      make_header({{"b", DType::U8, {1}}, {"a\"\\/\xC3\xA9", DType::F64, {}}}, {{"z", "\n\t\x01\x7f"}, {"a", "\"\\"}});
  CHECK(header.substr(8) == golden(header.size() - 8, R"({"__metadata__":{"a":"\"\\","z":"\n\t\u0001)"
                                                      "\x7f"
                                                      R"("},"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                                      "\"a\\\"\\\\/\xC3\xA9\""
                                                      R"(:{"dtype":"F64","shape":[],"data_offsets":[1,9]}})")
                                .substr(8));
}

TEST_CASE("the order of the reference writer is by width of type, then by name") {
  // From the reference's declaration of its types, widest first.
  const std::vector<DType> order{DType::U64,     DType::I64,         DType::F64,         DType::C64,     DType::F32,
                                 DType::U32,     DType::I32,         DType::BF16,        DType::F16,     DType::U16,
                                 DType::I16,     DType::F8_E5M2FNUZ, DType::F8_E4M3FNUZ, DType::F8_E8M0, DType::F8_E4M3,
                                 DType::F8_E5M2, DType::I8,          DType::U8,          DType::F6_E3M2, DType::F6_E2M3,
                                 DType::F4,      DType::BOOL};
  REQUIRE(order.size() == kDTypeCount);
  std::vector<StoredTensor> expected;
  for (const DType type : order) {
    for (const char* name : {"A", "a", "a.10", "a.2", "b"}) {
      expected.push_back({name, type, {3, 4}});
    }
  }
  std::vector<StoredTensor> shuffled = expected;
  std::shuffle(shuffled.begin(), shuffled.end(), std::mt19937(7));  // NOLINT
  std::sort(shuffled.begin(), shuffled.end(), stored_before);
  CHECK(shuffled == expected);
  CHECK_FALSE(stored_before(expected[0], expected[0]));
}

TEST_CASE("every tensor in that order is aligned to its elements") {
  std::mt19937 random(3);  // NOLINT
  for (int round = 0; round < 50; ++round) {
    std::vector<StoredTensor> tensors;
    for (std::size_t i = 0; i < 12; ++i) {
      tensors.push_back({"t" + std::to_string(i), static_cast<DType>(random() % kDTypeCount), {random() % 5, 4}});
    }
    std::sort(tensors.begin(), tensors.end(), stored_before);
    std::uint64_t offset = make_header(tensors, {{"round", std::to_string(round)}}).size();
    for (const StoredTensor& tensor : tensors) {
      CHECK(offset % std::max(1U, dtype_bits(tensor.dtype) / 8) == 0);
      offset += tensor.bytes();
    }
  }
}

TEST_CASE("the writer refuses what the reader would") {
  const auto kind = [](const std::vector<StoredTensor>& tensors, const safetensors::Metadata& metadata = {}) {
    const Failure failure = failure_of([&] { make_header(tensors, metadata); });
    CHECK(failure.code == (failure.kind == "HeaderTooLarge" ? ErrorCode::unsupported : ErrorCode::usage));
    return failure.kind;
  };
  CHECK(kind({{"a", DType::U8, {1}}, {"a", DType::U8, {1}}}) == "DuplicateKey");
  CHECK(kind({}, {{"a", "1"}, {"a", "2"}}) == "DuplicateKey");
  CHECK(kind({{"", DType::U8, {1}}}) == "InvalidName");
  CHECK(kind({{"a\n", DType::U8, {1}}}) == "InvalidName");
  CHECK(kind({{"__metadata__", DType::U8, {1}}}) == "InvalidName");
  CHECK(kind({{"a\xff", DType::U8, {1}}}) == "InvalidHeader");
  CHECK(kind({}, {{"a", "\xc0\xaf"}}) == "InvalidHeader");
  CHECK(kind({{"a", DType::U8, Shape(65, 1)}}) == "RankTooLarge");
  CHECK(kind({{"a", DType::F4, {3}}}) == "MisalignedSlice");
  CHECK(kind({{"a", DType::F32, {1ULL << 62}}}) == "ValidationOverflow");
  CHECK(kind({{"a", DType::F32, {1ULL << 63, 2, 0}}}) == "ValidationOverflow");
}

TEST_CASE("the sum of sizes must fit in 64 bits") {
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 9; ++i) tensors.push_back({std::to_string(i), DType::U8, {(1ULL << 61) - 1}});
  CHECK(kind_of([&] { make_header(tensors, {}); }) == "ValidationOverflow");
}

TEST_CASE("a header above the limit is not written") {
  const std::string filler(100'000'000, 'a');
  const Failure failure = failure_of([&] { make_header({}, {{"format", filler}}); });
  CHECK(failure.kind == "HeaderTooLarge");
  CHECK(failure.code == ErrorCode::unsupported);
}

TEST_CASE("the largest header is written, one more byte is refused") {
  const std::string frame = R"({"__metadata__":{"a":""}})";
  std::string value(100'000'000 - frame.size(), 'v');
  const std::string header = make_header({}, {{"a", value}});
  CHECK(header.size() == 100'000'008);
  CHECK(safetensors::header_length(as_bytes(header), header.size(), "largest") == 100'000'000);
  value += 'v';
  CHECK(kind_of([&] { make_header({}, {{"a", value}}); }) == "HeaderTooLarge");
}

TEST_CASE("what is written is read back the same") {
  std::mt19937_64 random(11);  // NOLINT
  for (int round = 0; round < 200; ++round) {
    std::vector<StoredTensor> tensors;
    for (std::size_t i = random() % 9; i > 0; --i) {
      Shape shape;
      for (std::size_t rank = random() % 9; rank > 0; --rank) shape.push_back(random() % 9);
      const auto type = static_cast<DType>(random() % kDTypeCount);
      if (dtype_bits(type) < 8) shape.push_back(4);
      tensors.push_back({"layer." + std::to_string(random() % 100) + "." + std::to_string(i), type, shape});
    }
    const safetensors::Metadata metadata{{"a", std::to_string(random())}, {"b", "x"}};
    const std::string start = make_header(tensors, metadata);
    std::uint64_t bytes = start.size();
    for (const StoredTensor& tensor : tensors) bytes += tensor.bytes();
    const safetensors::Header header = safetensors::parse_header(as_bytes(start), bytes, "round trip");
    CHECK(header.metadata == metadata);
    REQUIRE(header.tensors.size() == tensors.size());
    for (const StoredTensor& tensor : tensors) {
      const auto at = std::find_if(header.tensors.begin(), header.tensors.end(),
                                   [&](const TensorInfo& info) { return info.name == tensor.name; });
      REQUIRE(at != header.tensors.end());
      CHECK(StoredTensor{at->name, at->dtype, at->shape} == tensor);
      CHECK(at->bytes == tensor.bytes());
    }
  }
}

}  // namespace
}  // namespace quant::test
