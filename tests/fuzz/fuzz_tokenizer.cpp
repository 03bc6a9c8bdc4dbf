// Any bytes as tokenizer.json and any text (behind the first NUL): only quant::Error may come out. Ids are below the
// tokenizer's size, and the same text has the same ids again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "quant/error.h"
#include "quant/tokenizer.h"

namespace {

constexpr std::string_view kText = "It's 12 a\u0301b \u4e2d\u6587 \U0001F600\r\n\t  x<s> \u00bd\xff end";

void run(const quant::Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text, true);
  for (const std::int32_t id : ids) {
    if (id < 0) std::abort();
  }
  for (const std::int32_t id : tokenizer.encode(text, false)) {
    if (id < 0 || static_cast<std::uint32_t>(id) >= tokenizer.size()) std::abort();
  }
  if (tokenizer.encode(text, true) != ids) std::abort();
  tokenizer.decode(ids, true);
  tokenizer.decode(ids, false);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  try {
    const auto tokenizer = quant::Tokenizer::parse(input.substr(0, end), "fuzz");
    run(tokenizer, kText);
    if (end != std::string_view::npos) run(tokenizer, input.substr(end + 1));
  } catch (const quant::Error&) {
  }
  return 0;
}
