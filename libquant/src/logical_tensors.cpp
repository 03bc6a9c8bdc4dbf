#include "quant/logical_tensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant {
namespace {

constexpr std::uint64_t kBlockValues = std::uint64_t{1} << 20;

std::string weight_name(const StoredLinear& linear) { return linear.shape.module + ".weight"; }

}  // namespace

bool has_float_view(DType type) {
  return type != DType::BOOL && type != DType::C64 && type != DType::F6_E2M3 && type != DType::F6_E3M2;
}

bool is_wider_than_f32(DType type) {
  return type == DType::F64 || type == DType::I64 || type == DType::U64 || type == DType::I32 || type == DType::U32;
}

std::string quantization_method(const ModelConfig& config) {
  if (config.quantization_config.empty()) return {};
  const auto json = nlohmann::json::parse(config.quantization_config, nullptr, false);
  if (!json.is_object()) return {};
  const auto method = json.find("quant_method");
  return method != json.end() && method->is_string() ? method->get<std::string>() : std::string();
}

const Layout* layout_of(const Checkpoint& checkpoint, const Registry& registry) {
  const ModelConfig& config = checkpoint.config();
  for (const auto& layout : registry.layouts()) {
    if (layout->recognizes(config)) return layout.get();
  }
  if (config.quantization_config.empty()) return nullptr;
  const std::string method = quantization_method(config);
  throw Error(ErrorCode::unsupported,
              fmt::format("{} is quantized as '{}', which this version does not read", checkpoint.location().string(),
                          method.empty() ? "unknown" : method),
              "use a checkpoint in the compressed-tensors layout, or the unquantized one", "UnknownQuantization");
}

LogicalTensors::LogicalTensors(const Checkpoint& checkpoint, const Registry& registry)
    : checkpoint_(checkpoint), layout_(layout_of(checkpoint, registry)) {
  if (layout_ != nullptr) linears_ = layout_->find_linears(checkpoint);
  std::map<std::string, const StoredLinear*, std::less<>> owner;
  for (const StoredLinear& linear : linears_) {
    for (const std::string& part : linear.tensors) owner.emplace(part, &linear);
  }
  std::set<const StoredLinear*> seen;
  for (const TensorInfo& info : checkpoint.tensors()) {
    const auto part = owner.find(info.name);
    if (part == owner.end()) {
      add_plain(info);
    } else if (seen.insert(part->second).second) {
      add_linear(*part->second);
    }
  }
  index_names();
}

void LogicalTensors::add_plain(const TensorInfo& info) {
  LogicalTensor tensor;
  tensor.name = info.name;
  tensor.shape = info.shape;
  tensor.dtype = info.dtype;
  tensor.plain = &info;
  tensor.numeric = has_float_view(info.dtype);
  tensor.stored_bytes = info.bytes;
  const std::uint64_t elements = element_count(info.shape);
  tensor.cols = info.shape.size() < 2 ? 1 : info.shape.back();
  tensor.rows = tensor.cols == 0 ? 0 : elements / tensor.cols;
  tensors_.push_back(std::move(tensor));
}

void LogicalTensors::add_linear(const StoredLinear& linear) {
  LogicalTensor tensor;
  tensor.name = weight_name(linear);
  tensor.shape = {linear.shape.rows, linear.shape.cols};
  tensor.dtype = linear.shape.dtype;
  tensor.linear = &linear;
  tensor.rows = linear.shape.rows;
  tensor.cols = linear.shape.cols;
  element_count(tensor.shape);  // throws where rows * cols exceeds 64 bits
  for (const std::string& part : linear.tensors) {
    if (const TensorInfo* info = checkpoint_.find(part)) tensor.stored_bytes += info->bytes;
  }
  tensors_.push_back(std::move(tensor));
}

void LogicalTensors::index_names() {
  for (std::size_t i = 0; i < tensors_.size(); ++i) {
    if (by_name_.emplace(tensors_[i].name, i).second) continue;
    throw Error(
        ErrorCode::corrupt_file,
        fmt::format("{} holds '{}' twice: plain and quantized", checkpoint_.location().string(), tensors_[i].name),
        "remove one of the two", "DuplicateWeight");
  }
}

