// Views of tensors and reading of their elements.
#include <cmath>
#include <cstring>
#include <functional>
#include <vector>

#include "quant/error.h"
#include "quant/tensor.h"
#include "quant/weight_rows.h"
#include "support/catch.h"

namespace {

using namespace quant;

template <class T>
TensorView view_of(DType type, const std::vector<T>& values, Shape shape) {
  return {type, std::move(shape), std::as_bytes(std::span(values))};
}

std::vector<float> read_all(const TensorView& view) {
  std::vector<float> out(element_count(view.shape));
  read_f32(view, 0, out);
  return out;
}

ErrorCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  FAIL("no error");
  return ErrorCode::internal;
}

}  // namespace

TEST_CASE("sizes are checked products") {
  CHECK(element_count({}) == 1);
  CHECK(element_count({3, 0, 5}) == 0);
  CHECK(byte_count(DType::F4, {3}) == 2);
  CHECK(byte_count(DType::F16, {4, 5}) == 40);
  const std::uint64_t huge = std::uint64_t{1} << 40;
  CHECK(code_of([&] { element_count({huge, huge}); }) == ErrorCode::corrupt_file);
  CHECK(code_of([&] { byte_count(DType::F64, {std::uint64_t{1} << 59}); }) == ErrorCode::corrupt_file);
  CHECK(to_string(Shape{4096, 11008}) == "[4096, 11008]");
}

TEST_CASE("elements of every numeric type are read as float32") {
  CHECK(read_all(view_of<float>(DType::F32, {1.5F, -0.0F}, {2})) == std::vector<float>{1.5F, -0.0F});
  CHECK(read_all(view_of<double>(DType::F64, {0.1, 1e300}, {2}))[0] == 0.1F);
  CHECK(std::isinf(read_all(view_of<double>(DType::F64, {0.1, 1e300}, {2}))[1]));
  CHECK(read_all(view_of<std::uint16_t>(DType::F16, {0x3C00, 0x0001}, {2})) == std::vector<float>{1.0F, 0x1p-24F});
  CHECK(read_all(view_of<std::uint16_t>(DType::BF16, {0x3F80, 0xC000}, {2})) == std::vector<float>{1.0F, -2.0F});
  CHECK(read_all(view_of<std::uint8_t>(DType::F8_E4M3, {0x7E, 0x81}, {2})) == std::vector<float>{448.0F, -0x1p-9F});
  CHECK(read_all(view_of<std::uint8_t>(DType::F8_E5M2, {0x7B}, {1})) == std::vector<float>{57344.0F});
  CHECK(read_all(view_of<std::uint8_t>(DType::F8_E8M0, {128}, {1})) == std::vector<float>{2.0F});
  CHECK(read_all(view_of<std::uint8_t>(DType::F8_E4M3FNUZ, {0x7F, 0x01}, {2})) == std::vector<float>{240.0F, 0x1p-10F});
  CHECK(read_all(view_of<std::uint8_t>(DType::F8_E5M2FNUZ, {0x7F}, {1})) == std::vector<float>{57344.0F});
  CHECK(std::isnan(read_all(view_of<std::uint8_t>(DType::F8_E4M3FNUZ, {0x80}, {1}))[0]));
  CHECK(read_all(view_of<std::int8_t>(DType::I8, {-128, 5}, {2})) == std::vector<float>{-128, 5});
  CHECK(read_all(view_of<std::uint8_t>(DType::U8, {255}, {1})) == std::vector<float>{255});
  CHECK(read_all(view_of<std::int16_t>(DType::I16, {-300}, {1})) == std::vector<float>{-300});
  CHECK(read_all(view_of<std::uint16_t>(DType::U16, {65535}, {1})) == std::vector<float>{65535});
  CHECK(read_all(view_of<std::int32_t>(DType::I32, {-70000}, {1})) == std::vector<float>{-70000});
  CHECK(read_all(view_of<std::uint32_t>(DType::U32, {70000}, {1})) == std::vector<float>{70000});
  CHECK(read_all(view_of<std::int64_t>(DType::I64, {-7}, {1})) == std::vector<float>{-7});
  CHECK(read_all(view_of<std::uint64_t>(DType::U64, {7}, {1})) == std::vector<float>{7});
  CHECK(read_all(view_of<std::uint8_t>(DType::F4, {0x72, 0x0F}, {3})) == std::vector<float>{1.0F, 6.0F, -6.0F});
}

