#include "layouts/compressed_tensors/find_linears.h"

#include <fmt/format.h>

#include <cstring>

#include "layouts/compressed_tensors/config_read.h"
#include "layouts/compressed_tensors/stored_parts.h"
#include "packing/pack_bits.h"
#include "quant/error.h"

namespace quant::compressed_tensors {
namespace {

constexpr std::string_view kCompanions[] = {"weight_scale",        "weight_zero_point",  "weight_g_idx",
                                            "weight_global_scale", "weight_shape",       "input_scale",
                                            "input_zero_point",    "input_global_scale", "output_scale",
                                            "output_zero_point",   "output_global_scale"};

[[noreturn]] void fail(const Checkpoint& checkpoint, std::string_view tensor, const std::string& problem) {
  throw Error(ErrorCode::corrupt_file, fmt::format("{}: tensor {} {}", checkpoint.location().string(), tensor, problem),
              "the checkpoint was not written by compressed-tensors, or is damaged", "BadQuantizedLinear");
}

/// One module while its tensors are checked.
class Inspector {
 public:
  Inspector(const Checkpoint& checkpoint, const SchemeTable& schemes, std::string module, const TensorInfo& codes)
      : checkpoint_(checkpoint), schemes_(schemes), module_(std::move(module)), codes_(codes) {}

  StoredLinear inspect();

 private:
  const TensorInfo* find(std::string_view suffix) const {
    return checkpoint_.find(module_ + "." + std::string(suffix));
  }
  const TensorInfo& need(std::string_view suffix) const;
  void expect(const TensorInfo& tensor, std::initializer_list<DType> types, const Shape& shape) const;
  void expect_type(const TensorInfo& tensor, std::initializer_list<DType> types) const;
  [[noreturn]] void contradict(const QuantArgs& args) const;

  Format tell_format(const Scheme& scheme) const;
  void read_shape(StoredLinear& linear, Format& format) const;
  void read_packed_shape(StoredLinear& linear, Format& format) const;
  void check_scales(StoredLinear& linear, Format format) const;
  void check_zero_points(const StoredLinear& linear, Format format) const;
  void check_rest(const StoredLinear& linear, Format format) const;
  float read_number(std::string_view suffix) const;
  StoredInput read_input(const QuantArgs& args) const;

