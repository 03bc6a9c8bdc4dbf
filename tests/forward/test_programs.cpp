// Whole programs against float64, and the laws of batches, threads, stages and caches.
#include <functional>
#include <set>

#include "quant/error.h"
#include "random_program.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::test;

namespace {

ForwardOptions plain(int threads = 2) { return {ProductType::f32, threads, false}; }

}  // namespace

TEST_CASE("Random programs give what float64 gives") {
  std::set<std::size_t> seen;
  double worst = 0;
  for (unsigned seed = 0; seed < 80; ++seed) {
    ProgramMaker make(seed);
    make_random_program(make);
    for (const Op& op : make.program().ops) seen.insert(op.index());
    const RandomBatch tokens(make, {37, 1, 70, 5});
    const Runnable model(make.checkpoint());
    Oracle oracle(make.program(), make.tensors(), tokens.batch);
    oracle.run();
    const auto out = run_program(make.program(), model.weights, plain(), tokens.batch);
    const double error = worst_error(out, oracle.at(make.program().output));
    CAPTURE(seed);
    CHECK(error < 2e-5);
    worst = std::max(worst, error);
  }
  CHECK(seen.size() == std::variant_size_v<Op>);
  INFO(worst);
  CHECK(worst > 0);
}

TEST_CASE("Threads and the division into batches do not change a bit") {
  for (unsigned seed = 100; seed < 140; ++seed) {
    ProgramMaker make(seed);
    make_random_program(make);
    const RandomBatch tokens(make, {37, 4, 70, 5});
    const Runnable model(make.checkpoint());
    CAPTURE(seed);
    const auto together = run_program(make.program(), model.weights, plain(1), tokens.batch);
    CHECK(run_program(make.program(), model.weights, plain(3), tokens.batch) == together);
    std::vector<float> apart;
    std::size_t at = 0;
    for (const std::vector<std::uint64_t>& lengths : {std::vector<std::uint64_t>{37}, {4, 70}, {5}}) {
      Batch batch{lengths, {}, {}};
      batch.ids = std::span(tokens.ids).subspan(at, batch.tokens());
      at += batch.tokens();
      const auto part = run_program(make.program(), model.weights, plain(2), batch);
      apart.insert(apart.end(), part.begin(), part.end());
    }
    CHECK(apart == together);
  }
}

TEST_CASE("All experts for all tokens give the same as the chosen ones") {
  int mixtures = 0;
  for (unsigned seed = 200; seed < 230; ++seed) {
    ProgramMaker make(seed);
    make_random_program(make);
    const RandomBatch tokens(make, {9, 12});
    const Runnable model(make.checkpoint());
    ForwardOptions options = plain();
    const auto chosen = run_program(make.program(), model.weights, options, tokens.batch);
    options.all_experts = true;
    CHECK(run_program(make.program(), model.weights, options, tokens.batch) == chosen);
    for (const Op& op : make.program().ops) mixtures += std::holds_alternative<RouteOp>(op) ? 1 : 0;
  }
  CHECK(mixtures > 5);
}

TEST_CASE("A program can be run in pieces, and keeps what is asked for") {
  for (unsigned seed = 300; seed < 315; ++seed) {
    ProgramMaker make(seed);
    make_random_program(make);
    const Program& program = make.program();
    const RandomBatch tokens(make, {9, 12});
    const Runnable model(make.checkpoint());
    const auto whole = run_program(program, model.weights, plain(), tokens.batch);

    ProgramRunner runner(program, model.weights, plain());
    Values values(program);
    const ValueId first_value = output_of(program.ops[0]);
    const std::vector<ValueId> keep{first_value};
    std::vector<float> first;
    for (std::size_t op = 0; op < program.ops.size(); ++op) {
      runner.run(op, op + 1, tokens.batch, values, keep);
      if (op == 0) first = values.at(first_value);
    }
    CHECK(values.at(program.output) == whole);
    CHECK(values.at(first_value) == first);
    for (std::size_t id = 0; id < program.values.size(); ++id) {
      const auto value = static_cast<ValueId>(id);
      CHECK(values.at(value).empty() == (value != program.output && value != first_value));
    }
  }
}

