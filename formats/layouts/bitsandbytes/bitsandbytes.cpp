// The layout "bitsandbytes": NF4 and FP4 weights as its Linear4bit saves them, 8-bit ones as its Linear8bitLt does.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <set>

#include "layouts/bitsandbytes/config.h"
#include "layouts/bitsandbytes/int8.h"
#include "layouts/bitsandbytes/quant_state.h"
#include "layouts/stored/tensor_parts.h"
#include "quant/error.h"
#include "quant/registry.h"
#include "quant/scale_codes.h"

namespace quant {
namespace {

namespace bnb = bitsandbytes;

constexpr std::uint64_t kSmallestBlock = 32;
constexpr std::uint64_t kLargestBlock = 4096;

enum Place : std::size_t { kWeight, kAbsmax, kQuantMap, kState, kNestedAbsmax, kNestedMap };

std::uint64_t blocks_of(const QuantArgs& args, const LinearShape& linear) {
  return scale_grid(args, linear.rows, linear.cols).count();
}

std::vector<StoredTensor> tensors_of(const QuantArgs& args, const LinearShape& linear) {
  const std::uint64_t weights = checked_mul(linear.rows, linear.cols, linear.module);
  const std::uint64_t blocks = blocks_of(args, linear);
  const std::string weight = linear.module + ".weight";
  std::vector<StoredTensor> list = {
      {weight, DType::U8, {weights / 2 + weights % 2, 1}},
      {weight + ".absmax", args.double_quant ? DType::U8 : DType::F32, {blocks}},
      {weight + ".quant_map", DType::F32, {16}},
      {linear.module + bnb::state_suffix(args.codebook), DType::U8, {bnb::state_bytes(args, linear)}}};
  if (args.double_quant) {
    list.push_back({weight + ".nested_absmax", DType::F32, {(blocks + bnb::kNestedBlock - 1) / bnb::kNestedBlock}});
    list.push_back({weight + ".nested_quant_map", DType::F32, {256}});
  }
  return list;
}

std::optional<std::string> why_unsupported(const Scheme& scheme, const LinearShape& linear) {
  if (scheme.weights && bnb::is_int8(*scheme.weights)) return bnb::why_int8_unsupported(scheme, linear);
  if (!scheme.weights || !has_fixed_codebook(*scheme.weights) || scheme.weights->codebook == Codebook::sign) {
    return std::string("weights: bitsandbytes holds nf4, fp4 (type codebook) and 8-bit integers alone");
  }
  const QuantArgs& args = *scheme.weights;
  if (scheme.input_activations || scheme.output_activations) {
    return std::string("input_activations: bitsandbytes leaves the inputs of 4-bit weights float");
  }
  if (args.outlier_percent > 0 || args.sensitive_percent > 0) {
    return std::string("weights: bitsandbytes has no place for a sparse part; use --layout libquant");
  }
  if (args.strategy != Strategy::group && args.strategy != Strategy::flat) {
    return fmt::format("weights: bitsandbytes has scales of blocks (strategy flat or group), not of strategy {}",
                       to_string(args.strategy));
  }
  const auto block = static_cast<std::uint64_t>(*args.group_size);
  if (block < kSmallestBlock || block > kLargestBlock || !std::has_single_bit(block)) {
    return fmt::format("weights: bitsandbytes has blocks of 32, 64, ... 4096 weights, not {}", block);
  }
  if (args.strategy == Strategy::group && linear.cols % block != 0) {
    return fmt::format(
        "weights: blocks of bitsandbytes go on across rows of {} columns, groups of {} do not; use "
        "strategy flat",
        linear.cols, block);
  }
  if (args.scale_dtype && *args.scale_dtype != DType::F32) {
    return std::string("weights: scales of bitsandbytes are float32; leave scale_dtype out");
  }
  return std::nullopt;
}

template <class Value>
void write_values(StoredBytesSink& sink, Place place, std::uint64_t first, const std::vector<Value>& values) {
  if (!values.empty()) sink.write(place, first * sizeof(Value), std::as_bytes(std::span(values)));
}

// The first of two weights is the high half of a byte; an odd end is filled with the code of 0.
std::vector<std::byte> pack(const QuantizedTensor& slice) {
  const auto& codes = slice.codes;
  const unsigned zero = slice.args.codebook == Codebook::nf4 ? 7 : 0;
  std::vector<std::byte> bytes(codes.size() / 2 + codes.size() % 2);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const unsigned high = static_cast<std::uint8_t>(codes[2 * i]) & 15U;
    const unsigned low = 2 * i + 1 < codes.size() ? static_cast<std::uint8_t>(codes[2 * i + 1]) & 15U : zero;
    bytes[i] = static_cast<std::byte>(high << 4U | low);
  }
  return bytes;
}

void check_slice(const QuantArgs& args, const LinearShape& linear, std::uint64_t first_row,
                 const QuantizedTensor& slice) {
  const std::uint64_t end = checked_add(first_row, slice.rows, "rows");
  const bool even = end == linear.rows || end * linear.cols % 2 == 0;
  const bool fits = slice.cols == linear.cols && slice.rows > 0 && end <= linear.rows && even &&
                    first_row * linear.cols % 2 == 0 && first_row % scale_row_alignment(args, linear.cols) == 0;
  const bool whole = slice.args == args && slice.codes.size() == slice.rows * slice.cols &&
                     slice.scales.size() == slice.grid.count() &&
                     slice.coded_scales.codes.size() == (args.double_quant ? slice.grid.count() : 0);
  if (fits && whole) return;
  throw Error(ErrorCode::internal, fmt::format("{}: rows {} to {} cannot be stored so", linear.module, first_row, end));
}

// What linears leave behind where the tensor that makes them known is gone; it would be copied along in silence.
void reject_orphans(const Checkpoint& checkpoint, const std::vector<StoredLinear>& linears) {
  static constexpr std::array kParts = {".weight.absmax", ".weight.quant_map", ".weight.nested_absmax",
                                        ".weight.nested_quant_map", ".weight_format"};
  std::set<std::string, std::less<>> modules;
  for (const StoredLinear& linear : linears) modules.insert(linear.shape.module);
  const auto unknown = [&](const std::string& name, std::string_view suffix) {
    return name.ends_with(suffix) && !modules.contains(std::string_view(name).substr(0, name.size() - suffix.size()));
  };
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    const bool coded = tensor.dtype == DType::U8 || tensor.dtype == DType::I8;
    const bool part =
        std::any_of(kParts.begin(), kParts.end(), [&](auto suffix) { return unknown(tensor.name, suffix); });
    if (!part && !(coded && unknown(tensor.name, ".weight"))) continue;
    stored::fail(checkpoint, tensor.name,
                 "is part of a quantized linear that has no quant_state, and no SCB under load_in_8bit");
  }
}

