// The committer: bytes are durable before the journal says so, and failures to make them so come back.
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "pipeline/committer.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/memory_checkpoint.h"
#include "support/temp_dir.h"

using namespace quant;
using quant::test::TempDir;

namespace {

class FakeWriter final : public ContainerWriter {
 public:
  explicit FakeWriter(std::function<void()> on_sync) : on_sync_(std::move(on_sync)) {}
  void write(std::size_t, std::uint64_t, std::span<const std::byte>) override {}
  void sync() override { on_sync_(); }

 private:
  std::function<void()> on_sync_;
};

// Three files of eight copied tensors each: as much of a plan as a journal looks at.
Plan plan_of_copies(const Checkpoint& checkpoint) {
  Plan plan;
  plan.checkpoint = &checkpoint;
  plan.identity = "print";
  plan.shards.resize(3);
  for (PlannedShard& shard : plan.shards) shard.items.resize(8);
  return plan;
}

struct Fixture {
  TempDir dir;
  test::MemoryCheckpoint checkpoint;
  Plan plan = plan_of_copies(checkpoint);
  std::unique_ptr<Journal> journal = std::make_unique<Journal>(dir.path(), plan);
  std::vector<std::unique_ptr<ContainerWriter>> writers;
  std::vector<ItemResult> results = std::vector<ItemResult>(8);

  void add_writer(std::function<void()> on_sync) {
    writers.push_back(std::make_unique<FakeWriter>(std::move(on_sync)));
  }
  std::vector<std::pair<ItemKey, const ItemResult*>> items(const std::vector<ItemKey>& keys) const {
    std::vector<std::pair<ItemKey, const ItemResult*>> list;
    for (std::size_t i = 0; i < keys.size(); ++i) list.emplace_back(keys[i], &results.at(i));
    return list;
  }
  bool mentions(std::size_t shard) const {
    return test::read_file(dir / ".quant-journal.jsonl").find("\"shard\":" + std::to_string(shard)) !=
           std::string::npos;
  }
  // What a resumed run would find.
  std::vector<ItemKey> recorded() {
    journal.reset();
    journal = std::make_unique<Journal>(dir.path(), plan);
    std::vector<ItemKey> keys;
    for (const auto& [key, result] : journal->finished()) keys.push_back(key);
    return keys;
  }
};

std::string failure_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("an item enters the journal only after the sync of its shard") {
  Fixture f;
  std::vector<std::pair<std::size_t, bool>> syncs;  // (shard, in the journal already)
  for (std::size_t shard = 0; shard < 3; ++shard) {
    f.add_writer([&f, &syncs, shard] { syncs.emplace_back(shard, f.mentions(shard)); });
  }
  {
    Committer committer(*f.journal, f.writers);
    committer.add(f.items({{0, 0}, {2, 1}, {0, 1}}));
    committer.flush();
    CHECK(syncs == std::vector<std::pair<std::size_t, bool>>{{0, false}, {2, false}});
    CHECK(f.mentions(0));
    CHECK(f.mentions(2));
    committer.add(f.items({{1, 0}}));
    committer.flush();
    CHECK(syncs.back() == std::pair<std::size_t, bool>{1, false});
    CHECK(syncs.size() == 3);
    committer.flush();  // nothing is waiting
  }
  CHECK(f.recorded() == std::vector<ItemKey>{{0, 0}, {0, 1}, {1, 0}, {2, 1}});
}

TEST_CASE("shards without a writer need no sync") {
  Fixture f;
  f.writers.push_back(nullptr);
  {
    Committer committer(*f.journal, f.writers);
    committer.add(f.items({{0, 5}}));
    committer.flush();
  }
  CHECK(f.recorded() == std::vector<ItemKey>{{0, 5}});
}

TEST_CASE("a failing sync comes back from flush and add, and nothing is recorded") {
  Fixture f;
  f.add_writer([] {});
  f.add_writer([] { throw Error(ErrorCode::io, "disk full"); });
  {
    Committer committer(*f.journal, f.writers);
    committer.add(f.items({{0, 0}, {1, 0}}));
    CHECK(failure_of([&] { committer.flush(); }) == "disk full");
    CHECK(failure_of([&] { committer.add(f.items({{0, 1}})); }) == "disk full");
    CHECK(failure_of([&] { committer.flush(); }) == "disk full");
  }
  CHECK(f.recorded().empty());
}

TEST_CASE("what was recorded before a failing sync stays") {
  Fixture f;
  bool full = false;
  f.add_writer([&] {
    if (full) throw Error(ErrorCode::io, "disk full");
  });
  {
    Committer committer(*f.journal, f.writers);
    committer.add(f.items({{0, 0}}));
    committer.flush();
    full = true;
    committer.add(f.items({{0, 1}}));
    CHECK(failure_of([&] { committer.flush(); }) == "disk full");
  }
  CHECK(f.recorded() == std::vector<ItemKey>{{0, 0}});
}

TEST_CASE("the destructor commits what is waiting") {
  Fixture f;
  std::atomic<bool> syncing{false};
  std::atomic<bool> go_on{false};
  f.add_writer([&] {
    syncing = true;
    while (!go_on) std::this_thread::yield();
  });
  {
    Committer committer(*f.journal, f.writers);
    committer.add(f.items({{0, 0}}));
    while (!syncing) std::this_thread::yield();
    committer.add(f.items({{0, 1}}));
    committer.add(f.items({{0, 2}}));
    CHECK_FALSE(f.mentions(0));
    go_on = true;
  }
  CHECK(f.recorded() == std::vector<ItemKey>{{0, 0}, {0, 1}, {0, 2}});
}

TEST_CASE("the destructor swallows a failure that nobody asked for") {
  Fixture f;
  f.add_writer([] { throw Error(ErrorCode::io, "disk full"); });
  {
    Committer committer(*f.journal, f.writers);
    committer.add(f.items({{0, 0}}));
  }
  CHECK(f.recorded().empty());
}