const LogicalTensor* LogicalTensors::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second];
}

std::uint64_t LogicalTensors::block_rows(const LogicalTensor& tensor) const {
  const std::uint64_t alignment =
      tensor.linear == nullptr ? 1 : std::max<std::uint64_t>(1, layout_->read_alignment(*tensor.linear));
  const std::uint64_t rows = std::max<std::uint64_t>(1, kBlockValues / std::max<std::uint64_t>(1, tensor.cols));
  return std::max(alignment, rows / alignment * alignment);
}

void LogicalTensors::read_rows(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count,
                               std::span<float> out) const {
  if (first > tensor.rows || count > tensor.rows - first || out.size() != count * tensor.cols) {
    throw Error(ErrorCode::internal, fmt::format("rows {} to {} of '{}' {} cannot be read into {} values", first,
                                                 first + count, tensor.name, to_string(tensor.shape), out.size()));
  }
  if (out.empty()) return;
  if (tensor.linear != nullptr) return read_quantized(tensor, first, count, out);
  read_f32(checkpoint_.view(*tensor.plain), first * tensor.cols, out);
}

void LogicalTensors::done_reading(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count) const {
  if (tensor.plain == nullptr || tensor.shape.empty()) return;  // packed rows share bytes with their neighbours
  const std::uint64_t total = std::max<std::uint64_t>(1, tensor.rows);
  TensorView part = checkpoint_.view(*tensor.plain);
  const std::uint64_t row_bytes = part.bytes.size() / total;
  if (first > total || count > total - first) return;
  part.bytes = part.bytes.subspan(first * row_bytes, count * row_bytes);
  checkpoint_.done_reading(part);
}

void LogicalTensors::done_reading(const LogicalTensor& tensor) const {
  if (tensor.plain != nullptr) return checkpoint_.done_reading(checkpoint_.view(*tensor.plain));
  for (const std::string& name : tensor.linear->tensors) {
    if (const TensorInfo* part = checkpoint_.find(name)) checkpoint_.done_reading(checkpoint_.view(*part));
  }
}

QuantizedTensor LogicalTensors::read_quantized(const LogicalTensor& tensor, int threads) const {
  if (tensor.linear == nullptr) {
    throw Error(ErrorCode::internal, fmt::format("'{}' is not quantized, but is read as if it were", tensor.name));
  }
  const std::uint64_t alignment = scale_row_alignment(tensor.linear->args, tensor.cols);
  const std::uint64_t step = std::min(tensor.rows, std::lcm(block_rows(tensor), std::max<std::uint64_t>(1, alignment)));
  const std::uint64_t count = linalg::pieces(tensor.rows, std::max<std::uint64_t>(1, step));
  std::vector<QuantizedTensor> slices(count);
  linalg::for_tasks(threads, count, [&](std::size_t slice) {
    const std::uint64_t first = slice * step;
    layout_->read_rows(checkpoint_, *tensor.linear, first, std::min(step, tensor.rows - first), slices[slice]);
  });
  if (count == 1) return std::move(slices.front());
  QuantizedTensor whole;
  for (std::uint64_t slice = 0; slice < count; ++slice) {
    put_slice(slices[slice], slice * step, tensor.rows, whole);
    slices[slice] = {};
  }
  return whole;
}

void LogicalTensors::read_quantized(const LogicalTensor& tensor, std::uint64_t first, std::uint64_t count,
                                    std::span<float> out) const {
  const std::uint64_t alignment = std::max<std::uint64_t>(1, layout_->read_alignment(*tensor.linear));
  const std::uint64_t skipped = first % alignment;
  QuantizedTensor slice;
  layout_->read_rows(checkpoint_, *tensor.linear, first - skipped, count + skipped, slice);
  for (std::uint64_t r = 0; r < count; ++r) {
    dequantize_row(slice, skipped + r, out.subspan(r * tensor.cols, tensor.cols));
  }
}

}  // namespace quant
