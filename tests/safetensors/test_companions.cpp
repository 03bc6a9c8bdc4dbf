// Which small files go along with a model.
#include "helpers.h"

namespace quant::test {
namespace {

namespace fs = std::filesystem;

struct Model {
  Model() { save_u8(dir / "model.safetensors", {{"a", "x"}}); }
  void add(const std::string& name, const std::string& text = "x") const {
    fs::create_directories((dir / name).parent_path());
    write_file(dir / name, text);
  }
  /// Paths below the directory.
  std::vector<std::string> companions() const {
    std::vector<std::string> names;
    const auto checkpoint = open_checkpoint(dir.path());
    for (const fs::path& path : checkpoint->companions()) {
      CHECK(fs::is_regular_file(path));
      names.push_back(path.lexically_relative(dir.path()).string());
    }
    return names;
  }

  TempDir dir;
};

TEST_CASE("tokenizer, generation settings, code, templates and cards are carried along") {
  const Model model;
  const std::vector<std::string> names{"LICENSE",
                                       "NOTICE.txt",
                                       "README.md",
                                       "added_tokens.json",
                                       "chat_template.jinja",
                                       "generation_config.json",
                                       "merges.txt",
                                       "modeling_custom.py",
                                       "preprocessor_config.json",
                                       "special_tokens_map.json",
                                       "tokenizer.json",
                                       "tokenizer.model",
                                       "tokenizer_config.json",
                                       "vocab.json"};
  for (const std::string& name : names) model.add(name);
  CHECK(model.companions() == names);
}

TEST_CASE("weights, indexes, the configuration and hidden files stay behind") {
  const Model model;
  for (const char* name :
       {"other.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "x.pt", "x.pth", "x.ckpt", "x.gguf",
        "x.onnx", "x.h5", "x.msgpack", "README.npz", ".gitattributes", ".hidden.json", "picture.png", "x.log"}) {
    model.add(name);
  }
  model.add("config.json", "{}");
  CHECK(model.companions().empty());
}

TEST_CASE("an index that belongs to the weights is no companion") {
  const TempDir dir;
  save_u8(dir / "a.safetensors", {{"a", "x"}});
  write_file(dir / "model.safetensors.index.json", R"({"weight_map":{"a":"a.safetensors"}})");
  CHECK(open_checkpoint(dir.path())->companions().empty());
}

TEST_CASE("subfolders of sentence encoders are carried along") {
  const Model model;
  model.add("config.json", "{}");
  model.add("modules.json");
  model.add("1_Pooling/config.json");
  model.add("assets/templates/chat.jinja");
  CHECK(model.companions() ==
        std::vector<std::string>{"1_Pooling/config.json", "assets/templates/chat.jinja", "modules.json"});
}

TEST_CASE("subfolders that are something else are left out") {
  const Model model;
  model.add("onnx/model.onnx");
  model.add("onnx/config.json");
  model.add("checkpoint-500/model.safetensors");
  model.add("checkpoint-500/config.json");
  model.add(".git/config.json");
  model.add("__pycache__/x.py");
  model.add("a/b/c/too_deep.json");
  for (int i = 0; i < 65; ++i) model.add("many/" + std::to_string(i) + ".json");
  model.add("large/vocab.txt", "");
  fs::resize_file(model.dir / "large/vocab.txt", 64ULL * 1024 * 1024 + 1);
  CHECK(model.companions().empty());
  fs::remove(model.dir / "many/0.json");
  CHECK(model.companions().size() == 64);
}

TEST_CASE("links to files are followed, links to folders are not") {
  const Model model;
  const TempDir elsewhere;
  write_file(elsewhere / "blob", "x");
  write_file(elsewhere / "private.json", "x");
  fs::create_symlink(elsewhere / "blob", model.dir / "tokenizer.json");
  fs::create_symlink(elsewhere / "gone", model.dir / "vocab.json");
  fs::create_directory_symlink(elsewhere.path(), model.dir / "folder");
  CHECK(model.companions() == std::vector<std::string>{"tokenizer.json"});
}

}  // namespace
}  // namespace quant::test
