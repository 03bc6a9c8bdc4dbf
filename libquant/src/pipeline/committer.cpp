#include "pipeline/committer.h"

#include <set>
#include <system_error>
#include <utility>

#include "thread_pool.h"

namespace quant {

Committer::Committer(Journal& journal, const std::vector<std::unique_ptr<ContainerWriter>>& writers) try
    : journal_(journal), writers_(writers), thread_([this] { work(); }) {
} catch (const std::system_error& reason) {
  throw_no_threads(1, reason);
}

Committer::~Committer() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Committer::add(std::vector<std::pair<ItemKey, const ItemResult*>> items) {
  const std::lock_guard lock(mutex_);
  if (failure_) std::rethrow_exception(failure_);
  waiting_.insert(waiting_.end(), items.begin(), items.end());
  changed_.notify_all();
}

void Committer::flush() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return failure_ || (waiting_.empty() && !busy_); });
  if (failure_) std::rethrow_exception(failure_);
}

void Committer::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return closing_ || (!waiting_.empty() && !failure_); });
    if (closing_ && (waiting_.empty() || failure_)) return;
    const auto items = std::exchange(waiting_, {});
    busy_ = true;
    lock.unlock();
    std::exception_ptr failure;
    try {
      commit(items);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    busy_ = false;
    failure_ = failure;
    changed_.notify_all();
  }
}

void Committer::commit(const std::vector<std::pair<ItemKey, const ItemResult*>>& items) {
  std::set<std::size_t> shards;
  for (const auto& [key, result] : items) shards.insert(key.first);
  for (const std::size_t shard : shards) {
    if (writers_[shard]) writers_[shard]->sync();
  }
  journal_.record(items);
}

}  // namespace quant
