// Checkpoints in HDF5: every type and shape is read back, quantized models are the same in either container.
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "pipeline/fixture.h"
#include "quant/compare.h"
#include "quant/convert.h"
#include "quant/dequantize.h"
#include "quant/error.h"
#include "quant/hdf5_tensors.h"
#include "support/catch.h"
#include "support/memory_checkpoint.h"
#include "support/sanitized.h"
#include "support/text.h"

using namespace quant;
using namespace quant::test;

namespace {

std::vector<std::byte> noise(std::uint64_t bytes, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> values(bytes);
  for (auto& value : values) value = static_cast<std::byte>(random() % 7);  // compresses
  return values;
}

bool same_bytes(const Checkpoint& a, const Checkpoint& b) {
  if (a.tensors().size() != b.tensors().size()) return false;
  return std::all_of(a.tensors().begin(), a.tensors().end(), [&](const TensorInfo& info) {
    const TensorInfo* other = b.find(info.name);
    if (other == nullptr || other->dtype != info.dtype || other->shape != info.shape) return false;
    const auto x = a.view(info).bytes, y = b.view(*other).bytes;
    return std::equal(x.begin(), x.end(), y.begin(), y.end());
  });
}

}  // namespace

TEST_CASE("tensors of every type and shape are read back bit by bit") {
  for (const int level : {0, 4}) {
    TempDir dir;
    MemoryCheckpoint source;
    unsigned number = 0;
    for (int t = 0; t < kDTypeCount; ++t) {
      const auto type = static_cast<DType>(t);
      if (dtype_bits(type) % 8 != 0) continue;
      for (const Shape& shape : {Shape{}, Shape{1}, Shape{7, 5}, Shape{3, 0, 2}, Shape{700, 3, 301}}) {
        source.set("layers." + std::to_string(t) + ".weight_" + std::to_string(shape.size()), type, shape,
                   noise(byte_count(type, shape), ++number));
      }
    }
    // Names that are the path of others, and characters that HDF5 keeps for itself.
    source.set("m.weight", DType::U8, {4}, noise(4, 1));
    source.set("m.weight.absmax", DType::F32, {2}, noise(8, 2));
    source.set("m.weight.quant_state.x/y%z", DType::U8, {5}, noise(5, 3));
    const auto file = dir / "tensors.h5";
    write_hdf5_tensors(file, source, level);
    CHECK(is_hdf5_file(file));
    const auto opened = open_checkpoint(file);
    CHECK(same_bytes(source, *opened));
    CHECK(opened->find("m.weight.quant") == nullptr);
    if (level > 0) CHECK(opened->files()[0].bytes < std::filesystem::file_size(dir / "tensors.h5") + 1);
    CHECK_THROWS_AS(write_hdf5_tensors(file, source, level), Error);  // it exists
  }
}

TEST_CASE("equal tensors are equal bytes, whenever they are written") {
  TempDir dir;
  MemoryCheckpoint source;
  source.set("layers.0.weight", DType::F32, {7, 5}, noise(140, 1));
  source.set("layers.0.weight.absmax", DType::F16, {7}, noise(14, 2));
  write_hdf5_tensors(dir / "a.h5", source, 4);
  // Time stamps of HDF5 count seconds.
  std::this_thread::sleep_for(std::chrono::milliseconds(1100));
  write_hdf5_tensors(dir / "b.h5", source, 4);
  CHECK(read_file(dir / "a.h5") == read_file(dir / "b.h5"));
}

TEST_CASE("names that a file cannot hold, and levels that deflate does not have, are refused") {
  TempDir dir;
  const auto refused = [&](const MemoryCheckpoint& source, const std::string& part) {
    try {
      write_hdf5_tensors(dir / "x.h5", source, 4);
      FAIL_CHECK("written: " << part);
    } catch (const Error& error) {
      INFO(error.what());
      CHECK(error.code() == ErrorCode::unsupported);
      CHECK(has(error.what(), (dir / "x.h5").string() + ": "));
      CHECK(has(error.what(), part));
    }
    CHECK_FALSE(std::filesystem::exists(dir / "x.h5"));
  };
  const auto named = [](const std::string& name, DType type = DType::U8) {
    MemoryCheckpoint source;
    source.set("first", DType::U8, {1}, noise(1, 1));
    source.set(name, type, {8}, noise(byte_count(type, {8}), 1));
    return source;
  };
  const auto described = [](const std::string& key, const std::string& value) {
    MemoryCheckpoint source;
    source.mutable_files()[0].metadata = {{key, value}};
    return source;
  };
  std::string deep = "a";
  for (int i = 0; i < 64; ++i) deep += ".a";
  refused(named("a..b"), "tensor 'a..b'");
  refused(named(deep + ".a"), "64 parts");
  refused(named("half", DType::F4), "tensor 'half'");
  refused(described(std::string(4087, 'k'), ""), "'kkk");
  refused(described(std::string("a\0b", 3), ""), "metadata's key");
  refused(described("notes", std::string((1U << 20U) + 1, 'v')), "metadata of key 'notes', 1048577 bytes");

  // The largest that are written are read.
  MemoryCheckpoint largest = named(deep);
  largest.mutable_files()[0].metadata = {{"notes", std::string(1U << 20U, 'v')}, {std::string(4086, 'k'), "z"}};
  write_hdf5_tensors(dir / "y.h5", largest, 4);
  const auto opened = open_checkpoint(dir / "y.h5");
  CHECK(same_bytes(largest, *opened));
  auto metadata = opened->files()[0].metadata;
  std::sort(metadata.begin(), metadata.end());
  CHECK(metadata == std::vector<std::pair<std::string, std::string>>{{std::string(4086, 'k'), "z"},
                                                                     {"notes", std::string(1U << 20U, 'v')}});

  CHECK_THROWS_AS(write_hdf5_tensors(dir / "z.h5", MemoryCheckpoint(), 10), Error);
  CHECK_THROWS_AS(open_checkpoint(dir / "missing.h5"), Error);
}

