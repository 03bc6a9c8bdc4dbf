// Quantization of activations, and of keys and values.
#include <cmath>
#include <cstring>
#include <filesystem>

#include "quant/error.h"
#include "quant/open.h"
#include "random_program.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

class Golden {
 public:
  Golden()
      : checkpoint_(open_checkpoint(std::filesystem::path(QUANT_SOURCE_DIR) /
                                    "tests/forward/golden/fake_quantize.safetensors")) {}
  std::vector<float> read(const std::string& name) const {
    const TensorInfo* info = checkpoint_->find(name);
    if (info == nullptr) throw std::runtime_error("no golden tensor " + name);
    std::vector<float> out(element_count(info->shape));
    read_f32(checkpoint_->view(*info), 0, out);
    return out;
  }

 private:
  std::unique_ptr<Checkpoint> checkpoint_;
};

QuantArgs args_of(int bits, NumberType type, bool symmetric, Strategy strategy, std::int64_t group = 0) {
  QuantArgs args;
  args.num_bits = bits;
  args.type = type;
  args.symmetric = symmetric;
  args.strategy = strategy;
  args.dynamic = Dynamic::yes;
  if (group > 0) args.group_size = group;
  return args;
}

QuantArgs nvfp4() {
  QuantArgs args = args_of(4, NumberType::floating, true, Strategy::tensor_group, 16);
  args.scale_dtype = DType::F8_E4M3;
  return args;
}

QuantArgs mxfp4() {
  QuantArgs args = args_of(4, NumberType::floating, true, Strategy::group, 32);
  args.scale_dtype = DType::U8;
  return args;
}

}  // namespace

TEST_CASE("Activations are quantized to the values of compressed-tensors") {
  constexpr auto kInt = NumberType::integer, kFloat = NumberType::floating;
  struct Case {
    const char* name;
    InputQuantizer quantizer;
  };
  const std::vector<Case> cases{
      {"int8_token", {args_of(8, kInt, true, Strategy::token)}},
      {"int8_token_asymmetric", {args_of(8, kInt, false, Strategy::token)}},
      {"int4_token", {args_of(4, kInt, true, Strategy::token)}},
      {"int4_token_asymmetric", {args_of(4, kInt, false, Strategy::token)}},
      {"int8_group", {args_of(8, kInt, true, Strategy::group, 16)}},
      {"int4_group_asymmetric", {args_of(4, kInt, false, Strategy::group, 16)}},
      {"int8_tensor", {args_of(8, kInt, true, Strategy::tensor)}},
      {"int8_tensor_asymmetric", {args_of(8, kInt, false, Strategy::tensor)}},
      {"int8_static", {args_of(8, kInt, true, Strategy::tensor), 0.0625F}},
      {"int8_static_asymmetric", {args_of(8, kInt, false, Strategy::tensor), 0.03F, -17.0F}},
      {"fp8_token", {args_of(8, kFloat, true, Strategy::token)}},
      {"fp8_group", {args_of(8, kFloat, true, Strategy::group, 32)}},
      {"fp8_static", {args_of(8, kFloat, true, Strategy::tensor), 0.01F}},
      {"mxfp4", {mxfp4()}},
      {"nvfp4", {nvfp4()}},
  };
  const Golden golden;
  for (const Case& one : cases) {
    const std::vector<float> expected = golden.read(one.name);
    for (const int threads : {1, 3}) {
      std::vector<float> x = golden.read("x");
      fake_quantize_rows(x, 6, one.quantizer, threads);
      CAPTURE(one.name);
      CHECK(x == expected);
    }
  }
}

