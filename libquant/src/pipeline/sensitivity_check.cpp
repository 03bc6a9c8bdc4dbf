#include "pipeline/sensitivity_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "parallel_tasks.h"
#include "quant/error.h"

namespace quant {
namespace {

constexpr std::uint64_t kBlockValues = 1U << 18U;
constexpr std::size_t kNamed = 8;

struct BadNumber {
  std::uint64_t at = 0;
  float value = 0;
};

std::optional<BadNumber> scan(const Checkpoint& file, const TensorInfo& tensor, const RowBlock& block) {
  const TensorView whole = file.view(tensor);
  const std::uint64_t bytes = dtype_bits(tensor.dtype) / 8;
  const TensorView part{tensor.dtype, {block.count}, whole.bytes.subspan(block.first * bytes, block.count * bytes)};
  static thread_local std::vector<float> values;
  values.resize(block.count);
  file.will_read(part);
  read_f32(part, 0, values);
  file.done_reading(part);
  for (std::uint64_t i = 0; i < block.count; ++i) {
    if (!(values[i] >= 0) || !std::isfinite(values[i])) return BadNumber{block.first + i, values[i]};
  }
  return std::nullopt;
}

std::string sentence(const Checkpoint& file, const TensorInfo& tensor, const BadNumber& bad) {
  const std::uint64_t cols = tensor.shape.back();
  const std::string place = tensor.shape.size() == 1 ? fmt::format("column {}", bad.at)
                                                     : fmt::format("row {}, column {}", bad.at / cols, bad.at % cols);
  return fmt::format("sensitivities: {} in {} is {} at {}, not a number from 0 up", tensor.name,
                     file.files()[tensor.file].path.string(), bad.value, place);
}

}  // namespace

void require_sound_sensitivities(const Plan& plan, ThreadPool& pool, const std::function<void()>& tick,
                                 const std::atomic<bool>* stop) {
  const Checkpoint& file = *plan.options.sensitivities;
  std::vector<const TensorInfo*> tensors;
  std::vector<RowBlock> blocks;
  for (const PlannedLinear& linear : plan.linears) {
    if (linear.sensitivity == nullptr) continue;
    append_blocks(tensors.size(), element_count(linear.sensitivity->shape), kBlockValues, blocks);
    tensors.push_back(linear.sensitivity);
  }
  std::vector<std::optional<BadNumber>> found(blocks.size());
  pool.run(
      blocks.size(),
      [&](std::size_t i) {
        if (stop == nullptr || !*stop) found[i] = scan(file, *tensors[blocks[i].tensor], blocks[i]);
      },
      tick);
  if (stop != nullptr && *stop) throw Error(ErrorCode::interrupted, "stopped while the sensitivities were checked");
  std::string text;
  std::size_t count = 0, last = tensors.size();
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (!found[i] || blocks[i].tensor == last) continue;
    last = blocks[i].tensor;
    if (++count <= kNamed) text += (text.empty() ? "" : "\n") + sentence(file, *tensors[last], *found[i]);
  }
  if (count > kNamed) text += fmt::format("\nand {} more tensors", count - kNamed);
  if (!text.empty()) throw Error(ErrorCode::numerical, text, "repair the file of sensitivities");
}

}  // namespace quant
