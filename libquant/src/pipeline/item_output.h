// Writes finished linears and changed tensors to their places in the output.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/journal.h"
#include "quant/plan.h"
#include "thread_pool.h"

namespace quant {

/// Passes a layout's writes for one linear on to its places in the shard.
class ShardSink final : public StoredBytesSink {
 public:
  ShardSink(ContainerWriter& writer, const PlannedItem& item) : writer_(writer), item_(item) {}
  void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) override {
    writer_.write(item_.places.at(tensor), offset, data);
  }

 private:
  ContainerWriter& writer_;
  const PlannedItem& item_;
};

/// noise / signal; 0 if both are 0, infinity for an error of something that is all zero.
float nmse_of(double signal, double noise);

/// Writes whole coded tensors, slice by slice on the threads of a pool, and measures them on the way.
class ItemOutput {
 public:
  ItemOutput(const Plan& plan, const std::vector<std::unique_ptr<ContainerWriter>>& writers, ThreadPool& pool);

  const ItemKey& key_of_linear(std::size_t linear) const { return linears_.at(linear); }
  const ItemKey& key_of_copy(std::size_t copy) const { return copies_.at(copy); }
  const ItemKey& key_of_cache(std::size_t cache) const { return caches_.at(cache); }

  /// Rows of a linear as the layout stores them, with `scheme` (that of the plan, or one with the inputs' range).
  /// `reference` [rows, cols]: the weights that errors are measured against.
  ItemResult write_linear(std::size_t linear, const Scheme& scheme, std::span<const float> reference,
                          const QuantizedTensor& coded) const;
  /// A tensor that is not quantized, from float32 values in its stored order.
  void write_copy(std::size_t copy, std::span<const float> values) const;
  /// The same with its original bytes.
  void write_copy(std::size_t copy) const;
  /// The scales of a cache whose keys and values lie in these ranges.
  void write_cache(std::size_t cache, std::pair<float, float> keys, std::pair<float, float> values) const;

 private:
  ContainerWriter& writer_of(const ItemKey& key) const { return *writers_[key.first]; }
  const PlannedItem& item_of(const ItemKey& key) const { return plan_.shards[key.first].items[key.second]; }

  const Plan& plan_;
  const std::vector<std::unique_ptr<ContainerWriter>>& writers_;
  ThreadPool& pool_;
  std::vector<ItemKey> linears_;
  std::vector<ItemKey> copies_;
  std::vector<ItemKey> caches_;
};

/// Groups of the linear's N:M pattern with more than N weights in a coded slice. Throws Error{internal} if a weight
/// that its mask removes is not 0.
std::uint64_t check_pruned(const PlannedLinear& linear, const QuantizedTensor& slice);

/// `values` in the bytes of a type (F32, F16, BF16).
std::vector<std::byte> encode_floats(DType type, std::span<const float> values);

}  // namespace quant
