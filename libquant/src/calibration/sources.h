// The kinds of files that sequences are read from. Each function adds the documents of a file to a packer.
#pragma once

#include <filesystem>

#include "calibration/packer.h"
#include "quant/tokenizer.h"

namespace quant::calibration {

/// The whole file is one document.
void read_text(const std::filesystem::path& file, const Tokenizer& tokenizer, const CalibrationOptions& options,
               Packer& packer);
/// One JSON object per line, or a list of objects: "text" or "messages".
void read_json(const std::filesystem::path& file, const Tokenizer& tokenizer, const CalibrationOptions& options,
               Packer& packer);
/// A NumPy array of integers, [tokens] or [documents, length].
void read_npy(const std::filesystem::path& file, Packer& packer);
/// The dataset "input_ids" of integers, [tokens] or [documents, length].
void read_hdf5(const std::filesystem::path& file, Packer& packer);

/// `value` as an id, or Error{corrupt_file} naming file and place. `cols`: length of a row.
std::int32_t checked_id(std::int64_t value, const std::filesystem::path& file, std::uint64_t index, std::uint64_t cols);

}  // namespace quant::calibration