TEST_CASE("Wrong settings of activation quantization are named") {
  std::vector<float> x(12, 1.0F);
  const auto fails = [&](const QuantArgs& args) { CHECK_THROWS_AS(fake_quantize_rows(x, 3, {args}, 1), Error); };
  fails(args_of(8, NumberType::integer, true, Strategy::channel));
  fails(args_of(8, NumberType::integer, true, Strategy::group));
  CHECK_THROWS_AS(fake_quantize_rows(x, 5, {args_of(8, NumberType::integer, true, Strategy::token)}, 1), Error);
  fake_quantize_rows({}, 0, {args_of(8, NumberType::integer, true, Strategy::token)}, 1);
}

TEST_CASE("What is not finite stays visible in quantized activations") {
  std::vector<float> x(32, 1.0F);
  x[3] = INFINITY;
  x[20] = NAN;
  fake_quantize_rows(x, 2, {args_of(8, NumberType::integer, true, Strategy::token)}, 1);
  CHECK_FALSE(std::isfinite(x[3]));
  CHECK(std::isnan(x[20]));
}

TEST_CASE("A linear's input is quantized where its module says so") {
  for (const Strategy strategy : {Strategy::token, Strategy::tensor}) {
    ProgramMaker make(3);
    const ValueId in = make.value(32);
    const ValueId a = make.linear(in, 8, false), b = make.linear(in, 8, false), c = make.linear(in, 8, false);
    const ValueId ab = make.push(AddOp{a, b, make.value(8)});
    make.program().output = make.push(AddOp{ab, c, make.value(8)});
    const Runnable model(make.checkpoint());
    const InputQuantizer quantizer{args_of(4, NumberType::integer, true, strategy)};
    const std::vector<float> x = make.normal(7 * 32, 1.0F);
    std::vector<float> rounded = x;
    fake_quantize_rows(std::span(rounded).first(4 * 32), 4, quantizer, 1);  // sequence by sequence
    fake_quantize_rows(std::span(rounded).subspan(4 * 32), 3, quantizer, 1);

    const Batch batch{{4, 3}, {}, {}};
    const auto run = [&](const std::vector<float>& input, std::vector<int> quantized, std::vector<ValueId> keep) {
      ProgramRunner runner(make.program(), model.weights, {ProductType::f32, 2, false});
      for (const int op : quantized) {
        runner.set_input_quantizer(
            std::get<LinearOp>(make.program().ops[static_cast<std::size_t>(op)]).weights[0].module, quantizer);
      }
      Values values(make.program());
      values.at(in) = input;
      runner.run(0, make.program().ops.size(), batch, values, keep);
      return std::vector{values.at(a), values.at(b), values.at(c), values.at(in)};
    };
    const std::vector<ValueId> keep{a, b, c, in};
    const auto plain = run(x, {}, keep), all = run(rounded, {}, keep), two = run(x, {0, 2}, keep);
    CHECK(two == std::vector{all[0], plain[1], all[2], x});
    CHECK(run(x, {0, 1, 2}, keep) == std::vector{all[0], all[1], all[2], x});
    CHECK(plain[0] != all[0]);
  }
}

TEST_CASE("Quantized inputs of experts do not depend on the batch") {
  for (unsigned seed = 0; seed < 12; ++seed) {
    ProgramMaker make(seed);
    const ValueId in = make.value(16);
    const ValueId logits = make.linear(in, 4, false);
    const ValueId routing = make.push(RouteOp{logits, make.value(4), 4, 2, true, true, 1.0F});
    const ValueId rows = make.push(GatherOp{in, routing, make.value(16, 2)});
    const ValueId out = make.experts(rows, routing, 4, 16, true, false, true);
    make.program().output = make.push(CombineOp{out, routing, make.value(16)});
    const Runnable model(make.checkpoint());
    const auto run = [&](std::span<const float> x, std::vector<std::uint64_t> lengths) {
      ProgramRunner runner(make.program(), model.weights, {ProductType::f32, 2, false});
      const auto& weights = std::get<LinearOp>(make.program().ops[3]).weights;
      for (std::size_t e = 0; e < 3; ++e) {  // the last expert's stay as they are
        const Strategy strategy = e == 0 ? Strategy::token : Strategy::tensor;
        runner.set_input_quantizer(weights[e].module, {args_of(4, NumberType::integer, e == 1, strategy)});
      }
      Values values(make.program());
      values.at(in).assign(x.begin(), x.end());
      runner.run(0, make.program().ops.size(), {std::move(lengths), {}, {}}, values);
      return values.at(make.program().output);
    };
    const std::vector<float> x = make.normal(15 * 16, 1.0F);
    const auto together = run(x, {6, 9});
    auto apart = run(std::span(x).first(6 * 16), {6});
    const auto second = run(std::span(x).subspan(6 * 16), {9});
    apart.insert(apart.end(), second.begin(), second.end());
    CHECK(apart == together);
  }
}

