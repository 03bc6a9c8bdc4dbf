// Which numbers a quantized tensor may hold: the scheme, in the words of compressed-tensors.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "quant/block_format.h"
#include "quant/dtype.h"

namespace quant {

enum class NumberType {
  integer,
  floating,
  codebook,  ///< codes are places in a table of values; what the table holds is QuantArgs::codebook
  plain,     ///< floating-point numbers as they are, without codes: weights that are only pruned
  block      ///< packed blocks of GGUF files, kept as they are; which is QuantArgs::block
};
enum class Strategy {
  tensor,
  channel,
  group,
  block,
  token,
  tensor_group,
  attn_head,
  flat  ///< group_size weights that follow each other in row-major order, across the ends of rows (bitsandbytes)
};
enum class Dynamic { no, yes, local };
enum class ActOrder { none, group, weight };

/// How a symmetric integer scale follows from the largest magnitude of a group (b bits, qmax = 2^(b-1) - 1).
enum class SymmetricRange {
  standard,    ///< absmax / (qmax + 1/2), codes -2^(b-1)..qmax: the compressed-tensors convention
  restricted,  ///< absmax / qmax, codes -qmax..qmax
  full         ///< signed scale that maps the value of largest magnitude to -2^(b-1): never clips it
};

/// Which values a codebook holds, ascending by code unless said.
enum class Codebook {
  learned,  ///< 2^num_bits values found for each tensor, channel, group or block; no scales
  nf4,      ///< 16 quantiles of the normal distribution in -1..1, times a scale
  fp4,      ///< bitsandbytes' 4-bit float: code = sign bit and {0, 1/192, 2/3, 1, 1/3, 1/2, 1/6, 1/4}, times a scale
  sign      ///< 1 bit: -1 and 1, times a scale
};

using KwValue = std::variant<bool, std::int64_t, double, std::string>;

/// Numbers of one tensor: compressed-tensors' QuantizationArgs, same names and defaults.
/// Codes of integer types are signed, -2^(b-1)..2^(b-1)-1. Floating types are E2M1 (4 bits) and E4M3 or E5M2 (8 bits).
/// Codes of codebooks are 0..2^b-1. The fields from `codebook` on are this library's own.
struct QuantArgs {
  int num_bits = 8;
  NumberType type = NumberType::integer;
  bool symmetric = true;
  Strategy strategy = Strategy::tensor;
  std::optional<std::int64_t> group_size;                       ///< columns per scale; null or -1 where not grouped
  std::optional<std::array<std::uint64_t, 2>> block_structure;  ///< rows, columns; only for Strategy::block
  Dynamic dynamic = Dynamic::no;
  std::optional<ActOrder> actorder;
  std::optional<DType> scale_dtype;     ///< null: the weight's own type; of learned codebooks: the type of their values
  std::optional<DType> zp_dtype;        ///< a floating type: zero points are real numbers (HQQ)
  std::optional<std::string> observer;  ///< null: min-max
  std::map<std::string, KwValue> observer_kwargs;
  Codebook codebook = Codebook::learned;  ///< of type codebook
  bool double_quant = false;              ///< scales are coded themselves: see CodedScales
  double outlier_percent = 0;             ///< share of the weights stored apart, sparse: the largest magnitudes ...
  double sensitive_percent = 0;           ///< ... and those whose errors matter most, besides
  /// Of dynamic inputs per token, as LLM.int8() has it: columns with a magnitude of at least this in any row of a
  /// sequence stay float, and such magnitudes do not widen a row's range. 0: none.
  double outlier_threshold = 0;
  /// Weights that are exactly 0 get codes whose value is exactly 0: a pruned matrix stays as sparse as it is.
  bool keep_zeros = false;
  std::optional<BlockType> block = std::nullopt;  ///< of type block: then num_bits and group_size follow from it

  friend bool operator==(const QuantArgs&, const QuantArgs&) = default;
};

/// Weights and activations of a set of linears: compressed-tensors' QuantizationScheme.
struct Scheme {
  std::vector<std::string> targets;
  std::optional<QuantArgs> weights;
  std::optional<QuantArgs> input_activations;
  std::optional<QuantArgs> output_activations;
  std::optional<std::string> format;