// HDF5 1.10 leaks its buffers after a write that failed, which sanitizers report.
#ifndef QUANT_TEST_SANITIZED
TEST_CASE("a disk that fails is told with the dataset that it failed for") {
  TempDir dir;
  MemoryCheckpoint source;
  source.set("some.values", DType::U8, {16U << 20U}, noise(16U << 20U, 1));
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &old) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);  // writing fails then, as on a full disk
  const rlimit small{4U << 20U, old.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::string text;
  try {
    write_hdf5_tensors(dir / "x.h5", source, 0);
  } catch (const Error& error) {
    text = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  INFO(text);
  CHECK(has(text, (dir / "x.h5").string() + ": cannot write the dataset 'some/values'"));
}
#endif

TEST_CASE("metadata of all files goes through HDF5 and back") {
  TempDir dir;
  MemoryCheckpoint source;
  source.set("a", DType::U8, {3}, noise(3, 1));
  source.mutable_files() = {{"one", 0, {{"author", "A"}, {"shared", "first"}}},
                            {"two", 0, {{"format", "np"}, {"shared", "second"}}}};
  ConvertOptions options;
  options.output = dir / "hdf5";
  convert_checkpoint(source, options);
  options.container = builtin_registry().container("safetensors");
  options.output = dir / "back";
  convert_checkpoint(*open_checkpoint(dir / "hdf5"), options);
  CHECK(open_checkpoint(dir / "back" / "model.safetensors")->files()[0].metadata ==
        std::vector<std::pair<std::string, std::string>>{{"author", "A"}, {"format", "np"}, {"shared", "first"}});
  source.mutable_files() = {{"one", 0, {}}};
  options.output = dir / "plain";
  convert_checkpoint(source, options);
  CHECK(open_checkpoint(dir / "plain" / "model.safetensors")->files()[0].metadata ==
        std::vector<std::pair<std::string, std::string>>{{"format", "pt"}});
}

TEST_CASE("a quantized model in HDF5 is the model, and comes back to the same file") {
  TempDir dir;
  write_tiny_model(dir / "model", {.hidden = 80, .intermediate = 120});
  const Recipe recipe = load_recipe(std::filesystem::path(QUANT_SOURCE_DIR) / "recipes" / "hqq.yaml",
                                    {{"bits", "3"}, {"size", "40"}}, builtin_registry());
  {
    const auto checkpoint = open_checkpoint(dir / "model");
    PlanOptions libquant;
    libquant.layout = "libquant";
    const Plan plan = make_plan(*checkpoint, recipe, builtin_registry(), libquant);
    REQUIRE(plan.problems.empty());
    RunOptions run;
    run.output = dir / "packed";
    run_plan(plan, run);
  }
  const auto packed = open_checkpoint(dir / "packed");
  ConvertOptions options;
  options.output = dir / "hdf5";
  const ConvertResult result = convert_checkpoint(*packed, options);
  CHECK(result.tensors == packed->tensors().size());
  CHECK(result.bytes_after == std::filesystem::file_size(dir / "hdf5" / "model.h5"));
  CHECK_FALSE(std::filesystem::exists(dir / "hdf5.partial"));
  const auto hdf5 = open_checkpoint(dir / "hdf5");
  CHECK(hdf5->config().quantization_config == packed->config().quantization_config);
  CHECK(same_bytes(*packed, *hdf5));
  const Layout& layout = *builtin_registry().layout("libquant");
  REQUIRE(layout.recognizes(hdf5->config()));
  CHECK(layout.find_linears(*hdf5).size() == 14);
  CHECK(read_file(dir / "hdf5" / "tokenizer.json") == read_file(dir / "model" / "tokenizer.json"));

  const Container& safetensors = *builtin_registry().container("safetensors");
  DequantizeOptions floats;
  floats.output = dir / "floats";
  dequantize_checkpoint(*hdf5, builtin_registry(), safetensors, floats);
  floats.output = dir / "floats2";
  dequantize_checkpoint(*packed, builtin_registry(), safetensors, floats);
  CHECK(read_file(dir / "floats" / "model.safetensors") == read_file(dir / "floats2" / "model.safetensors"));

  options.container = &safetensors;
  options.output = dir / "back";
  convert_checkpoint(*hdf5, options);
  CHECK(read_file(dir / "back" / "model.safetensors") == read_file(dir / "packed" / "model.safetensors"));
  CHECK_THROWS_AS(convert_checkpoint(*hdf5, options), Error);  // it exists
}
