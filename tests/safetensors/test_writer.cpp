// The container: files of fixed layout, filled in any order, by many threads, or in two runs.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <random>
#include <thread>

#include "containers/io/file_io.h"
#include "helpers.h"

namespace quant::test {
namespace {

namespace fs = std::filesystem;

const std::vector<StoredTensor> kTwo{{"a", DType::F32, {2, 2}}, {"b", DType::I8, {5}}};

std::size_t entries(const TempDir& dir) {
  return static_cast<std::size_t>(std::distance(fs::directory_iterator(dir.path()), fs::directory_iterator()));
}

// While it lives, no file may grow past `bytes`: a disk that is full, for a test without a disk of its own.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    REQUIRE(getrlimit(RLIMIT_FSIZE, &old_) == 0);
    const rlimit limit{bytes, old_.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  rlimit old_{};
  void (*handler_)(int);
};

TEST_CASE("the container knows its name, extension and sizes") {
  const SafetensorsContainer container;
  CHECK(container->name() == "safetensors");
  CHECK(container->extension() == ".safetensors");
  CHECK(container->file_bytes({}, {}) == 16);
  CHECK(container->file_bytes({{"attn.0", DType::F32, {1, 2, 3}}}, {}) == 96);
  CHECK(kind_of([&] { container->file_bytes({{"a", DType::F4, {1}}}, {}); }) == "MisalignedSlice");
}

TEST_CASE("random tensors written in pieces and out of order are read back") {
  std::mt19937_64 random(5);  // NOLINT
  for (int round = 0; round < 20; ++round) {
    const TempDir dir;
    const auto path = dir / "model.safetensors";
    std::vector<StoredTensor> tensors;
    std::vector<std::string> data;
    for (std::size_t i = 0; i < random() % 12; ++i) {
      Shape shape;
      for (std::size_t rank = random() % 8; rank > 0; --rank) shape.push_back(random() % 4);
      const auto type = static_cast<DType>(random() % kDTypeCount);
      if (dtype_bits(type) < 8) shape.push_back(4);
      tensors.push_back({"t" + std::to_string(i), type, shape});
      data.emplace_back(tensors.back().bytes(), '\0');
      for (char& c : data.back()) c = static_cast<char>(random());
    }
    const auto writer = SafetensorsContainer()->create(path, tensors, {{"format", "pt"}}, false);
    for (std::size_t i = tensors.size(); i-- > 0;) {
      const std::size_t middle = data[i].empty() ? 0 : random() % data[i].size();
      writer->write(i, middle, as_bytes(data[i]).subspan(middle));
      writer->write(i, 0, as_bytes(data[i]).first(middle));
    }
    writer->sync();
    CHECK(fs::file_size(path) == SafetensorsContainer()->file_bytes(tensors, {{"format", "pt"}}));
    const auto checkpoint = open_checkpoint(path);
    CHECK(checkpoint->tensors().size() == tensors.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      const TensorInfo* info = checkpoint->find(tensors[i].name);
      REQUIRE(info != nullptr);
      CHECK(info->dtype == tensors[i].dtype);
      CHECK(info->shape == tensors[i].shape);
      CHECK(as_text(checkpoint->view(*info).bytes) == data[i]);
    }
  }
}

TEST_CASE("many threads write one tensor") {
  const TempDir dir;
  constexpr std::size_t kPiece = 4096 + 7;
  constexpr std::size_t kPieces = 64;
  const auto writer =
      SafetensorsContainer()->create(dir / "a.safetensors", {{"a", DType::U8, {kPiece * kPieces}}}, {}, false);
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t i = t; i < kPieces; i += 4) {
        const std::string piece(kPiece, static_cast<char>('0' + i));
        writer->write(0, i * kPiece, as_bytes(piece));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const auto checkpoint = open_checkpoint(dir / "a.safetensors");
  const std::string text = as_text(checkpoint->view(checkpoint->tensors()[0]).bytes);
  for (std::size_t i = 0; i < kPieces; ++i) {
    CHECK(text.substr(i * kPiece, kPiece) == std::string(kPiece, static_cast<char>('0' + i)));
  }
}

TEST_CASE("a write outside a tensor is refused and changes nothing") {
  const TempDir dir;
  const auto writer = SafetensorsContainer()->create(dir / "a.safetensors", kTwo, {}, false);
  const std::string before = read_file(dir / "a.safetensors");
  const auto code = [&](std::size_t tensor, std::uint64_t offset, std::size_t bytes) {
    const std::string data(bytes, 'x');
    return failure_of([&] { writer->write(tensor, offset, as_bytes(data)); }).code;
  };
  CHECK(code(0, 0, 17) == ErrorCode::internal);
  CHECK(code(0, 16, 1) == ErrorCode::internal);
  CHECK(code(0, UINT64_MAX, 2) == ErrorCode::internal);
  CHECK(code(1, 4, 2) == ErrorCode::internal);
  CHECK(code(2, 0, 0) == ErrorCode::internal);
  CHECK(read_file(dir / "a.safetensors") == before);
  writer->write(0, 16, {});
}

TEST_CASE("a file is created in full size with its header, unwritten data is zero") {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  SafetensorsContainer()->create(path, kTwo, {}, false);
  CHECK(entries(dir) == 1);
  const auto checkpoint = open_checkpoint(path);
  CHECK(as_text(checkpoint->view(*checkpoint->find("a")).bytes) == std::string(16, '\0'));
}

TEST_CASE("saving over a file that is mapped leaves its views as they are") {
  const TempDir dir;
  const auto path = dir / "model.safetensors";
  save_u8(path, {{"a", std::string(10'000, 'o')}});
  const auto old = open_checkpoint(path);
  const TensorView view = old->view(*old->find("a"));
  save_u8(path, {{"a", "new"}});
  CHECK(as_text(view.bytes) == std::string(10'000, 'o'));
  CHECK(as_text(old->view(*old->find("a")).bytes) == std::string(10'000, 'o'));
  const auto fresh = open_checkpoint(path);
  CHECK(as_text(fresh->view(*fresh->find("a")).bytes) == "new");
}

TEST_CASE("a file begun by one run is finished by the next") {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  const std::string first(16, 'f');
  SafetensorsContainer()->create(path, kTwo, {{"k", "v"}}, false)->write(0, 0, as_bytes(first));
  SafetensorsContainer()->create(path, kTwo, {{"k", "v"}}, true)->write(1, 0, as_bytes("later"));
  const auto checkpoint = open_checkpoint(path);
  CHECK(as_text(checkpoint->view(*checkpoint->find("a")).bytes) == first);
  CHECK(as_text(checkpoint->view(*checkpoint->find("b")).bytes) == "later");
}

TEST_CASE("a file of other content is not continued") {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  const auto resume = [&](const std::vector<StoredTensor>& tensors, const safetensors::Metadata& metadata = {}) {
    return failure_of([&] { SafetensorsContainer()->create(path, tensors, metadata, true); });
  };
  CHECK(resume(kTwo).code == ErrorCode::io);
  CHECK(mentions(resume(kTwo), "No such file"));

  SafetensorsContainer()->create(path, kTwo, {}, false);
  CHECK(resume(kTwo).kind == "(no error)");
  auto other = kTwo;
  other[0].name = "c";  // same sizes
  CHECK(resume(other).kind == "ResumeMismatch");
  CHECK(mentions(resume(other), path.string()));
  CHECK(resume(kTwo, {{"k", "v"}}).kind == "ResumeMismatch");
  fs::resize_file(path, fs::file_size(path) - 1);
  CHECK(resume(kTwo).kind == "ResumeMismatch");
  CHECK(resume(kTwo).code == ErrorCode::io);

  fs::remove(path);
  REQUIRE(mkfifo(path.c_str(), 0600) == 0);
  CHECK(resume(kTwo).kind == "ResumeMismatch");
}

TEST_CASE("what a crash left of a file that was being created is no obstacle") {
  const TempDir dir;
  write_file(dir / ".a.safetensors.new", std::string(5000, 'x'));
  SafetensorsContainer()->create(dir / "a.safetensors", kTwo, {}, false);
  CHECK(entries(dir) == 1);
  CHECK(open_checkpoint(dir.path())->tensors().size() == 2);
}

TEST_CASE("a file that does not fit is refused at once, and nothing is left") {
  const TempDir dir;
  const auto path = dir / "a.safetensors";
  save_u8(path, {{"a", "old"}});
  const std::vector<StoredTensor> large{{"a", DType::U8, {2U << 20}}};
  Failure failure;
  {
    const FileSizeLimit limit(1 << 20);
    failure = failure_of([&] { SafetensorsContainer()->create(path, large, {}, false); });
  }
  CHECK(failure.code == ErrorCode::io);
  CHECK(mentions(failure, path.string()));
  CHECK(mentions(failure, "reserve " + std::to_string(SafetensorsContainer()->file_bytes(large, {})) + " bytes"));
  CHECK_FALSE(failure.hint.empty());
  CHECK(entries(dir) == 1);
  CHECK(open_checkpoint(path)->find("a")->bytes == 3);
}

TEST_CASE("a size that no file system has is refused") {
  const TempDir dir;
  std::vector<StoredTensor> tensors;
  for (int i = 0; i < 5; ++i) tensors.push_back({std::to_string(i), DType::U8, {(1ULL << 61) - 1}});
  const Failure failure =
      failure_of([&] { SafetensorsContainer()->create(dir / "a.safetensors", tensors, {}, false); });
  CHECK(failure.code == ErrorCode::io);
  CHECK(entries(dir) == 0);
}

TEST_CASE("a full disk is reported with file, bytes and place") {
  const int fd = open("/dev/full", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;  // not every system has it
  const io::FileHandle full(fd);
  const Failure failure = failure_of([&] { io::write_at(full, "out/model.safetensors", 64, as_bytes("data")); });
  CHECK(failure.code == ErrorCode::io);
  CHECK(failure.message == "Cannot write 4 bytes at offset 64 of 'out/model.safetensors': No space left on device.");
  CHECK_FALSE(failure.hint.empty());
}

TEST_CASE("targets that cannot be written are named") {
  const TempDir dir;
  const auto code = [&](const fs::path& path) {
    const Failure failure = failure_of([&] { SafetensorsContainer()->create(path, kTwo, {}, false); });
    CHECK(mentions(failure, path.string()));
    return failure.code;
  };
  CHECK(code(dir / "none/a.safetensors") == ErrorCode::io);
  write_file(dir / "file", "x");
  CHECK(code(dir / "file/a.safetensors") == ErrorCode::io);
  fs::create_directory(dir / "a.safetensors");
  CHECK(code(dir / "a.safetensors") == ErrorCode::io);
  CHECK(entries(dir) == 2);
}

TEST_CASE("a path without a directory is written where the program is") {
  const TempDir dir;
  const fs::path before = fs::current_path();
  fs::current_path(dir.path());
  const auto writer = SafetensorsContainer()->create("a.safetensors", kTwo, {}, false);
  writer->sync();
  fs::current_path(before);
  CHECK(fs::exists(dir / "a.safetensors"));
}

}  // namespace
}  // namespace quant::test
