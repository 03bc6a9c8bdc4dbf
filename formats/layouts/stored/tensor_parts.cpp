#include "layouts/stored/tensor_parts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "quant/error.h"

namespace quant::stored {

std::vector<std::byte> float_bytes(DType type, std::span<const float> values) {
  std::vector<std::byte> bytes(values.size() * dtype_bits(type) / 8);
  if (type == DType::F32) {
    if (!values.empty()) std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  if (type != DType::F16 && type != DType::BF16) {
    throw Error(ErrorCode::internal, fmt::format("floats cannot be written as {}", dtype_name(type)));
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint16_t half = type == DType::F16 ? f32_to_f16(values[i]) : f32_to_bf16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &half, 2);
  }
  return bytes;
}

void fail(const Checkpoint& checkpoint, const std::string& tensor, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}: tensor {} {}", checkpoint.location().string(), tensor, problem),
              "the checkpoint is damaged, or was put together by hand", "BadQuantizedLinear");
}

const TensorInfo& need_tensor(const Checkpoint& checkpoint, const std::string& name, std::initializer_list<DType> types,
                              const Shape* shape) {
  const TensorInfo* info = checkpoint.find(name);
  if (info == nullptr) fail(checkpoint, name, "is missing");
  if (types.size() != 0 && std::find(types.begin(), types.end(), info->dtype) == types.end()) {
    std::string names;
    for (const DType type : types) names += (names.empty() ? "" : " or ") + std::string(dtype_name(type));
    fail(checkpoint, name, fmt::format("is {}, not {}", dtype_name(info->dtype), names));
  }
  if (shape != nullptr && info->shape != *shape) {
    fail(checkpoint, name, fmt::format("has shape {}, not {}", to_string(info->shape), to_string(*shape)));
  }
  return *info;
}

void reject_orphans(const Checkpoint& checkpoint, std::string_view codes,
                    std::initializer_list<std::string_view> suffixes) {
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    for (const std::string_view suffix : suffixes) {
      if (!tensor.name.ends_with(suffix)) continue;
      const std::string module = tensor.name.substr(0, tensor.name.size() - suffix.size());
      if (checkpoint.find(module + std::string(codes)) != nullptr) continue;
      fail(checkpoint, tensor.name, fmt::format("has no {} beside it", codes.substr(1)));
    }
  }
}

std::span<const std::byte> bytes_of(const Checkpoint& checkpoint, const TensorInfo& info, std::uint64_t offset,
                                    std::uint64_t size) {
  const auto all = checkpoint.view(info).bytes;
  if (offset > all.size() || size > all.size() - offset) {
    fail(checkpoint, info.name, "is shorter than its module needs");
  }
  return all.subspan(offset, size);
}

void read_floats(const Checkpoint& checkpoint, const TensorInfo& info, std::uint64_t first, std::span<float> out) {
  const TensorView view = checkpoint.view(info);
  const std::uint64_t count = element_count(info.shape);
  if (first > count || out.size() > count - first) fail(checkpoint, info.name, "is shorter than its module needs");
  read_f32(view, first, out);
  for (const float value : out) {
    if (!std::isfinite(value)) fail(checkpoint, info.name, "holds a value that is not finite");
  }
}

}  // namespace quant::stored
