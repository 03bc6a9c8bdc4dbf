#include <cmath>

#include "evaluate/fake_model.h"
#include "quant/error.h"
#include "support/catch.h"

using namespace quant;
using quant::test::FakeModel;
using quant::test::random_sequences;
using quant::test::reference_softmax;

namespace {

using Sequences = std::vector<std::vector<std::int32_t>>;

/// Mean of -ln p over all predictions, straight from the definition.
double reference_nats(const FakeModel& model, const Sequences& sequences) {
  long double sum = 0;
  std::size_t count = 0;
  for (const auto& sequence : sequences) {
    std::uint32_t state = 17;
    for (std::size_t t = 0; t + 1 < sequence.size(); ++t, ++count) {
      state = state * 31U + static_cast<std::uint32_t>(sequence[t]);
      sum -= std::log(reference_softmax(model.logits_after(state))[static_cast<std::size_t>(sequence[t + 1])]);
    }
  }
  return static_cast<double>(sum / static_cast<long double>(count));
}

template <class Action>
Error error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  FAIL("no error");
  throw;
}

bool has(const Error& error, const std::string& text) {
  return std::string(error.what()).find(text) != std::string::npos;
}

}  // namespace

TEST_CASE("perplexity is exp of the mean loss of every token but each first one") {
  FakeModel model(50, 1);
  const Sequences sequences = random_sequences({20, 20, 20, 20}, 50, 3);
  const EvalResult result = evaluate_perplexity(model, nullptr, sequences, {});
  CHECK(result.windows == 4);
  CHECK(result.tokens == 80);
  CHECK(result.predictions == 76);
  CHECK(result.nats.mean == Approx(reference_nats(model, sequences)).epsilon(1e-13));
  CHECK(result.perplexity.mean == Approx(std::exp(reference_nats(model, sequences))).epsilon(1e-12));
  CHECK(result.perplexity.error == Approx(result.perplexity.mean * result.nats.error).epsilon(1e-14));
  double mean = 0;
  double squares = 0;
  for (const auto& sequence : sequences) mean += reference_nats(model, {sequence}) / 4;
  for (const auto& sequence : sequences) squares += std::pow(reference_nats(model, {sequence}) - mean, 2);
  CHECK(result.nats.error == Approx(std::sqrt(squares / 3 / 4)).epsilon(1e-10));
  REQUIRE(result.window_nats.size() == 4);
  CHECK(result.window_nats[2] == Approx(reference_nats(model, {sequences[2]})).epsilon(1e-13));
  CHECK_FALSE(result.base);
}

TEST_CASE("results are the same for any division into groups and any number of threads") {
  const Sequences sequences = random_sequences({20, 3, 700, 2, 90, 1300}, 64, 4);
  FakeModel model(64, 1, 0.2, 100000);
  FakeModel base(64, 1, 0, 100000);
  const EvalResult expected = evaluate_perplexity(model, &base, sequences, {.threads = 1});
  CHECK(model.largest_chunk() <= 256);
  for (const std::uint64_t group : {1U, 25U, 800U}) {
    FakeModel small_model(64, 1, 0.2, group);
    FakeModel small_base(64, 1, 0, 2 * group);
    const EvalResult result = evaluate_perplexity(small_model, &small_base, sequences, {.threads = 3});
    CHECK(small_model.largest_group() <= std::max<std::uint64_t>(1300, group));
    CHECK(result.nats.mean == expected.nats.mean);
    CHECK(result.perplexity.error == expected.perplexity.error);
    CHECK(result.window_nats == expected.window_nats);
    CHECK(result.base->divergence.mean.mean == expected.base->divergence.mean.mean);
    CHECK(result.base->divergence.percent999 == expected.base->divergence.percent999);
    CHECK(result.base->top5.mean == expected.base->top5.mean);
    CHECK(result.base->increase.error == expected.base->increase.error);
  }
}

TEST_CASE("a model compared with itself loses nothing") {
  FakeModel model(100, 1);
  FakeModel same(100, 1);
  const EvalResult result = evaluate_perplexity(model, &same, random_sequences({30, 40}, 100, 5), {});
  REQUIRE(result.base);
  const BaseComparison& base = *result.base;
  CHECK(base.divergence.mean.mean == 0.0);
  CHECK(base.divergence.maximum == 0.0);
  CHECK(base.same_top.mean == 1.0);
  CHECK(base.top5.mean == 1.0);
  CHECK(base.increase.mean == 0.0);
  CHECK(base.increase.error == 0.0);
  CHECK(base.nats_increase.mean == 0.0);
  CHECK(base.perplexity.mean == result.perplexity.mean);
}