  const Checkpoint& checkpoint_;
  const SchemeTable& schemes_;
  const std::string module_;
  const TensorInfo& codes_;
};

const TensorInfo& Inspector::need(std::string_view suffix) const {
  const TensorInfo* tensor = find(suffix);
  if (tensor == nullptr) fail(checkpoint_, codes_.name, fmt::format("has no {}.{} beside it", module_, suffix));
  return *tensor;
}

void Inspector::expect_type(const TensorInfo& tensor, std::initializer_list<DType> types) const {
  std::string names;
  for (const DType type : types) {
    if (tensor.dtype == type) return;
    names += (names.empty() ? "" : " or ") + std::string(dtype_name(type));
  }
  fail(checkpoint_, tensor.name, fmt::format("is {}, not {}", dtype_name(tensor.dtype), names));
}

/// Shapes are compared without their dimensions of size 1: [O, 1] and [O], [1] and [] are in use for the same thing.
void Inspector::expect(const TensorInfo& tensor, std::initializer_list<DType> types, const Shape& shape) const {
  expect_type(tensor, types);
  const auto squeezed = [](const Shape& full) {
    Shape kept;
    for (const auto size : full) {
      if (size != 1) kept.push_back(size);
    }
    return kept;
  };
  if (squeezed(tensor.shape) == squeezed(shape)) return;
  fail(checkpoint_, tensor.name, fmt::format("has shape {}, not {}", to_string(tensor.shape), to_string(shape)));
}

void Inspector::contradict(const QuantArgs& args) const {
  fail(checkpoint_, codes_.name,
       fmt::format("is {}, but config.json says {}", dtype_name(codes_.dtype), describe(args)));
}

/// The codes' type tells the format; config.json must agree with it.
Format Inspector::tell_format(const Scheme& scheme) const {
  const QuantArgs& args = *scheme.weights;
  const bool packed = codes_.name.ends_with("weight_packed");
  const bool naive = schemes_.declared_format(scheme) == "naive-quantized";
  if (codes_.dtype == DType::I32 && packed && args.type == NumberType::integer) return Format::pack_quantized;
  if (codes_.dtype == DType::U8 && packed && is_mx(args) && args.num_bits == 4) return Format::mxfp4;
  if (codes_.dtype == DType::U8 && packed && is_nvfp4(args)) return Format::nvfp4;
  if (codes_.dtype == DType::I8 && !packed && args.type == NumberType::integer) {
    return naive ? Format::naive_quantized : Format::int_quantized;
  }
  const bool float8 = codes_.dtype == DType::F8_E4M3 || codes_.dtype == DType::F8_E5M2;
  if (float8 && !packed && args.type == NumberType::floating && args.num_bits == 8) {
    if (is_mx(args)) return Format::mxfp8;
    return naive ? Format::naive_quantized : Format::float_quantized;
  }
  contradict(args);
}

void Inspector::read_packed_shape(StoredLinear& linear, Format& format) const {
  const TensorInfo& info = need("weight_shape");
  expect(info, {DType::I64, DType::I32}, {2});
  std::array<std::int64_t, 2> shape{};
  const auto bytes = checkpoint_.view(info).bytes;
  if (info.dtype == DType::I64) {
    std::memcpy(shape.data(), bytes.data(), sizeof shape);
  } else {
    std::array<std::int32_t, 2> narrow{};
    std::memcpy(narrow.data(), bytes.data(), sizeof narrow);
    shape = {narrow[0], narrow[1]};
  }
  if (shape[0] <= 0 || shape[1] <= 0 || static_cast<std::uint64_t>(shape[0]) != linear.shape.rows) {
    fail(checkpoint_, info.name,
         fmt::format("says [{}, {}], but {} has {} rows", shape[0], shape[1], codes_.name, linear.shape.rows));
  }
  const auto bits = static_cast<unsigned>(linear.args.num_bits);
  const auto cols = static_cast<std::uint64_t>(shape[1]);
  const std::uint64_t words = codes_.shape[1];
  const bool dense = words == packing::dense_words(cols, bits);
  const bool old = words == packing::whole_element_words(cols, bits);
  if (!dense && !old) {
    fail(checkpoint_, codes_.name,
         fmt::format("has {} words a row, which {} columns of {} bits do not fill", words, cols, bits));
  }
  // Few columns may fill equally many words either way; then the version that wrote the file decides.
  const bool same_packing = 32 % bits == 0;
  if (!same_packing && old && (!dense || schemes_.old_version())) format = Format::pack_quantized_old;
  linear.shape.cols = cols;
}

void Inspector::read_shape(StoredLinear& linear, Format& format) const {
  if (codes_.shape.size() != 2 || codes_.shape[0] == 0 || codes_.shape[1] == 0) {
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: tensor {} has shape {}; only matrices can be read", checkpoint_.location().string(),
                            codes_.name, to_string(codes_.shape)));
  }
  linear.shape.module = module_;
  linear.shape.rows = codes_.shape[0];
  linear.shape.cols = codes_.shape[1];
  if (format == Format::pack_quantized) read_packed_shape(linear, format);
  if (is_fp4(format)) linear.shape.cols = checked_mul(codes_.shape[1], 2, codes_.name);
  if (codes_.dtype == DType::F8_E5M2)
    linear.args.observer_kwargs["float8_format"] = std::string("e5m2");
  else
    linear.args.observer_kwargs.erase("float8_format");
}

// The type that the weights had: what config.json says, else that of the tensors that are not quantized.
DType original_dtype(const Checkpoint& checkpoint) {
  const auto plain = [](DType type) { return type == DType::F32 || type == DType::F16 || type == DType::BF16; };
  if (const auto said = checkpoint.config().dtype; said && plain(*said)) return *said;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (plain(tensor.dtype) && tensor.name.find("_scale") == std::string::npos) return tensor.dtype;
  }
  return DType::BF16;
}

void Inspector::check_scales(StoredLinear& linear, Format format) const {
  const TensorInfo& scale = need("weight_scale");
  const Shape shape = scale_shape(linear.args, linear.shape.rows, linear.shape.cols);
  linear.shape.dtype = original_dtype(checkpoint_);
  linear.scale_dtype = scale.dtype;
  if (format == Format::mxfp4 || format == Format::mxfp8) {
    expect(scale, {DType::U8, DType::F8_E8M0}, shape);
    linear.scale_dtype = DType::U8;
  } else if (format == Format::nvfp4) {
    expect(scale, {DType::F8_E4M3}, shape);
  } else {
    expect(scale, {DType::F32, DType::F16, DType::BF16}, shape);
    linear.shape.dtype = scale.dtype;
  }
}

