// The three forms of AWQ files. Codes and zero points have 4 bits, 0..15; w[o, i] = scales * (code - zero).
//   gemm       qweight int32 [in, out / 8], qzeros int32 [groups, out / 8], scales float16 [groups, out]; field i of a
//              word is output 8 w + {0, 2, 4, 6, 1, 3, 5, 7}[i]. Written and read.
//   gemv       qweight int32 [out, in / 8], qzeros int32 [out, Z], scales float16 [out, 8 Z], fields in order; Z words
//              hold the groups' zero points, rounded up to a multiple of 1, 2 or 4. Read.
//   gemv_fast  qweight int16 [out / 4, in], scales and qzeros float16 [8 Z, out], zero points as -scale * zero; fields
//              as FastPlace says. Read.
// Source: AutoAWQ 0.2.9 (awq/modules/linear/gemm.py, gemv.py, gemv_fast.py).
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quant/layout.h"

namespace quant::awq_layout {

enum class Form { gemm, gemv, gemv_fast };
std::string_view to_string(Form form);
std::optional<Form> parse_form(std::string_view name);

enum Place : std::size_t { kWeight, kZeros, kScales };

inline constexpr unsigned kBits = 4;
inline constexpr std::uint64_t kFields = 8;  ///< of a word of 32 bits
/// The output, or with gemv the input, of each field of a word.
inline constexpr std::array<unsigned, kFields> kGemmOrder = {0, 2, 4, 6, 1, 3, 5, 7};

/// Rows that a word of gemm codes holds; slices of this many rows and more are written in runs of 128 bytes.
inline constexpr std::uint64_t kRowsPerWord = 8;
inline constexpr std::uint64_t kSliceRows = 256;

// ---- gemm

std::vector<StoredTensor> gemm_tensors(const QuantArgs& args, const LinearShape& linear);
void write_gemm_rows(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row,
                     const QuantizedTensor& slice, StoredBytesSink& sink);
void read_gemm_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    QuantizedTensor& out);

// ---- gemv and gemv_fast

/// Words with zero points of a row of gemv: Z above.
std::uint64_t zero_words(std::uint64_t groups, std::uint64_t group);
void read_gemv_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    QuantizedTensor& out);
/// Rows are read in fours, which is how they are interleaved.
inline constexpr std::uint64_t kInterleave = 4;
void read_fast_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                    QuantizedTensor& out);

// ---- config.json

struct Label {
  Form form = Form::gemm;
  std::int64_t group_size = 128;
};
/// Throws Error{corrupt_file} naming a key of the wrong kind, Error{unsupported} for other bits and packings.
Label read_label(const ModelConfig& model);
bool says_awq(const ModelConfig& model);
std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                        const std::vector<std::string>& ignore);
/// As Layout::contradictions.
std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups);

/// As Layout::find_linears. Constant zero points of 8 tell symmetric weights.
std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint);

}  // namespace quant::awq_layout
