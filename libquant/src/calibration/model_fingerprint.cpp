#include <fmt/format.h>

#include <algorithm>

#include "hash.h"
#include "quant/statistics_file.h"

namespace quant {

std::string model_fingerprint(const Checkpoint& checkpoint) {
  constexpr std::size_t kBytes = 4096;  // of each tensor: training changes all of them
  std::vector<const TensorInfo*> tensors;
  for (const TensorInfo& tensor : checkpoint.tensors()) tensors.push_back(&tensor);
  // However they are divided into files.
  std::sort(tensors.begin(), tensors.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  Hash hash;
  for (const TensorInfo* tensor : tensors) {
    const std::string text =
        fmt::format("{} {} {}\n", tensor->name, dtype_name(tensor->dtype), to_string(tensor->shape));
    hash.add(text.data(), text.size());
    hash.add(checkpoint.view(*tensor).bytes.data(), std::min<std::size_t>(kBytes, tensor->bytes));
  }
  return hash.hex();
}

}  // namespace quant
