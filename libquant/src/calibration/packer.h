// Documents of token ids into sequences.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/calibration_data.h"

namespace quant::calibration {

class Packer {
 public:
  /// Throws Error{usage} for sequences of no length. `options` must outlive the packer.
  explicit Packer(const CalibrationOptions& options);

  void add(std::span<const std::int32_t> document);
  /// No further document would change the sequences.
  bool full() const { return !options_.shuffle && options_.samples > 0 && sequences_.size() >= options_.samples; }
  std::uint64_t documents() const { return documents_; }
  std::uint64_t tokens() const { return tokens_; }

  /// The sequences, chosen and in order; `source` and `hash` are left empty.
  TokenSequences take();

 private:
  void add_packed(std::span<const std::int32_t> document);
  void choose();

  const CalibrationOptions& options_;
  std::vector<std::vector<std::int32_t>> sequences_;
  std::vector<std::int32_t> open_;  // the beginning of the next sequence
  std::uint64_t documents_ = 0;
  std::uint64_t tokens_ = 0;
};

/// XXH3-128 of the number of sequences, and of each one's length (64 bits) and ids (32 bits), all little-endian.
std::string hash_of(const std::vector<std::vector<std::int32_t>>& sequences);

}  // namespace quant::calibration
