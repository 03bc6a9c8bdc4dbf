// How quantized weights are laid out in a checkpoint: tensor names, packing and config.json. Knows nothing of
// algorithms.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quant/checkpoint.h"
#include "quant/quantized_tensor.h"
#include "quant/scheme.h"

namespace quant {

/// How many weights of a pruned linear are kept, and in which pattern.
struct StoredSparsity {
  std::uint64_t kept = 0;  ///< of all its weights
  std::uint32_t keep = 0;  ///< of each `of` weights that follow each other in a row exactly so many; 0: no such pattern
  std::uint32_t of = 0;
  friend bool operator==(const StoredSparsity&, const StoredSparsity&) = default;
};

/// A linear as the layout sees it.
struct LinearShape {
  std::string module;  ///< "model.layers.0.mlp.up_proj"
  std::uint64_t rows = 0;
  std::uint64_t cols = 0;
  DType dtype = DType::F32;                     ///< of the original weight
  std::optional<StoredSparsity> sparsity = {};  ///< of a pruned linear whose zeros are counted exactly
};

/// A named group of schemes in config.json.
struct SchemeGroup {
  std::string name;                       ///< "group_0"
  Scheme scheme;                          ///< with targets
  std::vector<LinearShape> linears = {};  ///< that have it; known to Layout::config_json
};

/// Receives the bytes of stored tensors; `tensor` is the place in the list that Layout::stored gave for the linear.
class StoredBytesSink {
 public:
  virtual ~StoredBytesSink() = default;
  virtual void write(std::size_t tensor, std::uint64_t offset, std::span<const std::byte> data) = 0;
};

/// How a quantized linear quantizes its inputs when it runs.
struct StoredInput {
  QuantArgs args;
  float scale = 0;         ///< static, per tensor, as stored (unchecked); 0: dynamic, or missing
  float zero_point = 0;    ///< static and asymmetric
  float global_scale = 0;  ///< NVFP4: what its scales were multiplied by, as stored (unchecked); 0: missing
};

/// A quantized linear found in a checkpoint.
struct StoredLinear {
  LinearShape shape;
  QuantArgs args;
  DType scale_dtype = DType::F32;
  std::string format;                               ///< the layout's own name of the packing, e.g. "pack-quantized"
  std::vector<std::string> tensors;                 ///< names of all tensors that belong to it
  std::optional<StoredInput> input = std::nullopt;  ///< nothing: inputs stay float
};

/// Static scales of the cached keys and values of one attention module. They multiply codes.
struct KvScales {
  float key = 0;
  float value = 0;
};

/// Such scales found in a checkpoint.
struct StoredKv {
  std::string attention;  ///< "model.layers.0.self_attn"
  KvScales scales;
  std::vector<std::string> tensors;  ///< names of the tensors that hold them
};

class Layout {
 public:
  virtual ~Layout() = default;
  virtual std::string_view name() const = 0;

  /// Type in which this layout stores the scales of such a weight.
  virtual DType scale_dtype(const QuantArgs& args, DType weight_dtype) const = 0;
  /// Type in which this layout stores the static scale of such a linear's inputs. A global scale (NVFP4) is F32.
  virtual DType input_scale_dtype(const QuantArgs& inputs, DType weight_dtype) const {
    static_cast<void>(inputs), static_cast<void>(weight_dtype);
    return DType::F32;
  }
  /// Why this linear cannot be stored with that scheme, or nothing.
  virtual std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const = 0;
  /// Whether linears with LinearShape::sparsity are stored without their zeros, those of plain numbers too. Layouts
  /// that do not are not asked about plain numbers: they are tensors like any other then.
  virtual bool omits_zeros() const { return false; }
  /// Why linears of these schemes cannot be in one checkpoint of this layout, each of which it could store: a sentence
  /// that names both groups for each pair that contradicts.
  virtual std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) const {
    static_cast<void>(groups);
    return {};
  }
  /// The format's own name for what such a scheme becomes ("pack-quantized").
  virtual std::string format_of(const Scheme& scheme) const = 0;
  /// Names, types and shapes of the tensors that replace "<module>.weight".
  virtual std::vector<StoredTensor> stored(const Scheme& scheme, const LinearShape& linear) const = 0;
  /// Slices passed to write_rows start at a multiple of this many rows.
  virtual std::uint64_t row_alignment(const Scheme& scheme) const = 0;
  /// Packs rows [first_row, first_row + slice.rows) and writes them; values that belong to the whole tensor go with row
  /// 0.
  virtual void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row,
                          const QuantizedTensor& slice, StoredBytesSink& sink) const = 0;
  /// config.json of the output: the model's own text with this layout's quantization_config put in.
  /// `ignore`: literal names of the modules of a targeted class that stay unquantized.
  virtual std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                                  const std::vector<std::string>& ignore) const = 0;

  /// The text that config_json gave, saying as well that keys and values are cached so; nothing if the layout cannot
  /// say that. Static scales go to the tensors that kv_cache_scheme names.
  virtual std::optional<std::string> with_kv_cache(const std::string& config_json, const QuantArgs& args) const {
    static_cast<void>(config_json), static_cast<void>(args);
    return std::nullopt;
  }

  /// True if the checkpoint says that it was written in this layout.
  virtual bool recognizes(const ModelConfig& model) const = 0;
  /// The quantized linears of such a checkpoint. Throws Error{corrupt_file} naming the tensor for missing or misshapen
  /// parts.
  virtual std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const = 0;
  /// Unpacks rows [first_row, first_row + count); first_row is a multiple of read_alignment().
  virtual void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                         std::uint64_t count, QuantizedTensor& out) const = 0;
  virtual std::uint64_t read_alignment(const StoredLinear& linear) const = 0;
  /// How such a checkpoint quantizes keys and values, or nothing. Static scales are the tensors "<attention>.k_scale"
  /// and "<attention>.v_scale". Throws Error{corrupt_file} naming the key that is wrong.
  virtual std::optional<QuantArgs> kv_cache_scheme(const ModelConfig& model) const {
    static_cast<void>(model);
    return std::nullopt;
  }

  // ---- scales of a quantized cache of keys and values; a layout without a place for them keeps these as they are

  /// Why such a cache has no place in this layout, or nothing.
  virtual std::optional<std::string> unsupported_kv(const QuantArgs& args) const;
  /// The tensors that hold the scales of one attention module ("model.layers.0.self_attn"), keys first. `dtype`: that
  /// of its weights. Their type is the one that static_activation_scale takes as `stored`.
  virtual std::vector<StoredTensor> stored_kv(const QuantArgs& args, const std::string& attention, DType dtype) const;
  /// Writes them; the sink's numbers are places in the list of stored_kv. Throws Error{usage} for scales that are not
  /// positive.
  virtual void write_kv(const QuantArgs& args, const std::string& attention, DType dtype, const KvScales& scales,
                        StoredBytesSink& sink) const;
  /// config_json of a model whose cache is quantized as well. `groups` may be empty.
  virtual std::string config_json_kv(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                                     const std::vector<std::string>& ignore, const QuantArgs& kv_cache) const;
  /// The scales in a checkpoint of this layout. Throws Error{corrupt_file} naming the tensor that is wrong.
  virtual std::vector<StoredKv> find_kv(const Checkpoint& checkpoint) const;
};

}  // namespace quant