TEST_CASE("Decoding with a cache gives what the whole sequence gives") {
  int compared = 0;
  for (unsigned seed = 400; seed < 430; ++seed) {
    ProgramMaker make(seed);
    make_random_program(make);
    const Program& program = make.program();
    bool comparable = true;  // dynamic frequencies depend on the length, and an encoder looks ahead
    for (const Op& op : program.ops) {
      if (const auto* rotary = std::get_if<RotaryOp>(&op)) comparable = comparable && rotary->dynamic_base == 0;
      if (const auto* attention = std::get_if<AttentionOp>(&op)) comparable = comparable && attention->causal;
    }
    if (!comparable) continue;
    ++compared;
    const RandomBatch tokens(make, {40});
    const Runnable model(make.checkpoint());
    const auto whole = run_program(program, model.weights, plain(), tokens.batch);

    ProgramRunner runner(program, model.weights, plain());
    KvCache cache;
    std::vector<float> pieces;
    std::uint64_t at = 0;
    for (const std::uint64_t count : {25, 1, 1, 10, 1, 2}) {
      Batch batch{{count}, {}, std::span(tokens.ids).subspan(at, count)};
      Values values(program);
      runner.run(0, program.ops.size(), batch, values, {}, &cache);
      pieces.insert(pieces.end(), values.at(program.output).begin(), values.at(program.output).end());
      at += count;
      CHECK(cache.length() == at);
    }
    CAPTURE(seed);
    CHECK(worst_error(pieces, {whole.begin(), whole.end()}) < 2e-5);
  }
  CHECK(compared > 8);
}

TEST_CASE("BF16 products differ by their rounding only") {
  ProgramMaker make(7);
  make_random_program(make);
  const RandomBatch tokens(make, {20});
  const Runnable model(make.checkpoint());
  const auto exact = run_program(make.program(), model.weights, plain(), tokens.batch);
  const auto rounded = run_program(make.program(), model.weights, {ProductType::bf16, 2, false}, tokens.batch);
  const double error = worst_error(rounded, {exact.begin(), exact.end()});
  CHECK(error > 1e-4);
  CHECK(error < 0.2);
}

TEST_CASE("Weights that are released are read again, with replacements") {
  ProgramMaker make(1);
  const ValueId in = make.value(16);
  make.program().output = make.linear(in, 8, true, true);
  const auto& weight = std::get<LinearOp>(make.program().ops[0]).weights[0];
  Runnable model(make.checkpoint());
  ProgramRunner runner(make.program(), model.weights, plain());
  const Batch batch{{3}, {}, {}};
  const auto run = [&] {
    Values values(make.program());
    values.at(in) = std::vector<float>(48, 1.0F);
    runner.run(0, 1, batch, values);
    return values.at(make.program().output);
  };
  const auto before = run();
  CHECK(runner.prepared_bytes() >= (8 * 16 + 8) * sizeof(float));
  model.weights.set(weight, std::vector<float>(8 * 16, 0.0F));
  CHECK(run() == before);
  runner.release(0, 1);
  CHECK(runner.prepared_bytes() == 0);
  const std::vector<float>& bias = make.tensors().at(weight.bias);
  CHECK(std::equal(bias.begin(), bias.end(), run().begin()));
  model.weights.drop(weight.tensor);
  runner.release(0, 1);
  runner.prepare(0, 1);
  CHECK(run() == before);
}

TEST_CASE("Experts with equal logits are chosen in their order") {
  ProgramMaker make(1);
  const ValueId logits = make.value(5);
  make.program().output = make.push(RouteOp{logits, make.value(6), 5, 3, true, false, 1.0F});
  const Runnable model(make.checkpoint());
  ProgramRunner runner(make.program(), model.weights, plain());
  Values values(make.program());
  values.at(logits) = {1, 2, 2, 1, 1, 0, 0, 0, 0, 0, NAN, 3, NAN, 3, 4};
  runner.run(0, 1, {{3}, {}, {}}, values);
  const std::vector<float>& out = values.at(make.program().output);
  const auto chosen = [&](std::size_t token) {
    const auto row = out.begin() + static_cast<std::ptrdiff_t>(token * 6);
    return std::vector<float>(row, row + 3);
  };
  CHECK(chosen(0) == std::vector<float>{1, 2, 0});
  CHECK(chosen(1) == std::vector<float>{0, 1, 2});
  CHECK(chosen(2) == std::vector<float>{4, 1, 3});
  CHECK(out[3] == Approx(std::exp(2.0) / (2 * std::exp(2.0) + 3 * std::exp(1.0))).epsilon(1e-6));
  CHECK(out[9] == Approx(0.2).epsilon(1e-6));
}

TEST_CASE("Rows per expert follow from the routing value") {
  ProgramMaker make(1);
  const ValueId in = make.value(4), routing = make.value(4);
  const ValueId out = make.experts(in, routing, 3, 4, true, false, false);
  Values values(make.program());
  values.at(routing) = {2, 0, 0.5F, 0.5F, 2, 1, 0.5F, 0.5F, 0, 2, 0.5F, 0.5F};
  const auto& op = std::get<LinearOp>(make.program().ops[0]);
  CHECK(op.out == out);
  using Offsets = std::vector<std::uint64_t>;
  CHECK(ProgramRunner::expert_rows(make.program(), op, values, 3, false) == Offsets{0, 2, 3, 6});
  CHECK(ProgramRunner::expert_rows(make.program(), op, values, 3, true) == Offsets{0, 3, 6, 9});
  values.at(routing)[0] = 3;
  CHECK_THROWS_AS(ProgramRunner::expert_rows(make.program(), op, values, 3, false), Error);
}

