#include "quant/tensor.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "quant/error.h"
#include "quant/kernels.h"

namespace quant {
namespace {

template <class T>
T load(const std::byte* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

template <class T, class Convert>
void convert_each(const std::byte* in, std::span<float> out, Convert convert) {
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = convert(load<T>(in + i * sizeof(T)));
}

// AMD's variants: bias one higher, no negative zero; 0x80 is NaN.
float fnuz_to_f32(std::uint8_t bits, int mantissa, int bias) {
  if (bits == 0x80) return std::numeric_limits<float>::quiet_NaN();
  const unsigned magnitude = bits & 0x7FU;
  const unsigned exponent = magnitude >> mantissa;
  const unsigned fraction = magnitude & ((1U << mantissa) - 1U);
  const unsigned significand = exponent == 0 ? fraction : fraction + (1U << mantissa);
  const float value =
      std::ldexp(static_cast<float>(significand), (exponent == 0 ? 1 : static_cast<int>(exponent)) - bias - mantissa);
  return (bits & 0x80U) != 0 ? -value : value;
}

void read_f4(const TensorView& view, std::uint64_t first, std::span<float> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t at = first + i;
    const auto byte = std::to_integer<unsigned>(view.bytes[at / 2]);
    out[i] = e2m1_to_f32(static_cast<std::uint8_t>(at % 2 == 0 ? byte & 15U : byte >> 4));
  }
}

}  // namespace

std::uint64_t element_count(const Shape& shape) {
  std::uint64_t count = 1;
  for (const std::uint64_t size : shape) {
    // The message is made only where it is needed: this runs for every read of a few values.
    std::uint64_t product = 0;
    if (__builtin_mul_overflow(count, size, &product)) checked_mul(count, size, "shape " + to_string(shape));
    count = product;
  }
  return count;
}

std::uint64_t byte_count(DType type, const Shape& shape) {
  const std::uint64_t bits = checked_mul(element_count(shape), dtype_bits(type), "bits of shape " + to_string(shape));
  return bits / 8 + (bits % 8 != 0 ? 1 : 0);
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(shape[i]);
  return text + "]";
}

std::uint64_t TensorView::rows() const { return shape.empty() ? 1 : shape.front(); }

std::uint64_t TensorView::cols() const {
  std::uint64_t count = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) count *= shape[i];
  return count;
}

TensorView TensorView::slice_rows(std::uint64_t first, std::uint64_t count) const {
  const std::uint64_t row_bits = cols() * dtype_bits(dtype);
  if (shape.empty() || first > rows() || count > rows() - first || row_bits % 8 != 0) {
    throw Error(ErrorCode::internal, "rows " + std::to_string(first) + " to " + std::to_string(first + count) +
                                         " of a tensor " + to_string(shape) + " cannot be sliced");
  }
  TensorView slice = *this;
  slice.shape.front() = count;
  slice.bytes = bytes.subspan(first * (row_bits / 8), count * (row_bits / 8));
  return slice;
}

void read_f32(const TensorView& view, std::uint64_t first, std::span<float> out) {
  if (out.empty()) return;
  const std::uint64_t count = element_count(view.shape);
  if (first > count || out.size() > count - first) {
    throw Error(ErrorCode::internal, "elements " + std::to_string(first) + " to " + std::to_string(first + out.size()) +
                                         " are outside a tensor of " + std::to_string(count));
  }
  const std::byte* in = view.bytes.data() + first * dtype_bits(view.dtype) / 8;
  switch (view.dtype) {
    case DType::F32:
      std::memcpy(out.data(), in, out.size_bytes());
      return;
    case DType::F16:
      kernels().f16_to_f32(in, out.data(), out.size());
      return;
    case DType::BF16:
      kernels().bf16_to_f32(in, out.data(), out.size());
      return;
    case DType::F64:
      convert_each<double>(in, out, [](double v) { return static_cast<float>(v); });
      return;
    case DType::I64:
      convert_each<std::int64_t>(in, out, [](std::int64_t v) { return static_cast<float>(v); });
      return;
    case DType::U64:
      convert_each<std::uint64_t>(in, out, [](std::uint64_t v) { return static_cast<float>(v); });
      return;
    case DType::I32:
      convert_each<std::int32_t>(in, out, [](std::int32_t v) { return static_cast<float>(v); });
      return;
    case DType::U32:
      convert_each<std::uint32_t>(in, out, [](std::uint32_t v) { return static_cast<float>(v); });
      return;
    case DType::I16:
      convert_each<std::int16_t>(in, out, [](std::int16_t v) { return static_cast<float>(v); });
      return;
    case DType::U16:
      convert_each<std::uint16_t>(in, out, [](std::uint16_t v) { return static_cast<float>(v); });
      return;
    case DType::I8:
      convert_each<std::int8_t>(in, out, [](std::int8_t v) { return static_cast<float>(v); });
      return;
    case DType::U8:
      convert_each<std::uint8_t>(in, out, [](std::uint8_t v) { return static_cast<float>(v); });
      return;
    case DType::F8_E4M3:
      convert_each<std::uint8_t>(in, out, e4m3_to_f32);
      return;
    case DType::F8_E5M2:
      convert_each<std::uint8_t>(in, out, e5m2_to_f32);
      return;
    case DType::F8_E8M0:
      convert_each<std::uint8_t>(in, out, e8m0_to_f32);
      return;
    case DType::F8_E4M3FNUZ:
      convert_each<std::uint8_t>(in, out, [](std::uint8_t v) { return fnuz_to_f32(v, 3, 8); });
      return;
    case DType::F8_E5M2FNUZ:
      convert_each<std::uint8_t>(in, out, [](std::uint8_t v) { return fnuz_to_f32(v, 2, 16); });
      return;
    case DType::F4:
      read_f4(view, first, out);
      return;
    case DType::C64:
    case DType::F6_E2M3:
    case DType::F6_E3M2:
    case DType::BOOL:
      break;
  }
  throw Error(ErrorCode::unsupported,
              "values of type " + std::string(dtype_name(view.dtype)) + " cannot be read as numbers");
}

TensorView f32_view(std::span<const float> values, std::uint64_t rows, std::uint64_t cols) {
  if (checked_mul(rows, cols, "matrix") != values.size()) {
    throw Error(ErrorCode::usage,
                std::to_string(values.size()) + " values are no matrix " + to_string(Shape{rows, cols}));
  }
  return TensorView{DType::F32, {rows, cols}, std::as_bytes(values)};
}

}  // namespace quant
