#include <fmt/format.h>

#include <limits>
#include <numbers>

#include "quant/calibration_data.h"
#include "quant/error.h"
#include "quant/evaluate.h"

namespace quant {

double EvalWindows::bits_per_byte(double nats) const {
  if (bytes == 0) return std::numeric_limits<double>::quiet_NaN();
  return nats / std::numbers::ln2 * static_cast<double>(tokens) / static_cast<double>(bytes);
}

EvalWindows read_windows(const std::filesystem::path& file, const Tokenizer* tokenizer, const WindowOptions& options) {
  if (options.length < 2) {
    throw Error(ErrorCode::usage, fmt::format("windows of {} tokens predict nothing", options.length),
                "windows need at least 2 tokens");
  }
  const std::uint64_t taken = options.length - (options.first ? 1 : 0);
  CalibrationOptions packed;
  packed.samples = options.count;
  packed.seq_len = taken;
  packed.pack = true;
  packed.special = false;
  packed.chat = options.chat;
  TokenSequences read = read_sequences(file, tokenizer, packed);
  EvalWindows windows{std::move(read.sequences), read.source, read.hash, 0, 0};
  windows.tokens = taken * windows.windows.size();
  if (tokenizer != nullptr) {
    std::vector<std::int32_t> joined;
    for (const auto& window : windows.windows) joined.insert(joined.end(), window.begin(), window.end());
    windows.bytes = tokenizer->decode(joined, false).size();
  }
  if (options.first) {
    for (auto& window : windows.windows) window.insert(window.begin(), *options.first);
  }
  return windows;
}

}  // namespace quant
