#include <cmath>
#include <limits>

#include "fakes.h"
#include "quant/compare.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

const TensorComparison& find(const Comparison& comparison, const std::string& name) {
  for (const TensorComparison& tensor : comparison.tensors) {
    if (tensor.name == name) return tensor;
  }
  throw std::runtime_error("no tensor " + name);
}

struct Reference {
  double signal = 0, noise = 0, dot = 0, recon = 0, worst = 0;
};

Reference reference_sums(const std::vector<float>& a, const std::vector<float>& b) {
  Reference r;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = a[i], y = b[i];
    r.signal += x * x;
    r.noise += (x - y) * (x - y);
    r.dot += x * y;
    r.recon += y * y;
    r.worst = std::max(r.worst, std::abs(x - y));
  }
  return r;
}

void check_sums(const ErrorSums& sums, const Reference& r) {
  CHECK(sums.signal == Approx(r.signal).epsilon(1e-12));
  CHECK(sums.noise == Approx(r.noise).epsilon(1e-6));  // differences may be taken in float32
  CHECK(sums.dot == Approx(r.dot).epsilon(1e-12));
  CHECK(sums.recon == Approx(r.recon).epsilon(1e-12));
  CHECK(sums.max_abs_error == Approx(r.worst).epsilon(1e-6));
}

}  // namespace

TEST_CASE("a checkpoint equals itself", "[compare]") {
  FakeCheckpoint a;
  a.set_config("{}", kFakeQuantization);
  a.add("norm.weight", {3}, {1, kNan, kInf});
  add_linear(a, "up", 5, 6, make_linear(5, 6, 1));
  a.add_bytes("mask", DType::BOOL, {4}, std::vector<std::byte>(4));
  const Comparison comparison = compare_checkpoints(a, a, fake_registry());
  CHECK(comparison.equal());
  CHECK(comparison.total.noise == 0.0);
  CHECK(comparison.changed.count == 0);
  CHECK(find(comparison, "norm.weight").nonfinite_a == 2);
  CHECK(find(comparison, "norm.weight").nonfinite_b == 2);
  CHECK(comparison.total.count == 31);  // what is not finite is left out
}

TEST_CASE("a quantized and a plain checkpoint are compared by value", "[compare]") {
  const FakeLinear linear = make_linear(9, 10, 2);
  std::vector<float> plain = linear.values;
  Numbers noise(9);
  for (float& value : plain) value += 0.01F * noise.next();
  FakeCheckpoint a;
  a.add("up.weight", {9, 10}, plain);
  a.add("norm.weight", {2}, {1, 2});
  FakeCheckpoint b;
  b.set_config("{}", kFakeQuantization);
  b.add("norm.weight", {2}, {1, 2});
  add_linear(b, "up", 9, 10, linear);
  const Comparison comparison = compare_checkpoints(a, b, fake_registry());
  const TensorComparison& up = find(comparison, "up.weight");
  CHECK(up.storage_a == "F32");
  CHECK(up.storage_b == describe(fake_args()));
  CHECK_FALSE(up.exact());
  check_sums(up.sums, reference_sums(plain, linear.values));
  check_sums(comparison.changed, reference_sums(plain, linear.values));
  CHECK(comparison.total.signal == Approx(up.sums.signal + 5.0));
  CHECK(find(comparison, "norm.weight").exact());
  CHECK_FALSE(comparison.equal());
  // The same values, stored differently, are equal.
  FakeCheckpoint c;
  c.add("up.weight", {9, 10}, linear.values);
  c.add("norm.weight", {2}, {1, 2});
  CHECK(compare_checkpoints(b, c, fake_registry()).equal());
}

TEST_CASE("missing tensors and different shapes are listed", "[compare]") {
  FakeCheckpoint a;
  a.add("both", {2}, {1, 2});
  a.add("shape", {2, 3}, Numbers(1).many(6));
  a.add("gone", {1}, {1});
  FakeCheckpoint b;
  b.add("new", {1}, {1});
  b.add("shape", {3, 2}, Numbers(1).many(6));
  b.add("both", {2}, {1, 2});
  const Comparison comparison = compare_checkpoints(a, b, fake_registry());
  CHECK(comparison.only_a == std::vector<std::string>{"gone"});
  CHECK(comparison.only_b == std::vector<std::string>{"new"});
  REQUIRE(comparison.mismatches.size() == 1);
  CHECK(comparison.mismatches[0].shape_a == Shape{2, 3});
  CHECK(comparison.mismatches[0].shape_b == Shape{3, 2});
  CHECK(comparison.tensors.size() == 1);
  CHECK_FALSE(comparison.equal());
}

