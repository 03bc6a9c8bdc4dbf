// Single files of a few bytes: what the reader accepts, and by which check it refuses the rest.
#include "helpers.h"

namespace quant::test {
namespace {

struct Case {
  const char* name;
  std::string file;
  const char* kind;
};

std::string one(const std::string& entry, std::size_t data_bytes) {
  return make_file("{\"a\":" + entry + "}", std::string(data_bytes, 'x'));
}

std::string f32(const std::string& shape, const std::string& offsets, std::size_t data_bytes) {
  return one(R"({"dtype":"F32","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}", data_bytes);
}

void check_all(const std::vector<Case>& cases) {
  for (const Case& c : cases) {
    INFO(c.name);
    const Failure failure = failure_of([&] { parse(c.file); });
    INFO(failure.message);
    CHECK(failure.kind == c.kind);
    CHECK(failure.code == ErrorCode::corrupt_file);
    CHECK(mentions(failure, "'test.safetensors'"));
    CHECK_FALSE(failure.hint.empty());
  }
}

TEST_CASE("sizes of file and header are checked first") {
  const std::string valid = f32("[2,2]", "[0,16]", 16);
  std::vector<Case> cases{
      {"empty file", "", "HeaderTooSmall"},
      {"8 bytes only, N=60", length_field(60), "InvalidHeaderLength"},
      {"N one past the end", length_field(3) + "{}", "InvalidHeaderLength"},
      {"N rewritten to 1000", length_field(1000) + valid.substr(8), "InvalidHeaderLength"},
      {"N top bytes 0xff", std::string("\x3c\0\0\0\xff\xff\xff\xff", 8), "HeaderTooLarge"},
      {"N all ones", std::string(8, '\xff'), "HeaderTooLarge"},
      {"N one past the limit", length_field(100'000'001), "HeaderTooLarge"},
      {"N at the limit", length_field(100'000'000), "InvalidHeaderLength"},
      {"N=0", length_field(0), "InvalidHeaderDeserialization"},
  };
  for (std::size_t bytes = 1; bytes < 8; ++bytes)
    cases.push_back({"short file", std::string(bytes, '\0'), "HeaderTooSmall"});
  check_all(cases);
}

TEST_CASE("the header must be UTF-8 and JSON") {
  check_all({
      {"N=1, byte 0xff", length_field(1) + "\xff", "InvalidHeader"},
      {"UTF-8 comes before JSON", make_file("{\xff"), "InvalidHeader"},
      {"overlong slash", make_file("{\"\xc0\xaf\":null}"), "InvalidHeader"},
      {"surrogate in UTF-8", make_file("{\"\xed\xa0\x80\":null}"), "InvalidHeader"},
      {"N=1, {", length_field(1) + "{", "InvalidHeaderDeserialization"},
      {"array", make_file("[]"), "InvalidHeaderDeserialization"},
      {"number", make_file("1"), "InvalidHeaderDeserialization"},
      {"null", make_file("null"), "InvalidHeaderDeserialization"},
      {"two objects", make_file("{}{}"), "InvalidHeaderDeserialization"},
      {"byte order mark", make_file("\xEF\xBB\xBF{}"), "InvalidHeaderDeserialization"},
      {"NUL padding", make_file(std::string("{}\0\0\0\0\0\0", 8)), "InvalidHeaderDeserialization"},
      {"NUL hides what follows", make_file(std::string("{}\0{\"a\":1}", 10)), "InvalidHeaderDeserialization"},
      {"comment", make_file("{/* */}"), "InvalidHeaderDeserialization"},
      {"trailing comma", make_file("{" + u8_entry("a", 0, 0) + ",}"), "InvalidHeaderDeserialization"},
      {"lone surrogate", make_file(R"({"\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"),
       "InvalidHeaderDeserialization"},
      {"raw control character", make_file("{\"a\n\":1}"), "InvalidHeaderDeserialization"},
      {"entry is a number", one("4", 0), "InvalidHeaderDeserialization"},
      {"entry is null", one("null", 0), "InvalidHeaderDeserialization"},
      {"entry is an array", one("[\"F32\",[1],[0,4]]", 4), "InvalidHeaderDeserialization"},
  });
}

TEST_CASE("fields of an entry must have their types") {
  const char* kind = "InvalidHeaderDeserialization";
  check_all({
      {"negative offset", f32("[1]", "[-4,0]", 4), kind},
      {"minus zero", f32("[1]", "[-0,4]", 4), kind},
      {"float offset", f32("[1]", "[0,4.0]", 4), kind},
      {"exponent offset", f32("[25]", "[0,1e2]", 100), kind},
      {"string offset", f32("[1]", "[0,\"4\"]", 4), kind},
      {"null offset", f32("[1]", "[0,null]", 4), kind},
      {"one offset", f32("[1]", "[4]", 4), kind},
      {"no offset", f32("[1]", "[]", 4), kind},
      {"3 offsets", f32("[1]", "[0,4,4]", 4), kind},
      {"offset past 64 bits", f32("[1]", "[0,18446744073709551616]", 4), kind},
      {"offset past every float", f32("[1]", "[0,1e999]", 4), kind},
      {"nested offsets", f32("[1]", "[[0,4]]", 4), kind},
      {"offsets are an object", f32("[1]", "{}", 4), kind},
      {"negative size", f32("[-1]", "[0,4]", 4), kind},
      {"float size", f32("[1.0]", "[0,4]", 4), kind},
      {"boolean size", f32("[true]", "[0,4]", 4), kind},
      {"shape is a number", f32("1", "[0,4]", 4), kind},
      {"unknown dtype", one(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})", 4), kind},
      {"lower-case dtype", one(R"({"dtype":"f32","shape":[1],"data_offsets":[0,4]})", 4), kind},
      {"dtype is a number", one(R"({"dtype":32,"shape":[1],"data_offsets":[0,4]})", 4), kind},
      {"no dtype", one(R"({"shape":[1],"data_offsets":[0,4]})", 4), kind},
      {"no shape", one(R"({"dtype":"F32","data_offsets":[0,4]})", 4), kind},
      {"no data_offsets", one(R"({"dtype":"F32","shape":[1]})", 4), kind},
      {"dtype twice", one(R"({"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]})", 4), kind},
      {"shape twice", one(R"({"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]})", 4), kind},
      {"data_offsets twice", one(R"({"data_offsets":[0,4],"dtype":"F32","shape":[1],"data_offsets":[0,4]})", 4), kind},
  });
}

TEST_CASE("our own checks of the header") {
  const auto entry = std::string(R"({"dtype":"U8","shape":[0],"data_offsets":[0,0]})");
  const auto named = [&](const std::string& name) { return make_file("{\"" + name + "\":" + entry + "}"); };
  check_all({
      {"duplicate key, same offsets", make_file("{" + u8_entry("a", 0, 2) + "," + u8_entry("a", 0, 2) + "}", "xx"),
       "DuplicateKey"},
      {"duplicate key, other offsets", make_file("{" + u8_entry("a", 0, 2) + "," + u8_entry("a", 2, 2) + "}", "xxxx"),
       "DuplicateKey"},
      {"duplicate key, escaped", make_file("{" + u8_entry("a", 0, 2) + "," + u8_entry("\\u0061", 2, 2) + "}", "xxxx"),
       "DuplicateKey"},
      {"unknown field", one(R"({"dtype":"U8","shape":[0],"data_offsets":[0,0],"strides":[1]})", 0), "UnknownField"},
      {"field in other case", one(R"({"Dtype":"U8","shape":[0],"data_offsets":[0,0]})", 0), "UnknownField"},
      {"empty name", named(""), "InvalidName"},
      {"NUL in a name", named("a\\u0000b"), "InvalidName"},
      {"escape sequence in a name", named("\\u001b[2J"), "InvalidName"},
      {"DEL in a name", named("a\x7f"), "InvalidName"},
      {"C1 control in a name", named("a\\u009b"), "InvalidName"},
  });
}

TEST_CASE("the rank is limited") {
  const auto ones = [](int rank) {
    std::string shape = "[1";
    for (int i = 1; i < rank; ++i) shape += ",1";
    return shape + "]";
  };
  CHECK(parse(f32(ones(64), "[0,4]", 4)).tensors.front().shape == Shape(64, 1));
  check_all({{"rank 65", f32(ones(65), "[0,4]", 4), "RankTooLarge"}});
}

TEST_CASE("metadata maps strings to strings") {
  const char* kind = "InvalidHeaderDeserialization";
  check_all({
      {"number value", make_file(R"({"__metadata__":{"a":1}})"), kind},
      {"null value", make_file(R"({"__metadata__":{"a":null}})"), kind},
      {"object value", make_file(R"({"__metadata__":{"a":{}}})"), kind},
      {"array", make_file(R"({"__metadata__":[]})"), kind},
      {"string", make_file(R"({"__metadata__":"pt"})"), kind},
      {"a tensor of that name", make_file(R"({"__metadata__":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"), kind},
      {"twice", make_file(R"({"__metadata__":{},"__metadata__":{}})"), kind},
      {"key twice", make_file(R"({"__metadata__":{"a":"1","a":"2"}})"), "DuplicateKey"},
  });
  CHECK(parse(make_file(R"({"__metadata__":null})")).metadata.empty());
  CHECK(parse(make_file(R"({"__metadata__":{}})")).metadata.empty());
  const safetensors::Metadata expected{{"", "\n"}, {"a", "1"}, {"b", "\xC3\xA9"}};
  CHECK(parse(make_file(R"({"__metadata__":{"b":"\u00e9","a":"1","":"\n"}})")).metadata == expected);
}

TEST_CASE("offsets and sizes must agree, tensor by tensor in the order of the data") {
  const auto two = [](const std::string& a, const std::string& b, std::size_t bytes) {
    return make_file(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)" + a +
                         R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + b + "}}",
                     std::string(bytes, 'x'));
  };
  check_all({
      {"hole", two("[0,2]", "[4,6]", 6), "InvalidOffset"},
      {"first offset 8", f32("[1]", "[8,12]", 12), "InvalidOffset"},
      {"overlap", two("[0,2]", "[1,3]", 4), "InvalidOffset"},
      {"same bytes", two("[0,2]", "[0,2]", 2), "InvalidOffset"},
      {"reversed", f32("[1]", "[4,0]", 4), "InvalidOffset"},
      {"reversed at zero", two("[0,2]", "[2,0]", 4), "InvalidOffset"},
      {"size does not match", f32("[2,2]", "[0,4]", 4), "TensorInvalidInfo"},
      {"product overflows", f32("[2,18446744073709551614]", "[0,16]", 16), "ValidationOverflow"},
      {"bits overflow", f32("[2,9223372036854775807]", "[0,16]", 16), "ValidationOverflow"},
      {"overflow before a zero", f32("[9223372036854775808,2,0]", "[0,0]", 0), "ValidationOverflow"},
      {"overflow behind a zero", f32("[0,9223372036854775808,2]", "[0,0]", 0), "ValidationOverflow"},
      {"F4 with half a byte", one(R"({"dtype":"F4","shape":[1,3],"data_offsets":[0,2]})", 2), "MisalignedSlice"},
      {"F6 with part of a byte", one(R"({"dtype":"F6_E2M3","shape":[2],"data_offsets":[0,2]})", 2), "MisalignedSlice"},
      {"F4 of another size", one(R"({"dtype":"F4","shape":[1,2],"data_offsets":[0,2]})", 2), "TensorInvalidInfo"},
      {"empty tensor with data", f32("[2,0]", "[0,4]", 4), "TensorInvalidInfo"},
      {"the first bad tensor decides", two("[0,3]", "[4,6]", 6), "TensorInvalidInfo"},
      {"the first bad tensor decides, unsorted", two("[3,5]", "[0,1]", 6), "TensorInvalidInfo"},
      {"short data", f32("[2,2]", "[0,16]", 14), "MetadataIncompleteBuffer"},
      {"no data", f32("[2,2]", "[0,16]", 0), "MetadataIncompleteBuffer"},
      {"trailing text", f32("[2,2]", "[0,16]", 16) + "<script>", "MetadataIncompleteBuffer"},
      {"data without tensors", make_file("{}", "x"), "MetadataIncompleteBuffer"},
      {"ends far past the file",
       one(R"({"dtype":"U8","shape":[2305843009213693951],"data_offsets":[0,2305843009213693951]})", 1),
       "MetadataIncompleteBuffer"},
  });
}

