#include <fmt/format.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>

#include "quant/statistics_file.h"

namespace quant {

std::string model_fingerprint(const Checkpoint& checkpoint) {
  constexpr std::size_t kBytes = 4096;  // of each tensor: training changes all of them
  std::vector<const TensorInfo*> tensors;
  for (const TensorInfo& tensor : checkpoint.tensors()) tensors.push_back(&tensor);
  // However they are divided into files.
  std::sort(tensors.begin(), tensors.end(), [](const auto* a, const auto* b) { return a->name < b->name; });
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  for (const TensorInfo* tensor : tensors) {
    const std::string text =
        fmt::format("{} {} {}\n", tensor->name, dtype_name(tensor->dtype), to_string(tensor->shape));
    XXH3_128bits_update(&state, text.data(), text.size());
    XXH3_128bits_update(&state, checkpoint.view(*tensor).bytes.data(), std::min<std::size_t>(kBytes, tensor->bytes));
  }
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

}  // namespace quant
