#include "layouts/compressed_tensors/kv_cache.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "layouts/compressed_tensors/config_read.h"
#include "layouts/compressed_tensors/formats.h"
#include "layouts/compressed_tensors/write_rows.h"
#include "quant/error.h"

namespace quant::compressed_tensors {
namespace {

constexpr std::string_view kKeys = ".k_scale";
constexpr std::string_view kValues = ".v_scale";

[[noreturn]] void fail(const Checkpoint& checkpoint, const std::string& tensor, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}: tensor {} {}", checkpoint.location().string(), tensor, problem),
              "the checkpoint was not written by compressed-tensors, or is damaged", "BadKvScale");
}

float read_scale(const Checkpoint& checkpoint, const TensorInfo& info) {
  if (info.dtype != DType::F32 && info.dtype != DType::F16 && info.dtype != DType::BF16) {
    fail(checkpoint, info.name, fmt::format("is {}, not F32, F16 or BF16", dtype_name(info.dtype)));
  }
  if (element_count(info.shape) != 1) {
    fail(checkpoint, info.name, fmt::format("has shape {}, not [1]", to_string(info.shape)));
  }
  float scale = 0;
  read_f32(checkpoint.view(info), 0, std::span(&scale, 1));
  if (!std::isfinite(scale) || scale <= 0) {
    fail(checkpoint, info.name, fmt::format("holds {}, not a positive number", scale));
  }
  return scale;
}

}  // namespace

std::optional<std::string> why_unsupported_kv(const QuantArgs& args) {
  const bool static_bytes = args.num_bits == 8 && args.symmetric && args.dynamic == Dynamic::no;
  const bool known = args.type == NumberType::integer || element_dtype(args) == DType::F8_E4M3;
  if (static_bytes && known && args.strategy == Strategy::tensor) return std::nullopt;
  return fmt::format(
      "kv_cache_scheme: scales of a cache are stored for symmetric static integers or E4M3 floats of 8 bits with "
      "strategy tensor, not for {}",
      describe(args));
}

std::vector<StoredTensor> stored_kv(const QuantArgs& args, const std::string& attention, DType dtype) {
  const DType type = stored_scale_dtype(args, dtype);
  return {{attention + std::string(kKeys), type, {1}}, {attention + std::string(kValues), type, {1}}};
}

void write_kv(const QuantArgs& args, const std::string& attention, DType dtype, const KvScales& scales,
              StoredBytesSink& sink) {
  const std::vector<StoredTensor> tensors = stored_kv(args, attention, dtype);
  const std::array<float, 2> values = {scales.key, scales.value};
  for (std::size_t i = 0; i < values.size(); ++i) write_static_scale(tensors[i], i, values[i], sink);
}

std::vector<StoredKv> find_kv(const Checkpoint& checkpoint) {
  std::vector<StoredKv> found;
  if (!kv_cache_scheme(checkpoint.config())) return found;
  for (const TensorInfo& info : checkpoint.tensors()) {
    const bool values = info.name.ends_with(kValues);
    if (!values && !info.name.ends_with(kKeys)) continue;
    const std::string attention = info.name.substr(0, info.name.size() - kKeys.size());
    const std::string other = attention + std::string(values ? kKeys : kValues);
    const TensorInfo* pair = checkpoint.find(other);
    if (pair == nullptr) fail(checkpoint, info.name, fmt::format("has no {} beside it", other));
    if (values) continue;
    found.push_back(
        {attention, {read_scale(checkpoint, info), read_scale(checkpoint, *pair)}, {info.name, pair->name}});
  }
  return found;
}

}  // namespace quant::compressed_tensors
