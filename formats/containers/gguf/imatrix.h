// Importance of columns as llama.cpp keeps it: mean squares of each weight's inputs. Two forms: GGUF (general.type
// "imatrix") and an older one without a magic number. Source: llama.cpp, tools/imatrix.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "containers/gguf/header.h"
#include "containers/io/file_io.h"
#include "quant/checkpoint.h"

namespace quant::gguf {

/// Of one weight, under the name that GGUF files give it. Of experts: one after the other.
struct Importance {
  std::string name;            ///< "blk.0.attn_q.weight"
  std::vector<float> squares;  ///< mean over calls or tokens, per column
  double count = 1;            ///< of tokens (GGUF) or calls
};

/// Throws Error{corrupt_file} naming the tensor for missing counts, wrong shapes and numbers that are not finite.
std::vector<Importance> read_importance(const Header& header, const io::MappedFile& map,
                                        const std::filesystem::path& path);
/// The older form.
std::vector<Importance> read_legacy_importance(std::span<const std::byte> bytes, const std::filesystem::path& path);

/// F32 tensors [columns] under the names that weights have in Transformers.
std::unique_ptr<Checkpoint> importance_checkpoint(const std::filesystem::path& path, std::vector<Importance> entries,
                                                  CheckpointFile file);
/// True for names that files of the older form go by: they end in .dat or .imatrix.
bool has_importance_name(const std::filesystem::path& file);
std::unique_ptr<Checkpoint> open_legacy_importance(const std::filesystem::path& file);

/// The bytes of either form. `data`: what the numbers come from.
std::string importance_bytes(std::span<const Importance> entries, const std::string& data, std::uint64_t chunk_tokens);
std::string legacy_importance_bytes(std::span<const Importance> entries, const std::string& data);

}  // namespace quant::gguf