TEST_CASE("messages name the tensor and the values") {
  const Failure size = failure_of([] { parse(f32("[2,2]", "[0,4]", 4)); });
  CHECK(size.message ==
        "Tensor 'a' of 'test.safetensors' of type F32 and shape [2, 2] needs 16 bytes, but its data_offsets [0, 4] "
        "hold 4.");
  const Failure type = failure_of([] { parse(f32("[1]", "[0,4.5]", 4)); });
  CHECK(mentions(type, "'data_offsets' of tensor 'a' holds '4.5'"));
  const Failure control = failure_of([] { parse(make_file("{\"a\\u001b[2J\":1}")); });
  CHECK(mentions(control, "'a\\x1b[2J'"));
  const Failure lfs = failure_of([] { parse("version https://git-lfs.github.com/spec/v1\noid sha256:00\n"); });
  CHECK(lfs.kind == "HeaderTooLarge");
  CHECK(lfs.hint.find("git lfs pull") != std::string::npos);
}

TEST_CASE("legal rarities are accepted") {
  CHECK(parse(make_file("{}")).tensors.empty());
  CHECK(parse(make_file("{}\r \t\n")).tensors.empty());
  CHECK(parse(make_file("\t\n{}\r ")).tensors.empty());
  CHECK(parse(make_file("{}      ")).data_offset == 16);

  const safetensors::Header scalar = parse(f32("[]", "[0,4]", 4));
  CHECK(scalar.tensors.front().shape.empty());
  CHECK(scalar.tensors.front().bytes == 4);
  CHECK(parse(f32("[2,0]", "[0,0]", 0)).tensors.front().bytes == 0);
  CHECK(parse(one(R"({"dtype":"F4","shape":[1,2],"data_offsets":[0,1]})", 1)).tensors.front().bytes == 1);
  CHECK(parse(one(R"({"dtype":"F6_E3M2","shape":[4],"data_offsets":[0,3]})", 3)).tensors.front().bytes == 3);
  CHECK(parse(make_file(R"({"\ud83d\ude00":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})")).tensors.front().name ==
        "\xF0\x9F\x98\x80");
}

