#include "pipeline/item_output.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "plan/pruning.h"
#include "plan/resources.h"
#include "quant/error.h"
#include "quant/observers.h"

namespace quant {
namespace {

constexpr std::uint64_t kEncodeChunk = 1U << 20U;

struct SliceResult {
  ErrorSums sums;
  double scale_min = std::numeric_limits<double>::infinity();
  double scale_max = 0;
  std::uint64_t violations = 0;
  std::vector<double> group_signal;
  std::vector<double> group_noise;
};

void note_scales(const QuantizedTensor& slice, SliceResult& result) {
  for (const float scale : slice.scales) {
    result.scale_min = std::min(result.scale_min, std::fabs(static_cast<double>(scale)));
    result.scale_max = std::max(result.scale_max, std::fabs(static_cast<double>(scale)));
  }
}

// In the order of slices, so that no sum depends on the number of threads.
void merge(const std::vector<SliceResult>& slices, ItemResult& item) {
  item.scale_min = std::numeric_limits<double>::infinity();
  std::vector<double> signal;
  std::vector<double> noise;
  for (const SliceResult& slice : slices) {
    item.sums += slice.sums;
    item.violations += slice.violations;
    item.scale_min = std::min(item.scale_min, slice.scale_min);
    item.scale_max = std::max(item.scale_max, slice.scale_max);
    signal.resize(slice.group_signal.size(), 0.0);
    noise.resize(slice.group_noise.size(), 0.0);
    for (std::size_t g = 0; g < signal.size(); ++g) {
      signal[g] += slice.group_signal[g];
      noise[g] += slice.group_noise[g];
    }
  }
  if (!std::isfinite(item.scale_min)) item.scale_min = 0;
  for (std::size_t g = 0; g < signal.size(); ++g) item.group_nmse.push_back(nmse_of(signal[g], noise[g]));
}

}  // namespace

std::uint64_t check_pruned(const PlannedLinear& linear, const QuantizedTensor& slice) {
  if (slice.mask.empty()) return 0;
  std::vector<float> row(slice.cols);
  std::uint64_t violations = 0;
  for (std::uint64_t r = 0; r < slice.rows; ++r) {
    dequantize_row(slice, r, row);
    const auto mask = std::span(slice.mask).subspan(r * slice.cols, slice.cols);
    for (std::uint64_t c = 0; c < slice.cols; ++c) {
      if (mask[c] != 0 || row[c] == 0) continue;
      throw Error(ErrorCode::internal,
                  linear.shape.module + ": a removed weight got a value other than 0 when it was coded");
    }
    for (const PlannedPruning& pruning : linear.pruning) {
      const SparsityPattern& pattern = pruning.pattern;
      if (pattern.semi_structured()) violations += count_violations(row, pattern.keep, pattern.of);
    }
  }
  return violations;
}

float nmse_of(double signal, double noise) {
  if (signal > 0) return static_cast<float>(noise / signal);
  return noise > 0 ? std::numeric_limits<float>::infinity() : 0.0F;
}

std::vector<std::byte> encode_floats(DType type, std::span<const float> values) {
  std::vector<std::byte> bytes(byte_count(type, {values.size()}));
  if (type == DType::F32) {
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  if (type != DType::F16 && type != DType::BF16) {
    throw Error(ErrorCode::internal, std::string("floats cannot be written as ") + std::string(dtype_name(type)));
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = type == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

ItemOutput::ItemOutput(const Plan& plan, const std::vector<std::unique_ptr<ContainerWriter>>& writers, ThreadPool& pool)
    : plan_(plan),
      writers_(writers),
      pool_(pool),
      linears_(plan.linears.size()),
      copies_(plan.copies.size()),
      caches_(plan.caches.size()) {
  for (std::size_t s = 0; s < plan.shards.size(); ++s) {
    for (std::size_t i = 0; i < plan.shards[s].items.size(); ++i) {
      const PlannedItem& item = plan.shards[s].items[i];
      (item.quantized ? linears_ : item.cache ? caches_ : copies_)[item.index] = {s, i};
    }
  }
}

ItemResult ItemOutput::write_linear(std::size_t linear, const Scheme& scheme, std::span<const float> reference,
                                    const QuantizedTensor& coded) const {
  const PlannedLinear& planned = plan_.linears[linear];
  const ItemKey key = key_of_linear(linear);
  const TensorView view = f32_view(reference, coded.rows, coded.cols);
  const std::uint64_t step = slice_rows(plan_, planned);
  const std::uint64_t count = (coded.rows + step - 1) / step;
  std::vector<SliceResult> slices(count);
  ItemResult item;
  item.row_nmse.resize(coded.rows);
  const auto task = [&](std::size_t s) {
    const std::uint64_t first = s * step;
    const QuantizedTensor slice = slice_of(coded, first, std::min(step, coded.rows - first));
    SliceResult& result = slices[s];
    std::vector<ErrorSums> rows(slice.rows);
    result.group_signal.assign(slice.grid.cols, 0.0);
    result.group_noise.assign(slice.grid.cols, 0.0);
    measure_rows(view.slice_rows(first, slice.rows), slice, {rows, result.group_signal, result.group_noise});
    ShardSink sink(writer_of(key), item_of(key));
    result.violations = check_pruned(planned, slice);
    layout_for(plan_, planned).write_rows(scheme, planned.shape, first, slice, sink);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      item.row_nmse[first + r] = nmse_of(rows[r].signal, rows[r].noise);
      result.sums += rows[r];
    }
    note_scales(slice, result);
  };
  pool_.run(count, task, [] {});
  merge(slices, item);
  return item;
}

void ItemOutput::write_copy(std::size_t copy, std::span<const float> values) const {
  const TensorInfo& tensor = *plan_.copies[copy].tensor;
  const ItemKey key = key_of_copy(copy);
  for (std::uint64_t first = 0; first < values.size(); first += kEncodeChunk) {
    const auto part = values.subspan(first, std::min<std::uint64_t>(kEncodeChunk, values.size() - first));
    writer_of(key).write(item_of(key).places.front(), byte_count(tensor.dtype, {first}),
                         encode_floats(tensor.dtype, part));
  }
}

void ItemOutput::write_cache(std::size_t cache, std::pair<float, float> keys, std::pair<float, float> values) const {
  const PlannedCache& planned = plan_.caches[cache];
  const ItemKey key = key_of_cache(cache);
  const std::pair<float, float> ranges[] = {keys, values};
  for (std::size_t i = 0; i < planned.stored.size(); ++i) {
    const DType type = planned.stored[i].dtype;
    const float scale = static_activation_scale(planned.args, ranges[i].first, ranges[i].second, type).scale;
    writer_of(key).write(item_of(key).places[i], 0, encode_floats(type, std::span(&scale, 1)));
  }
}

void ItemOutput::write_copy(std::size_t copy) const {
  const TensorView view = plan_.checkpoint->view(*plan_.copies[copy].tensor);
  const ItemKey key = key_of_copy(copy);
  for (std::uint64_t first = 0; first < view.bytes.size(); first += kCopyChunk) {
    const auto part = view.bytes.subspan(first, std::min<std::uint64_t>(kCopyChunk, view.bytes.size() - first));
    writer_of(key).write(item_of(key).places.front(), first, part);
    plan_.checkpoint->done_reading({view.dtype, view.shape, part});
  }
}

}  // namespace quant
