// Packing, cutting, choosing and hashing.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstdio>
#include <numeric>
#include <set>

#include "calibration/support.h"
#include "quant/data_files.h"
#include "support/catch.h"

using namespace quant;  // NOLINT: a test of the library's interface
using test::Sequences;
using test::TempDir;
using test::write_file;

namespace {

TokenSequences read(const std::string& name, const std::string& bytes, const CalibrationOptions& options) {
  const TempDir directory;
  write_file(directory / name, bytes);
  const Tokenizer tokenizer = test::letters();
  return read_sequences(directory / name, &tokenizer, options);
}

CalibrationOptions options(std::uint64_t seq_len, bool pack = true, bool special = false) {
  CalibrationOptions made;
  made.seq_len = seq_len;
  made.pack = pack;
  made.special = special;
  return made;
}

}  // namespace

TEST_CASE("a text is one document, cut into full sequences") {
  const TokenSequences result = read("text.txt", "abcdefgh", options(3));
  CHECK(result.sequences == Sequences{{0, 1, 2}, {3, 4, 5}});
  CHECK(result.documents == 1);
  CHECK(result.dropped_tokens == 2);
  CHECK(result.tokens() == 6);
  CHECK(result.source.ends_with("text.txt"));
  CHECK(read("text", "abcdefgh", options(3, true, true)).sequences == Sequences{{29, 0, 1}, {2, 3, 4}, {5, 6, 7}});
  CHECK(read("text.md", "abcde", options(3, false)).sequences == Sequences{{0, 1, 2}});
}

TEST_CASE("lines of JSON are documents, joined or one sequence each") {
  const std::string lines = "{\"text\": \"abcd\"}\n\n  \r\n{\"text\": \"\"}\n{\"text\": \"efg\", \"id\": 4}";
  CHECK(read("a.jsonl", lines, options(3)).sequences == Sequences{{0, 1, 2}, {3, 4, 5}});
  const TokenSequences apart = read("a.JSONL", lines, options(3, false));
  CHECK(apart.sequences == Sequences{{0, 1, 2}, {4, 5, 6}});
  CHECK(apart.documents == 3);
  CHECK(apart.dropped_tokens == 1);
  CHECK(read("a.jsonl", lines, options(3, true, true)).sequences == Sequences{{29, 0, 1}, {2, 3, 29}, {29, 4, 5}});
  CHECK(read("a.json", R"([{"text": "ab"}, {"text": "c"}])", options(3)).sequences == Sequences{{0, 1, 2}});
}

TEST_CASE("no more samples are taken than were asked for") {
  CalibrationOptions few = options(2);
  few.samples = 2;
  const TokenSequences result = read("a.txt", "abcdefg", few);
  CHECK(result.sequences == Sequences{{0, 1}, {2, 3}});
  CHECK(result.dropped_tokens == 3);
  few.pack = false;
  CHECK(read("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"}\n{\"text\": \"c\"}", few).sequences ==
        Sequences{{0}, {1}});
}

TEST_CASE("many documents keep their order whatever thread tokenizes them") {
  std::string lines;
  Sequences expected;
  for (int i = 0; i < 5000; ++i) {
    const std::string word(1 + i % 400, static_cast<char>('a' + i % 26));
    lines += "{\"text\": \"" + word + "\"}\n";
    expected.emplace_back(word.size(), i % 26);
  }
  CHECK(read("a.jsonl", lines, options(1000, false)).sequences == expected);
}

TEST_CASE("random samples are those of the seed on every machine") {
  CalibrationOptions random = options(1);
  random.shuffle = true;
  random.samples = 4;
  random.seed = 7;
  // By a Python implementation of SplitMix64 and the Fisher-Yates shuffle.
  CHECK(read("a.txt", "abcdefghij", random).sequences == Sequences{{7}, {0}, {4}, {6}});
  random.seed = 8;
  CHECK(read("a.txt", "abcdefghij", random).sequences != Sequences{{7}, {0}, {4}, {6}});
  random.samples = 0;
  Sequences all = read("a.txt", "abcdefghij", random).sequences;
  CHECK(all.size() == 10);
  CHECK(std::set(all.begin(), all.end()).size() == 10);
  CHECK(!std::is_sorted(all.begin(), all.end()));
}