TEST_CASE("against a base: increase, divergence and agreement from the definitions") {
  FakeModel model(40, 9, 0.3);
  FakeModel base(40, 1);
  const Sequences sequences = random_sequences({60, 60, 60}, 40, 6);
  const EvalResult result = evaluate_perplexity(model, &base, sequences, {});
  REQUIRE(result.base);
  const double nats = reference_nats(model, sequences);
  const double base_nats = reference_nats(base, sequences);
  CHECK(result.base->nats.mean == Approx(base_nats).epsilon(1e-12));
  CHECK(result.base->nats_increase.mean == Approx(nats - base_nats).epsilon(1e-9));
  CHECK(result.base->increase.mean == Approx(std::exp(nats) - std::exp(base_nats)).epsilon(1e-9));

  std::vector<double> divergences;
  double agreed = 0;
  for (const auto& sequence : sequences) {
    std::uint32_t state = 17;
    for (std::size_t t = 0; t + 1 < sequence.size(); ++t) {
      state = state * 31U + static_cast<std::uint32_t>(sequence[t]);
      const auto a = base.logits_after(state);
      const auto b = model.logits_after(state);
      const auto p = reference_softmax(a);
      const auto q = reference_softmax(b);
      long double divergence = 0;
      for (std::size_t i = 0; i < p.size(); ++i) divergence += p[i] * std::log(p[i] / q[i]);
      divergences.push_back(static_cast<double>(divergence));
      agreed += std::max_element(a.begin(), a.end()) - a.begin() == std::max_element(b.begin(), b.end()) - b.begin();
    }
  }
  double mean = 0;
  for (const double d : divergences) mean += d / static_cast<double>(divergences.size());
  std::sort(divergences.begin(), divergences.end());
  CHECK(result.base->divergence.mean.mean == Approx(mean).epsilon(1e-9));
  CHECK(result.base->divergence.median == Approx(divergences[88]).epsilon(1e-9));  // of 177
  CHECK(result.base->divergence.maximum == Approx(divergences.back()).epsilon(1e-9));
  CHECK(result.base->divergence.percent90 ==
        Approx(divergences[158] + 0.4 * (divergences[159] - divergences[158])).epsilon(1e-9));
  CHECK(result.base->same_top.mean == Approx(agreed / 177).epsilon(1e-12));
}

TEST_CASE("the paired error of the increase is far below that of either perplexity") {
  FakeModel model(40, 9, 0.05);
  FakeModel base(40, 1);
  const Sequences sequences = random_sequences(std::vector<std::size_t>(30, 20), 40, 6);
  const EvalResult result = evaluate_perplexity(model, &base, sequences, {});
  CHECK(result.base->increase.error < 0.2 * result.perplexity.error);
  CHECK(result.base->increase.error > 0);
}

TEST_CASE("a single window has no standard error") {
  FakeModel model(40, 1);
  const EvalResult result = evaluate_perplexity(model, nullptr, random_sequences({20}, 40, 1), {});
  CHECK(std::isnan(result.nats.error));
  CHECK(std::isnan(result.perplexity.error));
}

TEST_CASE("what cannot be evaluated is refused with the reason") {
  FakeModel model(40, 1);
  FakeModel other(41, 1);
  const auto evaluate = [&](LogitModel* base, const Sequences& sequences) {
    return error_of([&] { evaluate_perplexity(model, base, sequences, {}); });
  };
  CHECK(has(evaluate(nullptr, {}), "no token sequences"));
  CHECK(has(evaluate(nullptr, {{1, 2}, {3}}), "sequence 2 has 1 token;"));
  const Error mismatch = evaluate(&other, {{1, 2}});
  CHECK(mismatch.kind() == "VocabularyMismatch");
  CHECK(has(mismatch, "40 tokens"));
  CHECK(has(mismatch, "41"));
  for (const std::int32_t id : {40, -1}) {
    const Error range = evaluate(nullptr, {{1, 2}, {1, 2, 3, id}});
    CHECK(range.code() == ErrorCode::usage);
    CHECK(has(range, "token 4 of sequence 2 has the id " + std::to_string(id)));
  }
}

TEST_CASE("logits that are not finite end the evaluation and name the place") {
  const Sequences sequences = random_sequences({5, 5, 5}, 40, 2);
  std::uint32_t state = 17;
  for (std::size_t t = 0; t < 3; ++t) state = state * 31U + static_cast<std::uint32_t>(sequences[1][t]);
  FakeModel broken(40, 1);
  broken.broken_state = state;
  FakeModel sound(40, 1);
  const Error error = error_of([&] { evaluate_perplexity(broken, nullptr, sequences, {}); });
  CHECK(error.code() == ErrorCode::numerical);
  CHECK(has(error, "the model gives logits that are not finite: window 2, token 3"));
  CHECK(has(error_of([&] { evaluate_perplexity(sound, &broken, sequences, {}); }), "the base gives"));
}

TEST_CASE("evaluation stops when asked and tells how far it is") {
  FakeModel model(40, 1, 0, 10);
  const Sequences sequences = random_sequences({10, 10, 10}, 40, 2);
  std::vector<std::uint64_t> seen;
  EvalOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    CHECK(total == 30);
    seen.push_back(done);
  };
  evaluate_perplexity(model, nullptr, sequences, options);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(seen.back() == 30);
  const std::atomic<bool> stop = true;
  options.stop = &stop;
  CHECK(error_of([&] { evaluate_perplexity(model, nullptr, sequences, options); }).code() == ErrorCode::interrupted);
}
