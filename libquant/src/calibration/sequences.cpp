#include <algorithm>
#include <cctype>
#include <limits>

#include "calibration/packer.h"
#include "calibration/sources.h"
#include "quant/calibration_data.h"
#include "quant/error.h"

namespace quant {

namespace {

using calibration::Packer;

std::string lower_extension(const std::filesystem::path& file) {
  std::string text = file.extension().string();
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

const Tokenizer& need_tokenizer(const Tokenizer* tokenizer, const std::filesystem::path& file) {
  if (tokenizer != nullptr) return *tokenizer;
  throw Error(ErrorCode::usage, file.string() + ": is text, and there is no tokenizer to read it with",
              "Put the model's tokenizer.json into its directory, or give token ids as a .npy or .h5 file.");
}

[[noreturn]] void nothing_left(const std::filesystem::path& file, const Packer& packer,
                               const CalibrationOptions& options) {
  const std::string found = std::to_string(packer.tokens()) + " tokens in " + std::to_string(packer.documents()) +
                            (packer.documents() == 1 ? " document" : " documents");
  if (packer.tokens() == 0) throw Error(ErrorCode::corrupt_file, file.string() + ": has no tokens (" + found + ")");
  throw Error(ErrorCode::usage,
              file.string() + ": has " + found + ", which do not fill one sequence of " +
                  std::to_string(options.seq_len) + " tokens",
              "Give a smaller --seq-len or a longer text.");
}

}  // namespace

std::uint64_t TokenSequences::tokens() const {
  std::uint64_t sum = 0;
  for (const auto& sequence : sequences) sum += sequence.size();
  return sum;
}

std::int32_t calibration::checked_id(std::int64_t value, const std::filesystem::path& file, std::uint64_t index,
                                     std::uint64_t cols) {
  if (value >= 0 && value <= std::numeric_limits<std::int32_t>::max()) return static_cast<std::int32_t>(value);
  throw Error(ErrorCode::corrupt_file,
              file.string() + ": row " + std::to_string(index / cols) + ", column " + std::to_string(index % cols) +
                  " holds " + std::to_string(value) + ", which is no token id",
              "Remove padding that is marked by numbers such as -1 or -100.", "InvalidTokenId");
}

TokenSequences read_sequences(const std::filesystem::path& file, const Tokenizer* tokenizer,
                              const CalibrationOptions& options) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error)) {
    throw Error(ErrorCode::io,
                file.string() + ": cannot open the file of text or token ids (" +
                    (error ? error.message() : "not a file") + ")",
                "Give a .txt, .jsonl, .npy or .h5 file.");
  }
  Packer packer(options);
  const std::string extension = lower_extension(file);
  if (extension == ".npy") {
    calibration::read_npy(file, packer);
  } else if (extension == ".h5" || extension == ".hdf5") {
    calibration::read_hdf5(file, packer);
  } else if (extension == ".jsonl" || extension == ".json") {
    calibration::read_json(file, need_tokenizer(tokenizer, file), options, packer);
  } else {
    calibration::read_text(file, need_tokenizer(tokenizer, file), options, packer);
  }
  TokenSequences result = packer.take();
  if (result.sequences.empty()) nothing_left(file, packer, options);
  result.source = file.string();
  result.hash = calibration::hash_of(result.sequences);
  return result;
}

}  // namespace quant
