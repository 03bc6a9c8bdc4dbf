// Makes finished items durable in the background, while the next ones are computed.
#pragma once

#include <condition_variable>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "pipeline/journal.h"
#include "quant/checkpoint.h"

namespace quant {

/// An item enters the journal only after its bytes have reached the disk.
class Committer {
 public:
  /// `writers`: one per shard, null where nothing is to be written.
  Committer(Journal& journal, const std::vector<std::unique_ptr<ContainerWriter>>& writers);
  ~Committer();
  Committer(const Committer&) = delete;
  Committer& operator=(const Committer&) = delete;

  /// Hands over finished items. Results must stay where they are until flush(). Rethrows an earlier failure to commit.
  void add(std::vector<std::pair<ItemKey, const ItemResult*>> items);
  /// Waits until everything handed over is durable.
  void flush();

 private:
  void work();
  void commit(const std::vector<std::pair<ItemKey, const ItemResult*>>& items);

  Journal& journal_;
  const std::vector<std::unique_ptr<ContainerWriter>>& writers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<ItemKey, const ItemResult*>> waiting_;
  bool busy_ = false;
  bool closing_ = false;
  std::exception_ptr failure_;
  std::thread thread_;
};

}  // namespace quant
