#include "plain_quantizer.h"

#include <cmath>
#include <string>

#include "quant/error.h"
#include "quant/weight_rows.h"

namespace quant {
namespace {

class PlainQuantizer final : public Quantizer {
 public:
  CalibrationNeeds needs() const override { return {}; }
  std::optional<std::string> unsupported(const QuantArgs& weights) const override {
    if (is_plain(weights)) return std::nullopt;
    return "plain numbers have no codes";
  }
  TensorParams prepare(const TensorView& /*weight*/, const QuantArgs& /*args*/, std::span<const float> /*importance*/,
                       int /*threads*/) const override {
    return {};
  }

  void quantize_rows(const TensorView& rows, const QuantArgs& args, DType scale_dtype, const TensorParams& params,
                     std::span<const float> /*importance*/, QuantizedTensor& out, SliceErrors errors) const override {
    out.resize(args, rows.rows(), rows.cols());
    out.scale_dtype = scale_dtype;
    read_f32(rows, 0, out.plain);
    for (std::size_t i = 0; i < out.plain.size(); ++i) {
      out.plain[i] = round_to_dtype(scale_dtype, out.plain[i]);
      if (!std::isfinite(out.plain[i])) refuse(params.first_row + i / out.cols, i % out.cols, scale_dtype);
    }
    if (errors.wanted()) measure_rows(rows, out, errors);
  }

 private:
  [[noreturn]] static void refuse(std::uint64_t row, std::uint64_t col, DType type) {
    throw Error(ErrorCode::numerical, "the weight in row " + std::to_string(row) + ", column " + std::to_string(col) +
                                          " is no finite number of type " + std::string(dtype_name(type)));
  }
};

}  // namespace

std::unique_ptr<Quantizer> make_plain_quantizer() { return std::make_unique<PlainQuantizer>(); }

}  // namespace quant