TEST_CASE("every sample is as likely as any other") {
  // 3000 choices of 2 from 5: each pair in order 150 times; 60 is more than five standard deviations.
  std::map<std::pair<int, int>, int> counts;
  CalibrationOptions random = options(1);
  random.shuffle = true;
  random.samples = 2;
  const TempDir directory;
  write_file(directory / "a.txt", "abcde");
  const Tokenizer tokenizer = test::letters();
  for (random.seed = 0; random.seed < 3000; ++random.seed) {
    const Sequences chosen = read_sequences(directory / "a.txt", &tokenizer, random).sequences;
    ++counts[{chosen[0][0], chosen[1][0]}];
  }
  CHECK(counts.size() == 20);
  for (const auto& [pair, count] : counts) CHECK(std::abs(count - 150) < 60);
}

TEST_CASE("the hash is that of lengths and ids") {
  const TokenSequences result = read("a.txt", "abcdef", options(3));
  std::string bytes;
  const auto add = [&](auto value) { bytes.append(reinterpret_cast<const char*>(&value), sizeof value); };
  add(std::uint64_t{2});
  for (const auto& sequence : result.sequences) {
    add(std::uint64_t{sequence.size()});
    for (const std::int32_t id : sequence) add(id);
  }
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(bytes.data(), bytes.size()));
  std::string hex;
  for (const unsigned char byte : canonical.digest) {
    char digits[3];
    std::snprintf(digits, sizeof digits, "%02x", byte);
    hex += digits;
  }
  CHECK(result.hash == hex);
  CHECK(read("a.txt", "abcdef", options(2)).hash != result.hash);
  CHECK(read("b.txt", "abcdefg", options(3)).hash == result.hash);
}

TEST_CASE("what cannot be read is named") {
  const auto fails = [](const std::string& name, const std::string& bytes, ErrorCode code, const std::string& part) {
    const Error error = test::error_of([&] { read(name, bytes, options(4)); });
    INFO(error.what());
    CHECK(error.code() == code);
    CHECK(std::string(error.what()).find(name) != std::string::npos);
    CHECK(std::string(error.what()).find(part) != std::string::npos);
  };
  fails("a.txt", "", ErrorCode::corrupt_file, "no tokens");
  fails("a.txt", "abc", ErrorCode::usage, "3 tokens in 1 document");
  fails("a.jsonl", "{\"text\": \"abcdefg\"}\n{", ErrorCode::corrupt_file, "line 2");
  fails("a.jsonl", "\n[1]", ErrorCode::corrupt_file, "element 1");
  fails("a.jsonl", "1", ErrorCode::corrupt_file, "line 1: is not an object");
  fails("a.jsonl", "{\"text\": 1}", ErrorCode::corrupt_file, "line 1");
  fails("a.jsonl", "{\"prompt\": \"a\"}", ErrorCode::corrupt_file, "neither 'text' nor 'messages'");
  fails("a.jsonl", "{\"text\": \"\xff\"}", ErrorCode::corrupt_file, "line 1");
  fails("a.json", "[{\"text\": \"a\"}", ErrorCode::corrupt_file, "not JSON");
  CHECK(test::error_of([] { read("a.txt", "abc", options(0)); }).code() == ErrorCode::usage);
  CHECK(test::error_of([] { read_sequences("/no/such/file.txt", nullptr, {}); }).code() == ErrorCode::io);
  CHECK(test::error_of([] { read_sequences("/tmp", nullptr, {}); }).code() == ErrorCode::io);
  const TempDir directory;
  write_file(directory / "a.txt", "abc");
  const Error error = test::error_of([&] { read_sequences(directory / "a.txt", nullptr, {}); });
  CHECK(error.code() == ErrorCode::usage);
  CHECK(std::string(error.what()).find("no tokenizer") != std::string::npos);
}

TEST_CASE("the example's calibration text has the tokens that its description says") {
  const std::filesystem::path model = std::filesystem::path(QUANT_SOURCE_DIR) / "examples/tiny-llama-novels";
  const Tokenizer tokenizer = Tokenizer::open(model);
  CalibrationOptions windows;
  windows.seq_len = 256;
  const TokenSequences result = read_sequences(model / "calibration.txt", &tokenizer, windows);
  CHECK(result.tokens() + result.dropped_tokens == 117543);
  CHECK(result.sequences.size() == 117543 / 256);
  CHECK(read_sequences(model / "evaluation.txt", &tokenizer, windows).sequences.size() == 93718 / 256);
}

TEST_CASE("names say which files hold ids and where a model's files are") {
  for (const char* name : {"a.npy", "b/c.H5", "d.hdf5"}) CHECK(holds_token_ids(name));
  for (const char* name : {"a.txt", "npy", "b.jsonl", "c.npy/text"}) CHECK_FALSE(holds_token_ids(name));
  const TempDir directory;
  CHECK(model_directory(directory.path()) == directory.path());
  CHECK(model_directory(directory / "model.safetensors") == directory.path());
  CHECK(model_directory("model.safetensors") == ".");
}
