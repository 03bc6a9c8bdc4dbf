#include "dense_layout.h"

#include "pipeline/item_output.h"
#include "quant/error.h"

namespace quant {
namespace {

class DenseLayout final : public Layout {
 public:
  std::string_view name() const override { return "dense"; }
  DType scale_dtype(const QuantArgs& /*args*/, DType weight_dtype) const override { return weight_dtype; }
  std::optional<std::string> unsupported(const Scheme& scheme, const LinearShape& /*linear*/) const override {
    if (scheme.weights && is_plain(*scheme.weights)) return std::nullopt;
    return "dense tensors hold no codes";
  }
  std::string format_of(const Scheme& /*scheme*/) const override { return "dense"; }
  std::vector<StoredTensor> stored(const Scheme& /*scheme*/, const LinearShape& linear) const override {
    return {{linear.module + ".weight", linear.dtype, {linear.rows, linear.cols}}};
  }
  std::uint64_t row_alignment(const Scheme& /*scheme*/) const override { return 1; }
  void write_rows(const Scheme& /*scheme*/, const LinearShape& linear, std::uint64_t first_row,
                  const QuantizedTensor& slice, StoredBytesSink& sink) const override {
    sink.write(0, byte_count(linear.dtype, {first_row, linear.cols}), encode_floats(linear.dtype, slice.plain));
  }
  std::string config_json(const ModelConfig& model, const std::vector<SchemeGroup>& /*groups*/,
                          const std::vector<std::string>& /*ignore*/) const override {
    return model.text;
  }
  bool recognizes(const ModelConfig& /*model*/) const override { return false; }
  std::vector<StoredLinear> find_linears(const Checkpoint& /*checkpoint*/) const override { return {}; }
  void read_rows(const Checkpoint& /*checkpoint*/, const StoredLinear& linear, std::uint64_t /*first_row*/,
                 std::uint64_t /*count*/, QuantizedTensor& /*out*/) const override {
    throw Error(ErrorCode::internal, linear.shape.module + " is a plain tensor, but is read as if it were packed");
  }
  std::uint64_t read_alignment(const StoredLinear& /*linear*/) const override { return 1; }
};

}  // namespace

const Layout& dense_layout() {
  static const DenseLayout layout;
  return layout;
}

}  // namespace quant
