// The key-value pairs of a checkpoint's files, for a copy in one file.
#pragma once

#include <map>
#include <string>

#include "quant/checkpoint.h"

namespace quant {

/// Of a key that several files have, the first file's value counts.
inline std::map<std::string, std::string> merged_metadata(const Checkpoint& checkpoint) {
  std::map<std::string, std::string> merged;
  for (const CheckpointFile& file : checkpoint.files()) merged.insert(file.metadata.begin(), file.metadata.end());
  return merged;
}

}  // namespace quant