namespace {

// Keys or values of one head as a query at position t reads them, by the definition in words: the newest `residual`
// tokens are float, older ones quantized, channels only in whole groups.
Doubles read_cache(const KvQuantizer& q, KvQuantizer::Scale scale, float fixed, const std::vector<float>& rows,
                   std::uint64_t heads, std::uint64_t head_dim, std::uint64_t t) {
  const std::uint64_t width = heads * head_dim;
  const std::uint64_t older = t + 1 > q.residual ? t + 1 - q.residual : 0;
  QuantArgs args = args_of(q.bits, q.type, q.symmetric || q.type == NumberType::floating, Strategy::token);
  std::vector<float> seen(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>((t + 1) * width));
  const auto quantize = [&](std::vector<std::uint64_t> places) {
    std::vector<float> group;
    for (const std::uint64_t at : places) group.push_back(rows[at]);
    InputQuantizer input{args};
    if (fixed != 0) input.args.strategy = Strategy::tensor;
    input.scale = fixed;
    fake_quantize_rows(group, 1, input, 1);
    for (std::size_t i = 0; i < places.size(); ++i) seen[places[i]] = group[i];
  };
  if (scale == KvQuantizer::Scale::channel) {
    for (std::uint64_t first = 0; first + q.group <= older; first += q.group) {
      for (std::uint64_t c = 0; c < width; ++c) {
        std::vector<std::uint64_t> places;
        for (std::uint64_t i = first; i < first + q.group; ++i) places.push_back(i * width + c);
        quantize(places);
      }
    }
  } else {
    const std::uint64_t piece = scale == KvQuantizer::Scale::tensor ? width : head_dim;
    const std::uint64_t group = scale == KvQuantizer::Scale::tensor || q.group == 0 ? piece : q.group;
    for (std::uint64_t at = 0; at < older * width; at += piece) {
      for (std::uint64_t c = 0; c < piece; c += group) {
        std::vector<std::uint64_t> places;
        for (std::uint64_t i = c; i < std::min(piece, c + group); ++i) places.push_back(at + i);
        quantize(places);
      }
    }
  }
  return {seen.begin(), seen.end()};
}

KvQuantizer random_kv_quantizer(ProgramMaker& make) {
  using Scale = KvQuantizer::Scale;
  const auto scale = [&] { return static_cast<Scale>(make.pick(3)); };
  KvQuantizer q;
  q.type = make.pick(3) == 0 ? NumberType::floating : NumberType::integer;
  q.bits = q.type == NumberType::floating ? 8 : std::vector{2, 4, 8}[make.pick(3)];
  q.symmetric = make.coin();
  q.keys = scale();
  q.values = scale();
  q.group = q.keys == Scale::channel || q.values == Scale::channel || make.coin() ? 4 + make.pick(8) : 0;
  q.residual = make.coin() ? 0 : make.pick(20);
  if (make.coin()) q.key_scale = q.keys == Scale::tensor ? 0.03F : 0.0F;
  if (make.coin()) q.value_scale = q.values == Scale::tensor ? 0.02F : 0.0F;
  return q;
}

}  // namespace