TEST_CASE("values that are not finite leave the sums alone but count as different", "[compare]") {
  FakeCheckpoint a;
  a.add("w", {5}, {1, kNan, 3, kInf, 2});
  FakeCheckpoint b;
  b.add("w", {5}, {1, kNan, kNan, -kInf, 2.5F});
  const Comparison comparison = compare_checkpoints(a, b, fake_registry());
  const TensorComparison& w = find(comparison, "w");
  CHECK(w.differing == 3);
  CHECK(w.nonfinite_a == 2);
  CHECK(w.nonfinite_b == 3);
  CHECK(w.sums.count == 2);
  CHECK(w.sums.zeros == 0);
  check_sums(w.sums, reference_sums({1, 2}, {1, 2.5F}));
}

TEST_CASE("differences that float32 cannot show are found", "[compare]") {
  FakeCheckpoint a;
  a.add_bytes("f64", DType::F64, {2}, bytes_of<double>({1.0, 2.0}));
  a.add_bytes("i64", DType::I64, {1}, bytes_of<std::int64_t>({(std::int64_t{1} << 53) + 1}));
  FakeCheckpoint b;
  b.add_bytes("f64", DType::F64, {2}, bytes_of<double>({1.0, 2.0 + 1e-12}));
  b.add_bytes("i64", DType::I64, {1}, bytes_of<std::int64_t>({std::int64_t{1} << 53}));
  const Comparison comparison = compare_checkpoints(a, b, fake_registry());
  CHECK(find(comparison, "f64").differing == 1);
  CHECK(find(comparison, "i64").differing == 1);
  CHECK_FALSE(find(comparison, "i64").floating);
  CHECK(comparison.total.count == 2);  // integers are no weights
}

TEST_CASE("tensors without a float view are compared by bytes", "[compare]") {
  FakeCheckpoint a;
  a.add_bytes("mask", DType::BOOL, {3}, {std::byte{1}, std::byte{0}, std::byte{1}});
  FakeCheckpoint b;
  b.add_bytes("mask", DType::BOOL, {3}, {std::byte{1}, std::byte{1}, std::byte{1}});
  const Comparison comparison = compare_checkpoints(a, b, fake_registry());
  CHECK(find(comparison, "mask").differing == 1);
  CHECK_FALSE(find(comparison, "mask").numeric);
  FakeCheckpoint c;
  c.add_bytes("mask", DType::U8, {3}, {std::byte{1}, std::byte{0}, std::byte{1}});
  CHECK_FALSE(compare_checkpoints(a, c, fake_registry()).equal());
}

TEST_CASE("many blocks give the same sums for any number of threads", "[compare]") {
  const std::uint64_t rows = 3001, cols = 800;  // more than two blocks, the last one short
  const std::vector<float> values = Numbers(1).many(rows * cols);
  std::vector<float> other = values;
  for (std::size_t i = 0; i < other.size(); i += 7) other[i] += 0.001F;
  FakeCheckpoint a;
  a.add("w", {rows, cols}, values);
  FakeCheckpoint b;
  b.add("w", {rows, cols}, other);
  ScanOptions one;
  one.threads = 1;
  ScanOptions four;
  four.threads = 4;
  std::uint64_t last = 0, total = 0;
  four.progress = [&](std::uint64_t done, std::uint64_t all) { last = done, total = all; };
  const Comparison x = compare_checkpoints(a, b, fake_registry(), one);
  const Comparison y = compare_checkpoints(a, b, fake_registry(), four);
  check_sums(x.total, reference_sums(values, other));
  CHECK(x.total.noise == y.total.noise);
  CHECK(x.total.signal == y.total.signal);
  CHECK(x.tensors[0].differing == (rows * cols + 6) / 7);
  CHECK(last == rows * cols);
  CHECK(total == rows * cols);
}

TEST_CASE("a comparison can be stopped", "[compare]") {
  FakeCheckpoint a;
  a.add("w", {2}, {1, 2});
  const std::atomic<bool> stop = true;
  ScanOptions options;
  options.stop = &stop;
  try {
    compare_checkpoints(a, a, fake_registry(), options);
    FAIL("ran to the end");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::interrupted);
  }
}
