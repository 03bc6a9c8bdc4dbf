// Checkpoints of one file and of many.
#include "helpers.h"

namespace quant::test {
namespace {

std::string text_of(const Checkpoint& checkpoint, std::string_view name) {
  const TensorInfo* info = checkpoint.find(name);
  REQUIRE(info != nullptr);
  return as_text(checkpoint.view(*info).bytes);
}

std::string index_of(const std::vector<std::pair<std::string, std::string>>& weights) {
  std::string text = R"({"metadata":{"total_size":1},"weight_map":{)";
  const char* separator = "";
  for (const auto& [tensor, shard] : weights) {
    text += separator + ("\"" + tensor + "\":\"" + shard + "\"");
    separator = ",";
  }
  return text + "}}";
}

// Shards a.safetensors {a1, a2} and b.safetensors {b1} with an index of these weights.
struct Sharded {
  explicit Sharded(const std::vector<std::pair<std::string, std::string>>& weights) {
    save_u8(dir / "a.safetensors", {{"a1", "one"}, {"a2", "two"}});
    save_u8(dir / "b.safetensors", {{"b1", "three"}});
    write_file(dir / "model.safetensors.index.json", index_of(weights));
  }
  std::unique_ptr<Checkpoint> open() const { return open_checkpoint(dir.path()); }

