#include "finite_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "parallel_tasks.h"
#include "quant/error.h"
#include "quant/weight_rows.h"

namespace quant {
namespace {

constexpr std::uint64_t kBlockValues = 1U << 20U;
constexpr std::size_t kNamed = 8;

struct BadValues {
  std::uint64_t count = 0;
  std::uint64_t first = 0;
  float value = 0;
};

BadValues scan(const Checkpoint& checkpoint, const TensorInfo& tensor, const RowBlock& block) {
  const TensorView whole = checkpoint.view(tensor);
  const std::uint64_t value_bytes = dtype_bits(tensor.dtype) / 8;
  const TensorView part{
      tensor.dtype, {1, block.count}, whole.bytes.subspan(block.first * value_bytes, block.count * value_bytes)};
  checkpoint.will_read(part);
  BadValues bad;
  if (const auto first = find_non_finite(part)) {
    std::vector<float> values(block.count);
    read_f32(part, 0, values);
    for (const float value : values) bad.count += std::isfinite(value) ? 0 : 1;
    bad.first = block.first + first->col;
    bad.value = first->value;
  }
  checkpoint.done_reading(part);
  return bad;
}

std::string sentence(const Checkpoint& checkpoint, const TensorInfo& tensor, const BadValues& bad) {
  const std::uint64_t cols = tensor.shape.empty() ? 1 : tensor.shape.back();
  const std::string place = tensor.shape.size() < 2
                                ? fmt::format("element {}", bad.first)
                                : fmt::format("row {}, column {}", bad.first / cols, bad.first % cols);
  return fmt::format("{} in {} has {} value{} NaN or infinite (first at {}: {})", tensor.name,
                     checkpoint.files()[tensor.file].path.string(), bad.count,
                     bad.count == 1 ? " that is" : "s that are", place, bad.value);
}

}  // namespace

void add_tensors_read(const Program& program, std::set<std::string>& names) {
  for (const Op& op : program.ops) {
    if (const auto* norm = std::get_if<NormOp>(&op)) {
      names.insert({norm->weight, norm->bias});
      names.insert(norm->group_weights.begin(), norm->group_weights.end());
    } else if (const auto* linear = std::get_if<LinearOp>(&op)) {
      for (const LinearWeight& weight : linear->weights) names.insert({weight.tensor, weight.bias});
    } else if (const auto* embedding = std::get_if<EmbeddingOp>(&op)) {
      names.insert(embedding->weight);
    }
  }
}

std::vector<const TensorInfo*> tensors_named(const Checkpoint& checkpoint, const std::set<std::string>& names) {
  std::vector<const TensorInfo*> tensors;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (names.contains(tensor.name)) tensors.push_back(&tensor);
  }
  return tensors;
}

std::vector<const TensorInfo*> floating_tensors(const Checkpoint& checkpoint) {
  constexpr std::array kFloating{DType::F64,     DType::F32,     DType::F16,    DType::BF16,
                                 DType::F8_E4M3, DType::F8_E5M2, DType::F8_E8M0};
  std::vector<const TensorInfo*> tensors;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (std::find(kFloating.begin(), kFloating.end(), tensor.dtype) != kFloating.end()) tensors.push_back(&tensor);
  }
  return tensors;
}

std::string describe_non_finite(const Checkpoint& checkpoint, const std::vector<const TensorInfo*>& tensors,
                                ThreadPool& pool, const std::function<void()>& tick, const std::atomic<bool>* stop) {
  std::vector<RowBlock> blocks;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    append_blocks(t, element_count(tensors[t]->shape), kBlockValues, blocks);
  }
  std::vector<BadValues> found(blocks.size());
  pool.run(
      blocks.size(),
      [&](std::size_t i) {
        if (stop != nullptr && *stop) return;
        found[i] = scan(checkpoint, *tensors[blocks[i].tensor], blocks[i]);
      },
      tick);
  if (stop != nullptr && *stop) throw Error(ErrorCode::interrupted, "stopped while the weights were checked");
  std::map<std::size_t, BadValues> bad;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (found[i].count == 0) continue;
    const auto [at, is_new] = bad.try_emplace(blocks[i].tensor, found[i]);
    if (!is_new) at->second.count += found[i].count;
  }
  std::string text;
  std::size_t named = 0;
  for (const auto& [tensor, values] : bad) {
    if (named++ == kNamed) break;
    text += (text.empty() ? "" : "\n") + sentence(checkpoint, *tensors[tensor], values);
  }
  if (bad.size() > kNamed) text += fmt::format("\nand {} more tensors", bad.size() - kNamed);
  return text;
}

}  // namespace quant
