#include "cuda/device_linear.h"

#include <algorithm>

#include "forward/row_quantizer.h"
#include "linalg/parallel.h"
#include "quant/error.h"

namespace quant::cuda {
namespace {

using linalg::pieces;

constexpr std::uint64_t kTileTokens = 64;  // beyond, dense products pay
constexpr std::uint64_t kPlainLimit = 16;  // tokens up to which the reference is used where a dense product could be
constexpr std::uint64_t kTokensAtOnce = 2048;
constexpr std::uint64_t kDenseBytes = std::uint64_t{64} << 20;  // of dequantized rows at once
constexpr std::uint64_t kBlocks = 128;  // that a product should have: about as many as there are multiprocessors

// How the kernels find an input's scale, as RowQuantizer does.
struct CodeRules {
  bool known = false, per_token = false;
  float scale = 0, divisor = 127, zero_scale = 1, least = -127;
};

CodeRules code_rules(const InputQuantizer* input) {
  CodeRules rules;
  rules.known = true;
  if (input == nullptr) return rules;  // a scale per segment: the largest magnitude / 127
  const QuantArgs& args = input->args;
  const bool fixed = args.strategy == Strategy::tensor && input->scale > 0.0F;
  rules.per_token = args.strategy == Strategy::token;
  rules.known = args.type == NumberType::integer && args.num_bits == 8 && args.symmetric && input->zero_point == 0.0F &&
                args.outlier_threshold == 0.0 && args.scale_dtype.value_or(DType::F32) == DType::F32 &&
                symmetric_range(args) != SymmetricRange::full && (fixed || rules.per_token);
  if (!rules.known) return rules;
  const ScaleRules scales = forward::activation_rules(args, 1.0F);
  rules.scale = input->scale;
  rules.divisor = scales.divisor;
  rules.zero_scale = scales.zero_scale;
  rules.least = scales.code_min;
  return rules;
}

// Parts that a row's steps are divided into, so that matrices of few rows occupy the device: by shape alone, with the
// two strips that blocks take for many tokens.
std::uint32_t splits_of(const TileMatrix& matrix, std::uint64_t tokens) {
  const std::uint64_t blocks = tokens == 1 ? matrix.strips : pieces(matrix.strips, 2);
  const std::uint64_t most = std::max<std::uint64_t>(1, matrix.steps / kTileWarps);
  return static_cast<std::uint32_t>(std::clamp<std::uint64_t>(pieces(kBlocks, blocks), 1, most));
}

}  // namespace

template <class Value>
DeviceBuffer DeviceLinear::upload(const std::vector<Value>& values) const {
  DeviceBuffer buffer(*backend_, values.size() * sizeof(Value), nullptr);
  if (!values.empty()) backend_->to_device(buffer.as<void>(), values.data(), buffer.size(), nullptr);
  return buffer;
}

DeviceLinear::DeviceLinear(Backend& backend, const QuantizedTensor& weight, std::span<const float> bias, bool tuned,
                           int threads)
    : backend_(&backend), rows_(weight.rows), cols_(weight.cols), plain_only_(!tuned) {
  bias_ = upload(std::vector<float>(bias.begin(), bias.end()));
  if (rows_ == 0 || cols_ == 0) return;
  set_sparse(weight.sparse);
  if (const auto packed = tuned ? pack_tiles(weight, threads) : std::nullopt) {
    set_tiles(*packed);
    int8_ = packed->int8();
    return;
  }
  if (has_blocks(weight.args)) {
    throw Error(ErrorCode::unsupported, "there are no CUDA kernels for weights of " + describe(weight.args),
                "multiply with the dequantized weights", "NoCudaKernels");
  }
  set_plain(pack_plain(weight, threads));
  int8_ = weight.args.type == NumberType::integer && weight.real_zero_points.empty();
}

void DeviceLinear::set_tiles(const PackedTiles& packed) {
  DeviceTiles& tiles = tiles_.emplace();
  tiles.packed = packed.packed;
  tiles.factor = packed.factor;
  tiles.codes = upload(packed.codes);
  tiles.scales = upload(packed.scales);
  tiles.zeros = upload(packed.zeros);
  tiles.table = upload(packed.table);
  tiles.source = upload(packed.source);
  tiles.exact = packed.shape;
  tiles.exact.codes = tiles.codes.as<std::uint32_t>();
  tiles.exact.scales = tiles.scales.as<void>();
  tiles.exact.zeros = tiles.zeros.as<std::int8_t>();
  tiles.exact.table = tiles.table.as<std::uint32_t>();
  tiles.rounded = tiles.exact;
  tiles.rounded.planes = 1;
  if (tiles.exact.planes > 1) tiles.exact.table += 8;
}

void DeviceLinear::set_plain(const PackedPlain& packed) {
  DevicePlain& plain = plain_.emplace();
  plain.codes = upload(packed.codes);
  plain.scales = upload(packed.scales);
  plain.zeros = upload(packed.zeros);
  plain.real_zeros = upload(packed.real_zeros);
  plain.table = upload(packed.table);
  plain.groups = upload(packed.groups);
  plain.matrix = packed.shape;
  plain.matrix.codes = plain.codes.as<std::uint32_t>();
  plain.matrix.scales = plain.scales.as<float>();
  plain.matrix.zeros = plain.zeros.as<std::int8_t>();
  plain.matrix.real_zeros = plain.real_zeros.as<float>();
  plain.matrix.table = plain.table.as<float>();
  plain.matrix.groups = plain.groups.as<std::int32_t>();
}

void DeviceLinear::set_sparse(const SparseRows& sparse) {
  starts_ = upload(sparse.starts);
  columns_ = upload(sparse.columns);
  values_ = upload(sparse.values);
}

std::uint64_t DeviceLinear::bytes() const {
  std::uint64_t total = starts_.size() + columns_.size() + values_.size() + bias_.size();
  if (tiles_) {
    total += tiles_->codes.size() + tiles_->scales.size() + tiles_->zeros.size() + tiles_->table.size() +
             tiles_->source.size();
  }
  if (plain_) {
    total += plain_->codes.size() + plain_->scales.size() + plain_->zeros.size() + plain_->real_zeros.size() +
             plain_->table.size() + plain_->groups.size();
  }
  return total;
}

Finish DeviceLinear::finish_of(const float* x, std::uint64_t tokens, float* y) const {
  Finish finish{};
  finish.parts = y;
  finish.splits = 1;
  finish.tokens = tokens;
  finish.rows = rows_;
  finish.cols = cols_;
  finish.factor = tiles_ ? tiles_->factor : 1.0F;
  finish.starts = starts_.as<std::uint64_t>();
  finish.columns = columns_.as<std::uint32_t>();
  finish.values = values_.as<float>();
  finish.x = x;
  finish.bias = bias_.as<float>();
  finish.y = y;
  return finish;
}

InputRows DeviceLinear::input_rows(const float* x, std::uint64_t tokens, Order order) const {
  InputRows rows{x, tokens, cols_, nullptr, cols_, order};
  if (tiles_) {
    rows.source = tiles_->source.as<std::int32_t>();
    rows.packed = tiles_->packed;
  }
  return rows;
}

bool DeviceLinear::host_quantizes(const PackedOptions& options) const {
  if (options.input == nullptr) return false;
  const bool coded = options.activations == Activations::int8 && int8_ && starts_.size() == 0;
  return !coded || !code_rules(options.input).known;
}

// No kernel quantizes such inputs: the host does, and the product is that of the rounded values.
void DeviceLinear::run_host_quantized(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options,
                                      void* stream) const {
  std::vector<float> rounded(tokens * cols_);
  backend_->to_host(rounded.data(), x, rounded.size() * sizeof(float), stream);
  fake_quantize_rows(rounded, tokens, *options.input, options.threads);
  const DeviceBuffer inputs(*backend_, rounded.size() * sizeof(float), stream);
  backend_->to_device(inputs.as<void>(), rounded.data(), inputs.size(), stream);
  PackedOptions plain = options;
  plain.input = nullptr;
  if (plain.activations == Activations::int8) plain.activations = Activations::f32;
  multiply(inputs.as<float>(), tokens, y, plain, stream);
}

void DeviceLinear::multiply(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options,
                            void* stream) const {
  if (tokens == 0 || rows_ == 0) return;
  if (cols_ == 0) {
    Finish finish = finish_of(x, tokens, y);
    finish.splits = 0;
    return backend_->run(finish, stream);
  }
  if (host_quantizes(options)) return run_host_quantized(x, tokens, y, options, stream);
  for (std::uint64_t first = 0; first < tokens; first += kTokensAtOnce) {
    const std::uint64_t count = std::min(kTokensAtOnce, tokens - first);
    run_part(x + first * cols_, count, y + first * rows_, options, stream);
  }
}

void DeviceLinear::run_part(const float* x, std::uint64_t tokens, float* y, const PackedOptions& options,
                            void* stream) const {
  if (options.activations == Activations::int8 && int8_) return run_coded(x, tokens, y, options.input, stream);
  const bool bf16 = options.activations == Activations::bf16;
  const std::uint64_t limit = tiles_ ? kTileTokens : kPlainLimit;
  if (!plain_only_ && tokens > limit && backend_->multiplies_dense()) return run_dense(x, tokens, y, bf16, stream);
  if (tiles_) return run_float_tiles(x, tokens, y, bf16, stream);
  PlainProduct product{};
  product.matrix = plain_->matrix;
  product.x = x;
  product.round = bf16;
  product.tokens = tokens;
  run_plain(product, x, y, stream);
}

void DeviceLinear::run_coded(const float* x, std::uint64_t tokens, float* y, const InputQuantizer* input,
                             void* stream) const {
  const CodeRules rules = code_rules(input);
  CodedInputs inputs{};
  inputs.rows = input_rows(x, tokens, tiles_ ? Order::tiles8 : Order::natural);
  inputs.segment = tiles_ ? tiles_->exact.group_runs * kRun : kStepColumns;
  inputs.segments = pieces(inputs.rows.packed, inputs.segment);
  inputs.scale = rules.per_token ? 0.0F : rules.scale;
  inputs.per_token = rules.per_token;
  inputs.divisor = rules.divisor;
  inputs.zero_scale = rules.zero_scale;
  inputs.least = rules.least;
  const std::uint64_t count = tokens * inputs.segments;
  const DeviceBuffer codes(*backend_, tokens * inputs.rows.packed, stream);
  const DeviceBuffer scales(*backend_, count * sizeof(float), stream);
  const DeviceBuffer sums(*backend_, count * sizeof(std::int32_t), stream);
  const DeviceBuffer largest(*backend_, rules.per_token ? count * sizeof(float) : 0, stream);
  inputs.codes = codes.as<std::int8_t>();
  inputs.scales = scales.as<float>();
  inputs.sums = sums.as<std::int32_t>();
  inputs.largest = largest.as<float>();
  backend_->run(inputs, stream);
  if (tiles_) {
    const TileInputs in{inputs.codes,
                        false,
                        1,
                        tokens,
                        inputs.rows.packed,
                        inputs.scales,
                        inputs.sums,
                        static_cast<std::uint32_t>(inputs.segments),
                        tiles_->exact.group_runs};
    return run_tiles(in, tiles_->exact, x, y, true, stream);
  }
  PlainProduct product{};
  product.matrix = plain_->matrix;
  product.codes = inputs.codes;
  product.scales = inputs.scales;
  product.segments = inputs.segments;
  product.segment = inputs.segment;
  product.tokens = tokens;
  run_plain(product, x, y, stream);
}

void DeviceLinear::run_plain(const PlainProduct& given, const float* x, float* y, void* stream) const {
  PlainProduct product = given;
  product.y = y;
  backend_->run(product, stream);
  if (starts_.size() != 0 || bias_.size() != 0) backend_->run(finish_of(x, product.tokens, y), stream);
}

void DeviceLinear::run_float_tiles(const float* x, std::uint64_t tokens, float* y, bool bf16, void* stream) const {
  TileInputs in{};
  in.tokens = tokens;
  in.packed = tiles_->packed;
  in.parts = bf16 ? 1 : 3;
  in.direct = tokens * in.parts <= 8 && tiles_->source.size() == 0 && cols_ == tiles_->packed;
  const TileMatrix& matrix = bf16 ? tiles_->rounded : tiles_->exact;
  if (in.direct) {
    in.x = x;
    return run_tiles(in, matrix, x, y, false, stream);
  }
  const DeviceBuffer inputs(*backend_, tokens * in.parts * in.packed * sizeof(std::uint16_t), stream);
  backend_->run(Bf16Inputs{input_rows(x, tokens, Order::tiles16), in.parts, inputs.as<std::uint16_t>()}, stream);
  in.x = inputs.as<void>();
  run_tiles(in, matrix, x, y, false, stream);
}

void DeviceLinear::run_tiles(const TileInputs& inputs, const TileMatrix& matrix, const float* x, float* y, bool coded,
                             void* stream) const {
  TileProduct product{};
  product.matrix = matrix;
  product.inputs = inputs;
  product.splits = splits_of(matrix, inputs.tokens);
  product.y = y;
  product.factor = tiles_->factor;
  product.bias = bias_.as<float>();
  if (product.splits == 1 && starts_.size() == 0) return backend_->run(product, coded, stream);
  const DeviceBuffer parts(*backend_, product.splits * inputs.tokens * rows_ * sizeof(float), stream);
  product.parts = parts.as<float>();
  backend_->run(product, coded, stream);
  Finish finish = finish_of(x, inputs.tokens, y);
  finish.parts = product.parts;
  finish.splits = product.splits;
  backend_->run(finish, stream);
}

void DeviceLinear::run_dense(const float* x, std::uint64_t tokens, float* y, bool bf16, void* stream) const {
  InputRows rows = input_rows(x, tokens, Order::natural);
  rows.packed = pieces(rows.packed, 8) * 8;
  const std::uint64_t size = bf16 ? sizeof(std::uint16_t) : sizeof(float);
  const DeviceBuffer inputs(*backend_, tokens * rows.packed * size, stream);
  if (bf16) {
    backend_->run(Bf16Inputs{rows, 1, inputs.as<std::uint16_t>()}, stream);
  } else {
    backend_->run(FloatInputs{rows, inputs.as<float>()}, stream);
  }
  DenseFill fill{};
  fill.tiled = tiles_.has_value();
  if (tiles_) fill.tiles = tiles_->exact;
  if (plain_) fill.plain = plain_->matrix;
  fill.columns = rows.packed;
  fill.bf16 = bf16;
  const std::uint64_t step = std::clamp<std::uint64_t>(kDenseBytes / (rows.packed * size) / 64 * 64, 64, rows_ + 64);
  const DeviceBuffer weights(*backend_, std::min(step, rows_) * rows.packed * size, stream);
  fill.out = weights.as<void>();
  for (fill.first = 0; fill.first < rows_; fill.first += step) {
    fill.rows = std::min(step, rows_ - fill.first);
    backend_->run(fill, stream);
    backend_->run(
        DenseProduct{fill.out, inputs.as<void>(), y + fill.first, fill.rows, tokens, rows.packed, rows_, bf16}, stream);
  }
  backend_->run(finish_of(x, tokens, y), stream);
}

}  // namespace quant::cuda
