// Files that change, move or grow large while they are mapped.
#include "helpers.h"

namespace quant::test {
namespace {

namespace fs = std::filesystem;

TEST_CASE("a file replaced by rename leaves open views as they are") {
  const TempDir dir;
  const auto path = dir / "model.safetensors";
  save_u8(path, {{"a", "old"}});
  const auto checkpoint = open_checkpoint(path);
  const TensorView view = checkpoint->view(*checkpoint->find("a"));
  save_u8(dir / "new.safetensors", {{"a", "n"}});
  fs::rename(dir / "new.safetensors", path);
  CHECK(as_text(view.bytes) == "old");
  CHECK(as_text(checkpoint->view(*checkpoint->find("a")).bytes) == "old");
  const auto fresh = open_checkpoint(path);
  CHECK(as_text(fresh->view(*fresh->find("a")).bytes) == "n");
}

TEST_CASE("a file deleted while open is still read") {
  const TempDir dir;
  save_u8(dir / "a.safetensors", {{"a", "kept"}});
  const auto checkpoint = open_checkpoint(dir / "a.safetensors");
  fs::remove(dir / "a.safetensors");
  CHECK(as_text(checkpoint->view(checkpoint->tensors()[0]).bytes) == "kept");
}

TEST_CASE("a file cut off while open gives an error, not a signal") {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  save_u8(path, {{"a", std::string(100'000, 'x')}, {"b", "y"}});
  const auto checkpoint = open_checkpoint(path);
  CHECK(checkpoint->view(*checkpoint->find("a")).bytes.size() == 100'000);
  fs::resize_file(path, 5000);
  const Failure failure = failure_of([&] { checkpoint->view(*checkpoint->find("b")); });
  CHECK(failure.kind == "FileTruncated");
  CHECK(failure.code == ErrorCode::io);
  CHECK(mentions(failure, path.string()));
}

TEST_CASE("a tensor that is not of this checkpoint is refused") {
  const TempDir dir;
  save_u8(dir / "a.safetensors", {{"a", "x"}});
  const auto checkpoint = open_checkpoint(dir / "a.safetensors");
  const TensorInfo good = checkpoint->tensors()[0];
  const auto code = [&](auto change) {
    TensorInfo info = good;
    change(info);
    return failure_of([&] { checkpoint->view(info); }).code;
  };
  CHECK(code([](TensorInfo& info) { info.file = 1; }) == ErrorCode::internal);
  CHECK(code([](TensorInfo& info) { info.offset += 1; }) == ErrorCode::internal);
  CHECK(code([](TensorInfo& info) { info.offset = UINT64_MAX; }) == ErrorCode::internal);
  CHECK(code([](TensorInfo& info) { info.bytes = 2; }) == ErrorCode::internal);
  CHECK(code([](TensorInfo& info) { info.shape = {2}; }) == ErrorCode::internal);
}

// Sparse: takes no room on disk.
TEST_CASE("files past 2 and 4 GiB are addressed right") {
  for (const std::uint64_t size : {(1ULL << 31) + 3, (1ULL << 32) + 5}) {
    const TempDir dir;
    const auto path = dir / "large.safetensors";
    const std::string start = make_file("{" + u8_entry("hole", 0, size) + "," + u8_entry("last", size, 4) + "}");
    write_file(path, start);
    fs::resize_file(path, start.size() + size);
    std::ofstream(path, std::ios::binary | std::ios::app) << "tail";
    const auto checkpoint = open_checkpoint(path);
    const TensorInfo& last = *checkpoint->find("last");
    CHECK(last.offset == start.size() + size);
    CHECK(as_text(checkpoint->view(last).bytes) == "tail");
    const TensorView hole = checkpoint->view(*checkpoint->find("hole"));
    CHECK(hole.bytes.size() == size);
    CHECK(hole.bytes.back() == std::byte{0});
    CHECK(as_text(hole.slice_rows(size - 1, 1).bytes) == std::string(1, '\0'));
  }
}

}  // namespace
}  // namespace quant::test
