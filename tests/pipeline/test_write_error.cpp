// Runs whose disk fails at any moment: the error comes out, and what is left can be completed.
#include <atomic>
#include <limits>

#include "fixture.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using quant::test::model_files;
using quant::test::recipe_of;
using quant::test::TempDir;

namespace {

// Calls until a failure, once.
struct Countdown {
  static constexpr int kNever = std::numeric_limits<int>::max();
  std::atomic<int> left{kNever};
  void call(const char* what) {
    if (--left == 0) throw Error(ErrorCode::io, std::string("the disk refused to ") + what);
  }
};

struct Disk {
  Countdown writes, syncs;
  void work() { writes.left = syncs.left = Countdown::kNever; }
};

class FlakyWriter final : public ContainerWriter {
 public:
  FlakyWriter(std::unique_ptr<ContainerWriter> real, Disk& disk) : real_(std::move(real)), disk_(disk) {}
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    disk_.writes.call("write");
    real_->write(tensor, offset, data);
  }
  void sync() override {
    disk_.syncs.call("sync");
    real_->sync();
  }

 private:
  std::unique_ptr<ContainerWriter> real_;
  Disk& disk_;
};

// Safetensors on such a disk.
class FlakyContainer final : public Container {
 public:
  explicit FlakyContainer(Disk& disk) : real_(*test::builtin_registry().container("safetensors")), disk_(disk) {}
  std::string_view name() const override { return "flaky"; }
  std::string_view extension() const override { return real_.extension(); }
  std::uint64_t file_bytes(const std::vector<StoredTensor>& tensors,
                           const std::vector<std::pair<std::string, std::string>>& metadata) const override {
    return real_.file_bytes(tensors, metadata);
  }
  std::unique_ptr<ContainerWriter> create(const std::filesystem::path& path, const std::vector<StoredTensor>& tensors,
                                          const std::vector<std::pair<std::string, std::string>>& metadata,
                                          bool resume) const override {
    return std::make_unique<FlakyWriter>(real_.create(path, tensors, metadata, resume), disk_);
  }

 private:
  const Container& real_;
  Disk& disk_;
};

struct Prepared {
  TempDir dir;
  Disk disk;
  Registry registry;
  std::unique_ptr<Checkpoint> checkpoint;

  Prepared() {
    register_builtin_algorithms(registry);
    register_builtin_formats(registry);
    registry.add(std::make_unique<FlakyContainer>(disk));
    test::write_tiny_model(dir / "model", {.layers = 2, .hidden = 128, .intermediate = 256});
    checkpoint = open_checkpoint(dir / "model");
  }
  Plan plan(const std::string& container, int threads) const {
    PlanOptions options;
    options.container = container;
    options.threads = threads;
    options.shard_bytes = 100'000;
    const Plan plan = make_plan(*checkpoint, recipe_of("{scheme: W8A16, ignore: [lm_head]}"), registry, options);
    REQUIRE(plan.problems.empty());
    REQUIRE(plan.shards.size() > 1);
    return plan;
  }
  void run(const Plan& plan, const std::string& name, bool resume = false) const {
    RunOptions options;
    options.output = dir / name;
    options.resume = resume;
    run_plan(plan, options);
  }
  // Runs with a disk that fails at the given call, then with one that works.
  void fail_and_resume(const Plan& plan, Countdown& calls, int at, const std::string& what) {
    const std::string name = what + std::to_string(at) + "-" + std::to_string(plan.options.threads);
    INFO(name);
    disk.work();
    calls.left = at;
    try {
      run(plan, name);
      FAIL("the error was lost");
    } catch (const Error& error) {
      CHECK(error.code() == ErrorCode::io);
      CHECK(error.what() == "the disk refused to " + what);
    }
    disk.work();
    CHECK_FALSE(std::filesystem::exists(dir / name));
    REQUIRE(std::filesystem::exists(dir / (name + ".partial")));
    run(plan, name, true);
    CHECK(model_files(dir / name) == model_files(dir / "whole"));
  }
};

}  // namespace

TEST_CASE("a run that a write error ended is completed to the same bytes") {
  Prepared p;
  p.run(p.plan("safetensors", 1), "whole");
  for (const int threads : {1, 4}) {
    const Plan plan = p.plan("flaky", threads);
    const std::string name = "counted" + std::to_string(threads);
    p.disk.work();
    p.run(plan, name);
    CHECK(model_files(p.dir / name) == model_files(p.dir / "whole"));
    const int writes = Countdown::kNever - p.disk.writes.left;
    REQUIRE(writes > 10);
    for (const int at : {1, 2, writes / 3, writes / 2, writes - 1, writes}) {
      p.fail_and_resume(plan, p.disk.writes, at, "write");
    }
  }
}

TEST_CASE("a run that a sync error ended is completed to the same bytes") {
  Prepared p;
  p.run(p.plan("safetensors", 1), "whole");
  const Plan plan = p.plan("flaky", 2);
  p.run(plan, "counted");
  const int syncs = Countdown::kNever - p.disk.syncs.left;
  REQUIRE(syncs >= 2);
  for (int at = 1; at <= syncs; ++at) p.fail_and_resume(plan, p.disk.syncs, at, "sync");
}

TEST_CASE("the output is the same for 1 to 8 threads") {
  Prepared p;
  p.run(p.plan("safetensors", 1), "whole");
  for (int threads = 2; threads <= 8; ++threads) {
    const std::string name = "threads" + std::to_string(threads);
    p.run(p.plan("safetensors", threads), name);
    CHECK(model_files(p.dir / name) == model_files(p.dir / "whole"));
  }
}
