// Any text as a chat template, and (behind the first NUL) any text as JSON lines of documents and conversations: only
// quant::Error may come out, and the same documents give the same tokens again.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "calibration/sources.h"
#include "calibration/support.h"
#include "support/temp_dir.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

template <class Call>
void only_corrupt_file(Call call) {
  try {
    call();
  } catch (const quant::Error& error) {
    require(error.code() == quant::ErrorCode::corrupt_file && !error.hint().empty());
  }
}

quant::test::Sequences read(const std::filesystem::path& file, const quant::CalibrationOptions& options) {
  static const quant::Tokenizer tokenizer = quant::test::letters();
  quant::calibration::Packer packer(options);
  quant::calibration::read_json(file, tokenizer, options, packer);
  quant::TokenSequences found = packer.take();
  require(found.tokens() + found.dropped_tokens == packer.tokens());
  for (const auto& sequence : found.sequences) {
    require(!sequence.empty() && sequence.size() <= options.seq_len);
    for (const std::int32_t id : sequence) require(id >= 0 && static_cast<std::uint32_t>(id) < tokenizer.size());
  }
  return found.sequences;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quant::test::TempDir folder(quant::test::memory_folder());
  const std::string input(reinterpret_cast<const char*>(data), size);
  const std::size_t end = input.find('\0');
  quant::CalibrationOptions options;
  options.seq_len = 16;
  only_corrupt_file([&] {
    quant::test::write_file(folder / "chat.json", input.substr(0, end));
    options.chat = quant::ChatTemplate::read(folder / "chat.json");
  });
  if (end == std::string::npos) return 0;
  const std::filesystem::path file = folder / "documents.jsonl";
  quant::test::write_file(file, input.substr(end + 1));
  only_corrupt_file([&] { require(read(file, options) == read(file, options)); });
  return 0;
}