TEST_CASE("a part of a packed tensor begins in the middle of a byte") {
  const std::vector<std::uint8_t> bytes{0x10, 0x32, 0x54};
  std::vector<float> out(3);
  read_f32(view_of(DType::F4, bytes, {6}), 3, out);
  CHECK(out == std::vector<float>{1.5F, 2.0F, 3.0F});
}

TEST_CASE("types without numbers and elements out of range are refused") {
  const std::vector<std::uint8_t> bytes(16, 1);
  CHECK(code_of([&] { read_all(view_of(DType::BOOL, bytes, {16})); }) == ErrorCode::unsupported);
  CHECK(code_of([&] { read_all(view_of(DType::C64, bytes, {2})); }) == ErrorCode::unsupported);
  CHECK(code_of([&] { read_all(view_of(DType::F6_E2M3, bytes, {4})); }) == ErrorCode::unsupported);
  std::vector<float> out(3);
  CHECK(code_of([&] { read_f32(view_of(DType::U8, bytes, {16}), 14, out); }) == ErrorCode::internal);
  CHECK(code_of([&] { read_f32(view_of(DType::U8, bytes, {16}), ~std::uint64_t{0}, out); }) == ErrorCode::internal);
}

TEST_CASE("rows can be sliced, whole and within bounds") {
  std::vector<float> values(12);
  for (std::size_t i = 0; i < 12; ++i) values[i] = static_cast<float>(i);
  const TensorView view = f32_view(values, 4, 3);
  const TensorView part = view.slice_rows(1, 2);
  CHECK(part.rows() == 2);
  CHECK(part.cols() == 3);
  CHECK(read_all(part) == std::vector<float>{3, 4, 5, 6, 7, 8});
  CHECK(view.slice_rows(4, 0).bytes.empty());
  CHECK(code_of([&] { view.slice_rows(3, 2); }) == ErrorCode::internal);
  CHECK(code_of([&] { view.slice_rows(5, 0); }) == ErrorCode::internal);
  const std::vector<std::uint8_t> odd(3);
  CHECK(code_of([&] { view_of(DType::F4, odd, {2, 3}).slice_rows(1, 1); }) == ErrorCode::internal);
  CHECK(code_of([&] { f32_view(values, 5, 3); }) == ErrorCode::usage);
}

TEST_CASE("rows for kernels are in place or converted") {
  const std::vector<double> doubles{1, 2, 3, 4};
  const std::vector<std::uint16_t> halves{0x3C00, 0x4000};
  std::vector<float> scratch;
  const WeightRows converted(view_of(DType::F64, doubles, {2, 2}));
  CHECK(converted.type() == WeightType::f32);
  CHECK(static_cast<const float*>(converted.row(1, scratch))[1] == 4.0F);
  const TensorView view = view_of(DType::F16, halves, {2, 1});
  const WeightRows direct(view);
  CHECK(direct.type() == WeightType::f16);
  CHECK(direct.row(1, scratch) == static_cast<const void*>(view.bytes.data() + 2));
}

TEST_CASE("the first value that is not finite is found") {
  std::vector<float> values(40, 1.0F);
  CHECK(!find_non_finite(f32_view(values, 4, 10)));
  CHECK(!find_non_finite(f32_view({}, 0, 10)));
  CHECK(!find_non_finite(f32_view({}, 10, 0)));
  values[27] = -INFINITY;
  values[33] = NAN;
  const auto found = find_non_finite(f32_view(values, 4, 10));
  REQUIRE(found);
  CHECK((found->row == 2 && found->col == 7 && std::isinf(found->value)));
}