TEST_CASE("Each query sees older keys and values quantized and the newest as they are") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    ProgramMaker make(seed + 1000);
    AttentionOp op = make.attention_settings();
    op.causal = true;
    op.q = make.value(op.heads * op.head_dim);
    op.k = make.value(op.kv_heads * op.head_dim);
    op.v = make.value(op.kv_heads * op.value_dim);
    op.out = make.value(op.heads * op.value_dim);
    make.program().output = make.push(op);
    const KvQuantizer quantizer = random_kv_quantizer(make);
    const std::uint64_t tokens = 90;
    const auto q = make.normal(tokens * op.heads * op.head_dim, 1.0F);
    const auto k = make.normal(tokens * op.kv_heads * op.head_dim, 1.0F);
    const auto v = make.normal(tokens * op.kv_heads * op.value_dim, 1.0F);

    Doubles expected;
    for (std::uint64_t t = 0; t < tokens; ++t) {  // each query alone, with what it sees
      const Batch batch{{t + 1}, {}, {}};
      Oracle oracle(make.program(), make.tensors(), batch);
      oracle.at(op.q).assign(q.begin(), q.begin() + static_cast<std::ptrdiff_t>((t + 1) * op.heads * op.head_dim));
      oracle.at(op.k) = read_cache(quantizer, quantizer.keys, quantizer.key_scale, k, op.kv_heads, op.head_dim, t);
      oracle.at(op.v) = read_cache(quantizer, quantizer.values, quantizer.value_scale, v, op.kv_heads, op.value_dim, t);
      oracle.run();
      const Doubles& out = oracle.at(op.out);
      expected.insert(expected.end(), out.end() - static_cast<std::ptrdiff_t>(op.heads * op.value_dim), out.end());
    }
    const Runnable model(make.checkpoint());
    const auto run = [&](const std::vector<std::uint64_t>& pieces, bool cached) {
      ProgramRunner runner(make.program(), model.weights, {ProductType::f32, 2, false});
      runner.set_kv_quantizer(quantizer);
      KvCache cache;
      std::vector<float> out;
      std::uint64_t at = 0;
      for (const std::uint64_t count : pieces) {
        Values values(make.program());
        const auto put = [&](ValueId id, const std::vector<float>& from) {
          const std::uint64_t w = make.width(id);
          values.at(id).assign(from.begin() + static_cast<std::ptrdiff_t>(at * w),
                               from.begin() + static_cast<std::ptrdiff_t>((at + count) * w));
        };
        put(op.q, q);
        put(op.k, k);
        put(op.v, v);
        runner.run(0, 1, {{count}, {}, {}}, values, {}, cached ? &cache : nullptr);
        out.insert(out.end(), values.at(op.out).begin(), values.at(op.out).end());
        at += count;
      }
      return out;
    };
    CAPTURE(seed);
    CHECK(worst_error(run({tokens}, false), expected) < 5e-6);
    CHECK(worst_error(run({tokens}, true), expected) < 5e-6);
    CHECK(worst_error(run({30, 1, 1, 40, 1, 17}, true), expected) < 5e-6);
  }
}

TEST_CASE("Settings of a quantized cache that mean nothing are refused") {
  ProgramMaker make(1);
  const Runnable model(make.checkpoint());
  ProgramRunner runner(make.program(), model.weights, {});
  KvQuantizer quantizer;
  quantizer.bits = 9;
  CHECK_THROWS_AS(runner.set_kv_quantizer(quantizer), Error);
  quantizer.bits = 2;
  quantizer.keys = KvQuantizer::Scale::channel;
  CHECK_THROWS_AS(runner.set_kv_quantizer(quantizer), Error);
  quantizer.group = 32;
  runner.set_kv_quantizer(quantizer);
  quantizer.type = NumberType::floating;
  CHECK_THROWS_AS(runner.set_kv_quantizer(quantizer), Error);
}