class Bitsandbytes final : public Layout {
 public:
  std::string_view name() const override { return "bitsandbytes"; }
  DType scale_dtype(const QuantArgs&, DType) const override { return DType::F32; }
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& linear) const override {
    return why_unsupported(scheme, linear);
  }
  std::string format_of(const Scheme& scheme) const override {
    return bnb::is_int8(*scheme.weights) ? "int8" : std::string(to_string(scheme.weights->codebook));
  }
  std::vector<StoredTensor> stored(const Scheme& scheme, const LinearShape& linear) const override {
    return bnb::is_int8(*scheme.weights) ? bnb::int8_tensors(linear) : tensors_of(*scheme.weights, linear);
  }
  std::uint64_t row_alignment(const Scheme&) const override { return 2; }  // an even number of weights

  void write_rows(const Scheme& scheme, const LinearShape& linear, std::uint64_t first_row,
                  const QuantizedTensor& slice, StoredBytesSink& sink) const override {
    const QuantArgs& args = *scheme.weights;
    if (bnb::is_int8(args)) return bnb::write_int8_rows(linear, first_row, slice, sink);
    check_slice(args, linear, first_row, slice);
    const std::uint64_t unit = first_scale(args, first_row, linear.cols);
    write_values(sink, kWeight, first_row * linear.cols / 2, pack(slice));
    if (args.double_quant) {
      write_values(sink, kAbsmax, unit, slice.coded_scales.codes);
      write_values(sink, kNestedAbsmax, unit / bnb::kNestedBlock, slice.coded_scales.scales);
    } else {
      write_values(sink, kAbsmax, unit, slice.scales);
    }
    if (first_row != 0) return;
    write_values(sink, kQuantMap, 0, slice.codebook);
    const std::string state = bnb::state_text(args, linear, slice.coded_scales.offset);
    sink.write(kState, 0, std::as_bytes(std::span(state)));
    if (args.double_quant) write_values(sink, kNestedMap, 0, slice.coded_scales.map);
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& groups,
                          const std::vector<std::string>& ignore) const override {
    return bnb::config_json(model, groups, ignore);
  }
  std::vector<std::string> contradictions(const std::vector<SchemeGroup>& groups) const override {
    return bnb::contradictions(groups);
  }
  bool recognizes(const ModelConfig& model) const override { return bnb::says_bitsandbytes(model); }

  std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) const override {
    std::vector<StoredLinear> linears;
    if (const auto threshold = bnb::int8_threshold(checkpoint.config())) {
      linears = bnb::find_int8_linears(checkpoint, *threshold);
    }
    for (const TensorInfo& tensor : checkpoint.tensors()) {
      for (const Codebook codebook : {Codebook::nf4, Codebook::fp4}) {
        const std::string suffix = bnb::state_suffix(codebook);
        if (tensor.name.ends_with(suffix)) {
          linears.push_back(
              inspect(checkpoint, tensor, tensor.name.substr(0, tensor.name.size() - suffix.size()), codebook));
        }
      }
    }
    reject_orphans(checkpoint, linears);
    return linears;
  }
  std::uint64_t read_alignment(const StoredLinear& linear) const override {
    return std::min(scale_row_alignment(linear.args, linear.shape.cols), linear.shape.rows);
  }
  void read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row, std::uint64_t count,
                 QuantizedTensor& out) const override;

 private:
  static bnb::QuantState state_of(const Checkpoint& checkpoint, const TensorInfo& tensor, const std::string& module,
                                  Codebook codebook) {
    const auto bytes = checkpoint.view(tensor).bytes;
    return bnb::parse_state(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), module, codebook,
                            tensor.name);
  }

  static StoredLinear inspect(const Checkpoint& checkpoint, const TensorInfo& state_tensor, const std::string& module,
                              Codebook codebook) {
    const bnb::QuantState state = state_of(checkpoint, state_tensor, module, codebook);
    StoredLinear linear;
    linear.shape = state.shape;
    linear.args = state.args;
    linear.format = to_string(codebook);
    const auto wanted = tensors_of(state.args, state.shape);
    for (std::size_t place = 0; place < wanted.size(); ++place) {
      const StoredTensor& part = wanted[place];
      // Weights may be viewed as a wider type (quant_storage), and the text may have any length.
      const bool free_shape = place == kWeight || place == kState;
      const TensorInfo& info = free_shape ? stored::need_tensor(checkpoint, part.name, {}, nullptr)
                                          : stored::need_tensor(checkpoint, part.name, {part.dtype}, &part.shape);
      if (place == kWeight && info.bytes != part.shape.front()) {
        stored::fail(checkpoint, info.name, fmt::format("has {} bytes, not {}", info.bytes, part.shape.front()));
      }
      linear.tensors.push_back(part.name);
    }
    return linear;
  }
};

