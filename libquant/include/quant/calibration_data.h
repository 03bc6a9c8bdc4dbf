// Token sequences for calibration and evaluation, from text, JSON lines, HDF5 or NumPy files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "quant/tokenizer.h"

namespace quant {

/// How the messages of a conversation become a text: for each one prefix, content, suffix of its role; all of it
/// between `begin` and `end`. "{role}" in a prefix or suffix is replaced by the message's role.
struct ChatTemplate {
  struct Part {
    std::string prefix = "{role}: ";
    std::string suffix = "\n";
  };
  std::string begin;
  std::string end;
  Part other;                         ///< of roles that `roles` does not name
  std::map<std::string, Part> roles;  ///< by role: "system", "user", "assistant"

  /// Reads {"begin": ..., "end": ..., "roles": {"user": {"prefix": ..., "suffix": ...}, "*": {...}}}; every member may
  /// be left out. Throws Error{io, corrupt_file} naming the file and an unknown member.
  static ChatTemplate read(const std::filesystem::path& file);
};

struct CalibrationOptions {
  std::uint64_t samples = 0;    ///< sequences to take at most; 0: all
  std::uint64_t seq_len = 512;  ///< tokens per sequence at most
  bool pack = true;      ///< documents are joined and cut into full sequences; else one sequence per document, cut
  bool special = true;   ///< documents begin with what the post-processor adds (a packed plain text is one document)
  bool shuffle = false;  ///< takes `samples` sequences at random instead of the first ones
  std::uint64_t seed = 0;
  ChatTemplate chat;  ///< for "messages"
};

/// Token sequences and where they came from.
struct TokenSequences {
  std::vector<std::vector<std::int32_t>> sequences;  ///< none empty
  std::string source;                                ///< file as given
  std::string hash;                                  ///< of the ids and sequence lengths: XXH3-128, 32 hex digits
  std::uint64_t documents = 0;
  std::uint64_t dropped_tokens = 0;  ///< of the tail or of cut documents

  std::uint64_t tokens() const;
};

/// Reads `file` by its extension: .jsonl/.json (one object per line with "text", or "messages" joined by the rules of
/// docs/calibration.md), .npy / .h5 / .hdf5 (integer ids [sequences, length] or [tokens]; HDF5: dataset "input_ids"),
/// anything else is UTF-8 text. `tokenizer`: may be null for files of ids. Throws Error{io, corrupt_file, usage} naming
/// file and line, also if nothing is left.
TokenSequences read_sequences(const std::filesystem::path& file, const Tokenizer* tokenizer,
                              const CalibrationOptions& options);

}  // namespace quant
