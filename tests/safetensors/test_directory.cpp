// Which files of a directory are the weights, and paths that are no checkpoint.
#include <sys/stat.h>
#include <unistd.h>

#include "helpers.h"

namespace quant::test {
namespace {

namespace fs = std::filesystem;

std::string first_tensor(const fs::path& path) { return open_checkpoint(path)->tensors().front().name; }

TEST_CASE("model.safetensors is taken, whatever else is there") {
  const TempDir dir;
  save_u8(dir / "consolidated.safetensors", {{"other", "x"}});
  save_u8(dir / "model.safetensors", {{"right", "x"}});
  CHECK(first_tensor(dir.path()) == "right");
}

TEST_CASE("the only file of another name is taken") {
  const TempDir dir;
  save_u8(dir / "weights.safetensors", {{"right", "x"}});
  write_file(dir / "._weights.safetensors", "not weights");
  CHECK(first_tensor(dir.path()) == "right");
}

TEST_CASE("several files need an index") {
  const TempDir dir;
  save_u8(dir / "a.safetensors", {{"a", "x"}});
  save_u8(dir / "b.safetensors", {{"b", "x"}});
  const Failure failure = failure_of([&] { open_checkpoint(dir.path()); });
  CHECK(failure.kind == "MissingIndex");
  CHECK(failure.code == ErrorCode::io);
  CHECK(mentions(failure, "'a.safetensors', 'b.safetensors'"));
}

TEST_CASE("one shard of many is not a whole model") {
  for (const char* name : {"model-00001-of-00002.safetensors", "model-1-of-2.safetensors"}) {
    const TempDir dir;
    save_u8(dir / name, {{"a", "x"}});
    CHECK(kind_of([&] { open_checkpoint(dir.path()); }) == "MissingIndex");
    CHECK(first_tensor(dir / name) == "a");  // given by name it is what was asked for
  }
  for (const char* name :
       {"model-00001-of-00001.safetensors", "out-of-.safetensors", "7.safetensors", "of-9.safetensors"}) {
    const TempDir dir;
    save_u8(dir / name, {{"a", "x"}});
    CHECK(first_tensor(dir.path()) == "a");
  }
}

TEST_CASE("a directory without weights lists what it has") {
  const TempDir dir;
  CHECK(mentions(failure_of([&] { open_checkpoint(dir.path()); }), "nothing in it"));
  write_file(dir / "pytorch_model.bin", "x");
  const Failure failure = failure_of([&] { open_checkpoint(dir.path()); });
  CHECK(failure.kind == "NoWeights");
  CHECK(failure.code == ErrorCode::io);
  CHECK(mentions(failure, "'pytorch_model.bin'"));
  for (int i = 0; i < 20; ++i) write_file(dir / ("f" + std::to_string(i)), "x");
  CHECK(mentions(failure_of([&] { open_checkpoint(dir.path()); }), "and 9 more"));
}

TEST_CASE("model.safetensors beside an index of other files is ambiguous") {
  const TempDir dir;
  save_u8(dir / "model.safetensors", {{"whole", "x"}});
  save_u8(dir / "a.safetensors", {{"shard", "x"}});
  const auto index = dir / "model.safetensors.index.json";
  write_file(index, R"({"weight_map":{"shard":"a.safetensors"}})");
  CHECK(kind_of([&] { open_checkpoint(dir.path()); }) == "AmbiguousWeights");
  write_file(index, R"({"weight_map":{"whole":"model.safetensors"}})");
  CHECK(first_tensor(dir.path()) == "whole");
}

TEST_CASE("an index cannot reach out of the directory") {
  const TempDir dir;
  fs::create_directory(dir / "model");
  save_u8(dir / "secret.safetensors", {{"a", "x"}});
  for (const std::string& name : {std::string("../secret.safetensors"), (dir / "secret.safetensors").string()}) {
    write_file(dir / "model/model.safetensors.index.json", R"({"weight_map":{"a":")" + name + "\"}}");
    CHECK(kind_of([&] { open_checkpoint(dir / "model"); }) == "InvalidShardName");
  }
}

// The Hugging Face cache keeps files as links into another directory.
TEST_CASE("links to shards, to the index and to the directory are followed") {
  const TempDir dir;
  fs::create_directories(dir / "blobs");
  fs::create_directories(dir / "snapshots/1");
  save_u8(dir / "blobs/0123", {{"a", "linked"}});
  write_file(dir / "blobs/4567", R"({"weight_map":{"a":"a.safetensors"}})");
  fs::create_symlink("../../blobs/0123", dir / "snapshots/1/a.safetensors");
  fs::create_symlink("../../blobs/4567", dir / "snapshots/1/model.safetensors.index.json");
  fs::create_directory_symlink("snapshots/1", dir / "latest");
  const auto checkpoint = open_checkpoint(dir / "latest");
  CHECK(as_text(checkpoint->view(checkpoint->tensors()[0]).bytes) == "linked");
  fs::remove(dir / "blobs/0123");
  CHECK(failure_of([&] { open_checkpoint(dir / "latest"); }).code == ErrorCode::io);
}

TEST_CASE("paths that are no regular file are refused, none is waited for") {
  const TempDir dir;
  const Failure missing = failure_of([&] { open_checkpoint(dir / "none"); });
  CHECK(missing.code == ErrorCode::io);
  CHECK(mentions(missing, "No such file"));
  CHECK(mentions(missing, (dir / "none").string()));

  REQUIRE(mkfifo((dir / "fifo.safetensors").c_str(), 0600) == 0);
  const Failure fifo = failure_of([&] { open_checkpoint(dir / "fifo.safetensors"); });
  CHECK(fifo.kind == "NotRegularFile");
  CHECK(mentions(fifo, "a FIFO"));
  CHECK(kind_of([&] { open_checkpoint(dir.path()); }) == "NotRegularFile");  // the only *.safetensors in it
  CHECK(kind_of([] { open_checkpoint("/dev/null"); }) == "NotRegularFile");

  fs::remove(dir / "fifo.safetensors");
  fs::create_directory(dir / "model.safetensors");
  CHECK(kind_of([&] { open_checkpoint(dir.path()); }) == "NotRegularFile");
  write_file(dir / "empty.safetensors", "");
  CHECK(kind_of([&] { open_checkpoint(dir / "empty.safetensors"); }) == "HeaderTooSmall");
  fs::create_symlink("loop", dir / "loop");
  CHECK(failure_of([&] { open_checkpoint(dir / "loop"); }).code == ErrorCode::io);
  CHECK(failure_of([] { open_checkpoint(""); }).code == ErrorCode::io);
}

TEST_CASE("an index is not opened as a file of tensors") {
  const TempDir dir;
  write_file(dir / "model.safetensors.index.json", "{}");
  CHECK(failure_of([&] { open_checkpoint(dir / "model.safetensors.index.json"); }).code == ErrorCode::usage);
}

TEST_CASE("a file that may not be read is named") {
  if (geteuid() == 0) return;  // the superuser may read everything
  const TempDir dir;
  save_u8(dir / "a.safetensors", {{"a", "x"}});
  fs::permissions(dir / "a.safetensors", fs::perms::none);
  const Failure failure = failure_of([&] { open_checkpoint(dir / "a.safetensors"); });
  CHECK(failure.code == ErrorCode::io);
  CHECK(mentions(failure, "Permission denied"));
}

}  // namespace
}  // namespace quant::test
