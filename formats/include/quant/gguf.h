// GGUF files for llama.cpp, made of any checkpoint that this library reads. Library quant::formats.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "quant/block_encode.h"
#include "quant/logical_tensors.h"
#include "quant/metrics.h"
#include "quant/quantized_tensor.h"

namespace quant {

struct GgufExportOptions {
  std::filesystem::path output;        ///< file to make; it must not exist
  std::optional<BlockType> type;       ///< of matrices that are floats, embedding and head aside; null: as they are
  std::optional<BlockType> embedding;  ///< of the token embedding; null: `type`
  std::optional<BlockType> head;       ///< of the output head; null: `type`
  BlockEncoder encoder = BlockEncoder::search;
  /// Importance of columns (open_checkpoint of an imatrix file); null: none. Must outlive the call.
  const Checkpoint* importance = nullptr;
  bool requantize = false;    ///< quantized matrices whose codes no block format holds are rounded to `type`
  std::string pre_tokenizer;  ///< llama.cpp's name for how text is split; empty: found from tokenizer.json
  ScanOptions scan;
};

/// What became of a matrix that is written in blocks.
struct GgufMatrix {
  std::string name;      ///< in the checkpoint
  BlockType type;        ///< in the file
  bool moved = false;    ///< its codes were kept
  bool rounded = false;  ///< it was quantized before and lost precision once more
  ErrorSums sums;        ///< of the blocks against the checkpoint's values; all 0 where codes were kept
};

struct GgufExportResult {
  std::size_t tensors = 0;
  std::vector<GgufMatrix> matrices;  ///< those in blocks, in the file's order
  std::vector<std::string> remarks;  ///< what the user should know: fallbacks, a missing tokenizer
  std::uint64_t bytes_before = 0;    ///< of tensors
  std::uint64_t bytes_after = 0;     ///< of the file
};

/// Writes a GGUF file (version 3) with the model's weights, hyperparameters and tokenizer, which llama.cpp loads.
/// Families: llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3, phi3, olmo2, stablelm, gpt2, gpt_neox, mixtral,
/// qwen2_moe, qwen3_moe; experts of a layer become one tensor. Quantized matrices keep their codes where a block
/// format holds them (of experts: of all of a layer): blocks of GGUF, int4 (Q4_0, Q4_1) and int8 (Q8_0) in groups of a
/// multiple of 32 with scales that are half precision, MXFP4. Memory does not grow with the model; the file does not
/// depend on the number of threads. Written as "<output>.partial" and renamed at the end. Throws Error{unsupported} for
/// other families, tensors without a place, settings, rotary scalings and tokenizers that llama.cpp does not know, and
/// for matrices that would lose precision without `requantize`, all named at once; Error{io}; Error{numerical} for
/// weights that are not finite; Error{interrupted}.
GgufExportResult export_gguf(const Checkpoint& checkpoint, const Registry& registry, const GgufExportOptions& options);

/// The block format that holds the values of such weights without rounding, if their scales are half precision (for
/// MXFP4: powers of two); nothing where there is none. `cols`: of the matrix.
std::optional<BlockType> lossless_block_type(const QuantArgs& args, std::uint64_t cols);
/// The weights as blocks of that type, codes moved. Throws Error{unsupported} naming the scale that the blocks cannot
/// hold; with Error{usage} for another type.
QuantizedTensor move_to_blocks(const QuantizedTensor& tensor, BlockType type);

/// Which form of an importance file to write.
enum class ImatrixForm { gguf, legacy };
/// Writes the diagonals of the Gram matrices in `statistics`, a file of calibration statistics, as llama.cpp's
/// importance file. Throws Error{io}, Error{corrupt_file}, Error{unsupported} for module names that no family has.
void export_imatrix(const std::filesystem::path& statistics, const std::filesystem::path& output, ImatrixForm form);

}  // namespace quant