TEST_CASE("Replaced slices of a fused tensor are seen in the whole") {
  ProgramMaker make(1);
  const ValueId in = make.value(3), routing = make.value(2);
  make.experts(in, routing, 4, 2, true, true, false);
  Runnable model(make.checkpoint());
  const auto& weights = std::get<LinearOp>(make.program().ops[0]).weights;
  const std::vector<float> original = make.tensors().at(weights[0].tensor);
  model.weights.set(weights[2], {1, 2, 3, 4, 5, 6});
  CHECK(model.weights.read(weights[2], 1) == std::vector<float>{1, 2, 3, 4, 5, 6});
  std::vector<float> expected = original;
  const std::vector<float> stored{1, 4, 2, 5, 3, 6};
  std::copy(stored.begin(), stored.end(), expected.begin() + 12);
  CHECK(model.weights.read(weights[0].tensor, 2) == expected);
  model.weights.set(weights[0].tensor, original);
  CHECK(model.weights.read(weights[2], 1) != std::vector<float>{1, 2, 3, 4, 5, 6});
  model.weights.set(weights[2], {1, 2, 3, 4, 5, 6});
  CHECK(model.weights.read(weights[0].tensor, 1) == expected);
  std::vector<float> row(2);
  model.weights.read_rows(weights[0].tensor, 6, 1, row);
  CHECK(row == std::vector<float>{1, 4});
  model.weights.drop(weights[0].tensor);
  CHECK(model.weights.read(weights[0].tensor, 1) == original);
}

namespace {

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

bool names(const std::string& message, const std::vector<std::string>& parts) {
  return std::all_of(parts.begin(), parts.end(),
                     [&](const auto& part) { return message.find(part) != std::string::npos; });
}

}  // namespace

TEST_CASE("Errors of the forward pass name what is wrong") {
  ProgramMaker make(1);
  const ValueId x = make.push(EmbeddingOp{make.value(8), "tokens", make.tensor({50, 8}, 1.0F)});
  EmbeddingOp positions{make.value(8), "positions", make.tensor({20, 8}, 1.0F), EmbeddingOp::Index::position, 2};
  const ValueId p = make.push(positions);
  const ValueId sum = make.push(AddOp{x, p, make.value(8)});
  AttentionOp attention;
  attention.module = "layers.0.attn";
  attention.q = attention.k = attention.v = sum;
  attention.out = make.value(8);
  attention.heads = attention.kv_heads = 2;
  attention.head_dim = attention.value_dim = 4;
  make.program().output = make.linear(make.push(attention), 8, false);
  const Runnable model(make.checkpoint());
  ProgramRunner runner(make.program(), model.weights, plain());
  const auto run = [&](const Batch& batch, KvCache* cache = nullptr, std::size_t first = 0) {
    return message_of([&] {
      Values values(make.program());
      runner.run(first, make.program().ops.size(), batch, values, {}, cache);
    });
  };
  const std::vector<std::int32_t> good(30, 3), bad{1, 50, 2}, negative{-1};
  CHECK(run({{3}, {}, std::span(good).first(3)}).empty());
  CHECK(names(run({{3}, {}, bad}), {"token id 50", "50 rows"}));
  CHECK(names(run({{1}, {}, negative}), {"token id -1"}));
  CHECK(names(run({{4}, {}, bad}), {"3 token ids for 4 tokens"}));
  CHECK(names(run({{19}, {}, std::span(good).first(19)}), {"position 20"}));
  CHECK(names(run({{1}, {18}, std::span(good).first(1)}), {"position 20"}));
  CHECK(names(run({{}, {}, {}}), {"without tokens"}));
  CHECK(names(run({{1, 2}, {0}, std::span(good).first(3)}), {"2 sequences has 1 first positions"}));
  CHECK(names(run({{3}, {}, {}}, nullptr, 2), {"reads 'v0'"}));
  KvCache cache;
  CHECK(run({{3}, {}, std::span(good).first(3)}, &cache).empty());
  CHECK(names(run({{1}, {5}, std::span(good).first(1)}, &cache), {"position 5", "layers.0.attn"}));
  CHECK(names(run({{1, 1}, {}, std::span(good).first(2)}, &cache), {"cannot share a cache"}));
  make.checkpoint().remove(std::get<LinearOp>(make.program().ops[4]).weights[0].tensor);
  const Runnable broken(make.checkpoint());
  const auto prepare = [&] { ProgramRunner(make.program(), broken.weights, plain()).prepare(0, 5); };
  CHECK(names(message_of(prepare), {"no tensor 't2'"}));
}