void read_scales(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t unit, float offset,
                 QuantizedTensor& out) {
  const TensorInfo& absmax = stored::need_tensor(checkpoint, linear.tensors[kAbsmax], {}, nullptr);
  if (!linear.args.double_quant) return stored::read_floats(checkpoint, absmax, unit, out.scales);
  CodedScales& coded = out.coded_scales;
  const auto codes = stored::bytes_of(checkpoint, absmax, unit, coded.codes.size());
  std::memcpy(coded.codes.data(), codes.data(), codes.size());
  const TensorInfo& nested = stored::need_tensor(checkpoint, linear.tensors[kNestedAbsmax], {}, nullptr);
  stored::read_floats(checkpoint, nested, unit / bnb::kNestedBlock, coded.scales);
  coded.map.resize(256);
  stored::read_floats(checkpoint, stored::need_tensor(checkpoint, linear.tensors[kNestedMap], {}, nullptr), 0,
                      coded.map);
  coded.offset = offset;
  decode_scales(out);
}

void Bitsandbytes::read_rows(const Checkpoint& checkpoint, const StoredLinear& linear, std::uint64_t first_row,
                             std::uint64_t count, QuantizedTensor& out) const {
  const std::uint64_t rows = linear.shape.rows, cols = linear.shape.cols;
  if (count == 0 || first_row > rows || count > rows - first_row || first_row % read_alignment(linear) != 0) {
    throw Error(ErrorCode::internal, fmt::format("{}: rows {}..{} of {} cannot be read", linear.shape.module, first_row,
                                                 first_row + count, rows));
  }
  if (bnb::is_int8(linear.args)) return bnb::read_int8_rows(checkpoint, linear, first_row, count, out);
  out.resize(linear.args, count, cols);
  out.scale_dtype = linear.scale_dtype;
  const std::uint64_t begin = first_row * cols, end = begin + count * cols;
  const TensorInfo& weight = stored::need_tensor(checkpoint, linear.tensors[kWeight], {}, nullptr);
  const auto packed = stored::bytes_of(checkpoint, weight, begin / 2, (end + 1) / 2 - begin / 2);
  for (std::uint64_t i = begin; i < end; ++i) {
    const auto byte = static_cast<unsigned>(packed[i / 2 - begin / 2]);
    out.codes[i - begin] = static_cast<std::int8_t>(i % 2 == 0 ? byte >> 4U : byte & 15U);
  }
  const TensorInfo& map = stored::need_tensor(checkpoint, linear.tensors[kQuantMap], {}, nullptr);
  stored::read_floats(checkpoint, map, 0, out.codebook);
  const TensorInfo& state = stored::need_tensor(checkpoint, linear.tensors[kState], {}, nullptr);
  const float offset = linear.args.double_quant
                           ? state_of(checkpoint, state, linear.shape.module, linear.args.codebook).nested_offset
                           : 0.0F;
  read_scales(checkpoint, linear, first_scale(linear.args, first_row, cols), offset, out);
}

}  // namespace

void register_bitsandbytes(Registry& registry);
void register_bitsandbytes(Registry& registry) { registry.add(std::make_unique<Bitsandbytes>()); }

}  // namespace quant