TEST_CASE("tensors come in the order of the data, not of the text") {
  const std::string json = "{" + u8_entry("c", 5, 1) + "," + u8_entry("a", 2, 3) + "," + u8_entry("e2", 2, 0) + "," +
                           u8_entry("b", 0, 2) + "," + u8_entry("e1", 2, 0) + "}";
  const safetensors::Header header = parse(make_file(json, "xxxxxx"));
  std::vector<std::string> names;
  for (const TensorInfo& info : header.tensors) names.push_back(info.name);
  CHECK(names == std::vector<std::string>{"b", "e2", "e1", "a", "c"});
  CHECK(header.tensors.back().offset == 8 + json.size() + 5);
  CHECK(header.tensors.back().bytes == 1);
}

TEST_CASE("every type of the format is read") {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto type = static_cast<DType>(i);
    const std::uint64_t bytes = 8 * dtype_bits(type) / 8;
    const std::string entry = R"({"dtype":")" + std::string(dtype_name(type)) +
                              R"(","shape":[2,4],"data_offsets":[0,)" + std::to_string(bytes) + "]}";
    const safetensors::Header header = parse(one(entry, bytes));
    CHECK(header.tensors.front().dtype == type);
    CHECK(header.tensors.front().bytes == bytes);
  }
}

}  // namespace
}  // namespace quant::test