  friend bool operator==(const Scheme&, const Scheme&) = default;
};

std::string_view to_string(NumberType);
std::string_view to_string(Strategy);
std::string_view to_string(Codebook);
std::string_view to_string(ActOrder);

/// The preset of that name (case-insensitive; without targets), or nothing. Source: compressed-tensors quant_scheme.py.
/// Block formats are presets as well: "Q4_K", or "GGUF_MXFP4" where the name alone means another one.
std::optional<Scheme> preset_scheme(std::string_view name);
/// All preset names in their usual order and spelling, without those of block formats.
const std::vector<std::string_view>& preset_names();

/// Fills in what follows from other fields (strategy from group_size, default observer) and returns every rule of
/// compressed-tensors that the arguments break, as sentences that name the field; empty if they are valid.
/// `strategy_given`: the strategy was written by the user rather than to be inferred.
std::vector<std::string> complete_and_check(QuantArgs& args, bool strategy_given);

/// Smallest and largest integer code.
int code_min(const QuantArgs& args);
int code_max(const QuantArgs& args);
/// Largest finite magnitude of the floating element type: 6, 448 or 57344.
float float_max(const QuantArgs& args);
/// Floating schemes: F4 (E2M1), F8_E4M3, or F8_E5M2 where observer_kwargs["float8_format"] is "e5m2".
/// Integer schemes: I8. Codebooks: U8.
DType element_dtype(const QuantArgs& args);
/// Of weights that stay floating-point numbers of their own type.
QuantArgs plain_args();
bool is_plain(const QuantArgs& args);
bool has_codes(const QuantArgs& args);             ///< neither plain nor blocks
bool is_mx(const QuantArgs& args);                 ///< MXFP4, MXFP8: power-of-two (E8M0) scales over 32 columns
bool is_nvfp4(const QuantArgs& args);              ///< E2M1, E4M3 scales over 16 columns and one F32 global scale
bool is_ternary(const QuantArgs& args);            ///< -1, 0 and 1: symmetric 2-bit integers of the restricted range
bool has_fixed_codebook(const QuantArgs& args);    ///< NF4, FP4 or signs: one table, and scales
bool has_learned_codebook(const QuantArgs& args);  ///< tables of its own, and no scales
bool has_blocks(const QuantArgs& args);            ///< type block: QuantizedTensor::blocks instead of codes and scales
bool has_real_zero_points(const QuantArgs& args);  ///< asymmetric integers whose zp_dtype is a floating type
/// Something of the scheme is found from the whole tensor before its first row is coded (Quantizer::prepare).
bool needs_whole_tensor(const QuantArgs& args);
/// The 2^num_bits values of a fixed codebook. Source of nf4 and fp4: bitsandbytes, get_4bit_type and its serialized
/// quant_map.
std::span<const float> fixed_codebook(Codebook codebook);
/// Weights of a matrix that are stored apart: the two percentages of its size, each rounded to the nearest number.
std::uint64_t sparse_count(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);
/// The convention of observer_kwargs["symmetric_range"], standard if absent.
SymmetricRange symmetric_range(const QuantArgs& args);

/// Sizes of the scale (and unpacked zero-point) matrix of a weight [rows, cols].
struct ScaleGrid {
  std::uint64_t rows = 1;        ///< scale rows: 1, rows, or ceil(rows / block rows)
  std::uint64_t cols = 1;        ///< scale columns
  std::uint64_t row_extent = 1;  ///< weight rows that share one scale row
  std::uint64_t col_extent = 1;  ///< weight columns that share one scale column (the last may be ragged)
  /// Strategy::flat: weights per scale, counted in row-major order; then `rows` is the number of scales, `cols` is 1
  /// and the extents mean nothing. Else 0.
  std::uint64_t flat = 0;

  std::uint64_t count() const { return rows * cols; }
  friend bool operator==(const ScaleGrid&, const ScaleGrid&) = default;
};
ScaleGrid scale_grid(const QuantArgs& args, std::uint64_t rows, std::uint64_t cols);
/// Slices of a matrix with `cols` columns that start at multiples of this many rows share no scale (Strategy::tensor
/// aside), nor a scale of scales.
std::uint64_t scale_row_alignment(const QuantArgs& args, std::uint64_t cols);
/// Place of the first scale of row `row`, which is a multiple of scale_row_alignment.
std::uint64_t first_scale(const QuantArgs& args, std::uint64_t row, std::uint64_t cols);

/// A short human name: "int4 sym group 128", "fp8-e4m3 channel".
std::string describe(const QuantArgs& args);
/// The arguments of a block format.
QuantArgs block_args(BlockType type);

}  // namespace quant
