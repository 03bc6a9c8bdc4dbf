#include <algorithm>
#include <chrono>

#include "quant/error.h"
#include "quant/evaluate.h"

namespace quant {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::int32_t likeliest(std::span<const float> logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

}  // namespace

SpeedResult measure_speed(LanguageModel& model, std::span<const std::int32_t> prompt, const SpeedOptions& options) {
  if (prompt.empty() || options.new_tokens < 2 || options.repeats < 1) {
    throw Error(ErrorCode::usage, "speed needs a prompt, at least 2 new tokens and 1 repeat");
  }
  if (!model.memory_plan().resident) {
    throw Error(ErrorCode::usage, "speed can be measured only with all weights in memory", "allow more with --memory",
                "NotResident");
  }
  Decoder(model).feed(prompt);  // prepares all weights
  std::vector<double> first;
  std::vector<double> decode;
  for (int i = 0; i < options.repeats; ++i) {
    Decoder decoder(model);
    auto start = Clock::now();
    std::int32_t token = likeliest(decoder.feed(prompt));
    first.push_back(seconds_since(start));
    start = Clock::now();
    for (std::uint64_t t = 1; t < options.new_tokens; ++t) token = likeliest(decoder.feed(std::span(&token, 1)));
    decode.push_back(seconds_since(start));
  }
  SpeedResult result;
  result.prompt_tokens = prompt.size();
  result.new_tokens = options.new_tokens;
  result.first_token_seconds = median(first);
  result.prefill_tokens_per_second = static_cast<double>(prompt.size()) / result.first_token_seconds;
  result.decode_tokens_per_second = static_cast<double>(options.new_tokens - 1) / median(decode);
  return result;
}

}  // namespace quant