void Inspector::check_zero_points(const StoredLinear& linear, Format format) const {
  if (linear.args.symmetric) return;  // files of old versions may hold zeros here
  const TensorInfo& zeros = need("weight_zero_point");
  Shape shape = scale_shape(linear.args, linear.shape.rows, linear.shape.cols);
  if (!packs_zero_points(format, linear.args)) return expect(zeros, {DType::I8}, shape);
  const auto bits = static_cast<unsigned>(linear.args.num_bits);
  shape[0] = format == Format::pack_quantized_old ? packing::whole_element_words(linear.shape.rows, bits)
                                                  : packing::dense_words(linear.shape.rows, bits);
  expect(zeros, {DType::I32}, shape);
}

void Inspector::check_rest(const StoredLinear& linear, Format format) const {
  if (const TensorInfo* index = find("weight_g_idx")) {
    if (linear.args.strategy != Strategy::group) {
      fail(checkpoint_, index->name, fmt::format("does not go with strategy {}", to_string(linear.args.strategy)));
    }
    expect(*index, {DType::I32}, {linear.shape.cols});
  } else if (linear.args.actorder == ActOrder::group && is_packed_integers(format)) {
    need("weight_g_idx");
  }
  if (format == Format::nvfp4) expect(need("weight_global_scale"), {DType::F32}, {1});
}

/// The value of a tensor of one element; 0 if there is none, which only those mind who run the model.
float Inspector::read_number(std::string_view suffix) const {
  const TensorInfo* info = find(suffix);
  if (info == nullptr) return 0;
  expect(*info, {DType::F32, DType::F16, DType::BF16, DType::I8, DType::F8_E4M3}, {1});
  float value = 0;
  read_f32(checkpoint_.view(*info), 0, std::span(&value, 1));
  return value;
}

StoredInput Inspector::read_input(const QuantArgs& args) const {
  StoredInput input{args, 0, 0, 0};
  if (is_nvfp4(args)) {
    input.global_scale = read_number("input_global_scale");
  } else if (args.dynamic == Dynamic::no) {
    input.scale = read_number("input_scale");
    if (!args.symmetric) input.zero_point = read_number("input_zero_point");
  }
  return input;
}

StoredLinear Inspector::inspect() {
  const Scheme* scheme = schemes_.find(module_);
  if (scheme == nullptr)
    fail(checkpoint_, codes_.name, "is quantized, but no target in config.json matches its module");
  StoredLinear linear;
  linear.args = *scheme->weights;
  Format format = tell_format(*scheme);
  need("weight_scale");
  read_shape(linear, format);
  check_scales(linear, format);
  check_zero_points(linear, format);
  check_rest(linear, format);
  if (scheme->input_activations) linear.input = read_input(*scheme->input_activations);
  linear.format = format_name(format);
  linear.tensors.push_back(codes_.name);
  for (const auto suffix : kCompanions) {
    if (const TensorInfo* tensor = find(suffix)) linear.tensors.push_back(tensor->name);
  }
  return linear;
}

bool holds_codes(DType type) { return type == DType::I8 || type == DType::F8_E4M3 || type == DType::F8_E5M2; }

/// The module whose codes the tensor holds, or empty.
std::string module_of_codes(const TensorInfo& tensor) {
  constexpr std::string_view kPacked = ".weight_packed";
  constexpr std::string_view kPlain = ".weight";
  if (tensor.name.ends_with(kPacked)) return tensor.name.substr(0, tensor.name.size() - kPacked.size());
  if (tensor.name.ends_with(kPlain) && holds_codes(tensor.dtype)) {
    return tensor.name.substr(0, tensor.name.size() - kPlain.size());
  }
  return {};
}

/// Scales whose weight is gone would otherwise be copied along in silence.
void check_orphan(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  constexpr std::string_view kScale = ".weight_scale";
  if (!tensor.name.ends_with(kScale)) return;
  const std::string module = tensor.name.substr(0, tensor.name.size() - kScale.size());
  if (checkpoint.find(module + ".weight") == nullptr && checkpoint.find(module + ".weight_packed") == nullptr) {
    fail(checkpoint, tensor.name, "has no weight beside it");
  }
}

}  // namespace

std::vector<StoredLinear> find_linears(const Checkpoint& checkpoint) {
  const SchemeTable schemes(checkpoint.config());
  std::vector<StoredLinear> linears;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    std::string module = module_of_codes(tensor);
    if (module.empty()) {
      check_orphan(checkpoint, tensor);
      continue;
    }
    linears.push_back(Inspector(checkpoint, schemes, std::move(module), tensor).inspect());
  }
  return linears;
}

}  // namespace quant::compressed_tensors