  TempDir dir;
};

TEST_CASE("a single file") {
  const TempDir dir;
  const auto path = dir / "x.safetensors";
  write_file(path,
             make_file(R"({"__metadata__":{"format":"pt"},)" + u8_entry("b", 3, 2) + "," + u8_entry("a", 0, 3) + "}",
                       "abcde"));
  const auto checkpoint = open_checkpoint(path);
  CHECK(checkpoint->location() == path);
  REQUIRE(checkpoint->files().size() == 1);
  CHECK(checkpoint->files()[0].path == path);
  CHECK(checkpoint->files()[0].bytes == std::filesystem::file_size(path));
  CHECK(checkpoint->files()[0].metadata == safetensors::Metadata{{"format", "pt"}});
  REQUIRE(checkpoint->tensors().size() == 2);
  CHECK(checkpoint->tensors()[0].name == "a");
  CHECK(text_of(*checkpoint, "a") == "abc");
  CHECK(text_of(*checkpoint, "b") == "de");
  CHECK(checkpoint->find("c") == nullptr);
  CHECK(checkpoint->find("") == nullptr);
  CHECK(checkpoint->config().text.empty());
  CHECK(checkpoint->companions().empty());
}

TEST_CASE("unaligned data is read") {
  const TempDir dir;
  const auto path = dir / "x.safetensors";
  const std::string json = R"({"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                           R"("y":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  write_file(path, make_file(json, std::string("\x07\0\0\x80\x3f\0\0\0\x40", 9)));
  const auto checkpoint = open_checkpoint(path);
  const TensorView view = checkpoint->view(*checkpoint->find("y"));
  float values[2];
  std::memcpy(values, view.bytes.data(), sizeof values);
  CHECK(values[0] == 1.0F);
  CHECK(values[1] == 2.0F);
  CHECK(view.shape == Shape{2});
  CHECK(view.dtype == DType::F32);
}

TEST_CASE("a directory with shards") {
  const Sharded model({{"b1", "b.safetensors"}, {"a1", "a.safetensors"}, {"a2", "a.safetensors"}});
  const auto checkpoint = model.open();
  CHECK(checkpoint->location() == model.dir.path());
  REQUIRE(checkpoint->files().size() == 2);
  CHECK(checkpoint->files()[0].path == model.dir / "a.safetensors");
  CHECK(checkpoint->files()[1].path == model.dir / "b.safetensors");
  std::string names;
  for (const TensorInfo& info : checkpoint->tensors()) names += info.name + std::to_string(info.file) + " ";
  CHECK(names == "a10 a20 b11 ");
  CHECK(text_of(*checkpoint, "a1") == "one");
  CHECK(text_of(*checkpoint, "a2") == "two");
  CHECK(text_of(*checkpoint, "b1") == "three");
}

TEST_CASE("a tensor that the index does not list is still part of the model") {
  const Sharded model({{"b1", "b.safetensors"}, {"a1", "a.safetensors"}});
  CHECK(text_of(*model.open(), "a2") == "two");
}

TEST_CASE("index and shards must agree") {
  const auto failure = [](const Sharded& model) { return failure_of([&] { model.open(); }); };
  const Failure absent = failure(Sharded({{"a1", "a.safetensors"}, {"a3", "a.safetensors"}, {"b1", "b.safetensors"}}));
  CHECK(absent.kind == "MissingTensor");
  CHECK(mentions(absent, "'a3' in 'a.safetensors', but no shard has it"));
  const Failure elsewhere = failure(Sharded({{"a1", "b.safetensors"}, {"a2", "a.safetensors"}}));
  CHECK(elsewhere.kind == "MissingTensor");
  CHECK(mentions(elsewhere, "'a1' in 'b.safetensors', but it is in '"));
  const Failure missing = failure(Sharded({{"a1", "a.safetensors"}, {"c1", "c.safetensors"}}));
  CHECK(missing.kind == "MissingShard");
  CHECK(missing.code == ErrorCode::io);
  CHECK(mentions(missing, "'c.safetensors'"));
}

TEST_CASE("a tensor in two shards is ambiguous") {
  const Sharded model({{"a1", "a.safetensors"}, {"b1", "b.safetensors"}});
  save_u8(model.dir / "b.safetensors", {{"b1", "three"}, {"a1", "other"}});
  const Failure failure = failure_of([&] { model.open(); });
  CHECK(failure.kind == "DuplicateTensor");
  CHECK(failure.code == ErrorCode::corrupt_file);
  CHECK(mentions(failure, "'a1'"));
  CHECK(mentions(failure, "a.safetensors"));
  CHECK(mentions(failure, "b.safetensors"));
}

TEST_CASE("errors of a shard name the shard") {
  const Sharded model({{"a1", "a.safetensors"}, {"a2", "a.safetensors"}, {"b1", "b.safetensors"}});
  const auto path = model.dir / "b.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  const Failure failure = failure_of([&] { model.open(); });
  CHECK(failure.kind == "MetadataIncompleteBuffer");
  CHECK(mentions(failure, "b.safetensors"));
}

TEST_CASE("100,000 tensors are found by name") {
  const TempDir dir;
  std::string json = "{";
  for (int i = 0; i < 100'000; ++i) {
    if (i != 0) json += ',';
    json += u8_entry("model.layers." + std::to_string(i) + ".weight", static_cast<std::uint64_t>(i), 1);
  }
  write_file(dir / "model.safetensors", make_file(json + "}", std::string(100'000, 'x')));
  const auto checkpoint = open_checkpoint(dir.path());
  std::size_t found = 0;
  for (const TensorInfo& info : checkpoint->tensors()) found += checkpoint->find(info.name) == &info ? 1U : 0U;
  CHECK(found == 100'000);
  CHECK(checkpoint->find("model.layers.100000.weight") == nullptr);
}

TEST_CASE("config.json comes with the model") {
  const TempDir dir;
  save_u8(dir / "model.safetensors", {{"a", "x"}});
  CHECK(open_checkpoint(dir.path())->config().text.empty());
  write_file(dir / "config.json", R"({"model_type":"llama"})");
  CHECK(open_checkpoint(dir.path())->config().model_type == "llama");
  write_file(dir / "config.json", "");
  const Failure failure = failure_of([&] { open_checkpoint(dir.path()); });
  CHECK(failure.kind == "InvalidConfig");
  CHECK(mentions(failure, "config.json"));
  std::filesystem::remove(dir / "config.json");
  std::filesystem::create_directory(dir / "config.json");
  CHECK(kind_of([&] { open_checkpoint(dir.path()); }) == "NotRegularFile");
}

TEST_CASE("the example model opens") {
  const std::filesystem::path path = std::filesystem::path(QUANT_SOURCE_DIR) / "examples" / "tiny-llama-novels";
  const auto checkpoint = open_checkpoint(path);
  CHECK(checkpoint->config().model_type == "llama");
  CHECK(checkpoint->config().tie_word_embeddings);
  CHECK(checkpoint->config().dtype == DType::F16);
  CHECK(checkpoint->files()[0].metadata == safetensors::Metadata{{"format", "pt"}});
  const TensorInfo* embeddings = checkpoint->find("model.embed_tokens.weight");
  REQUIRE(embeddings != nullptr);
  CHECK(embeddings->shape == Shape{4096, 256});
  CHECK(checkpoint->view(*embeddings).bytes.size() == 2097152);
  std::vector<std::string> names;
  for (const auto& companion : checkpoint->companions()) names.push_back(companion.filename().string());
  CHECK(names == std::vector<std::string>{"README.md", "calibration.txt", "evaluation.txt", "generation_config.json",
                                          "tokenizer.json", "tokenizer_config.json"});
}

}  // namespace
}  // namespace quant::test
