// The knapsack against trying everything, and laws of budgets.
#include <limits>
#include <random>

#include "quant/error.h"
#include "quant/sensitivity.h"
#include "support/catch.h"

using namespace quant;

namespace {

using Sets = std::vector<std::vector<AllocationOption>>;

struct Total {
  std::uint64_t bytes = 0;
  double loss = 0;
};

Total total_of(const Sets& sets, const std::vector<std::size_t>& choice) {
  Total total;
  for (std::size_t s = 0; s < sets.size(); ++s) {
    total.bytes += sets[s][choice[s]].bytes;
    total.loss += sets[s][choice[s]].loss;
  }
  return total;
}

/// Every combination; the least loss within the budget, infinite if none fits.
double best_by_trying(const Sets& sets, std::uint64_t budget) {
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::size_t> choice(sets.size(), 0);
  while (true) {
    const Total total = total_of(sets, choice);
    if (total.bytes <= budget) best = std::min(best, total.loss);
    std::size_t s = 0;
    while (s < sets.size() && ++choice[s] == sets[s].size()) choice[s++] = 0;
    if (s == sets.size()) return best;
  }
}

/// Losses of eighths, so that sums are exact in any order.
Sets random_sets(std::mt19937& random, std::uint64_t unit) {
  Sets sets(1 + random() % 5);
  for (auto& set : sets) {
    set.resize(1 + random() % 4);
    for (auto& option : set) option = {unit * (1 + random() % 40) + 3, static_cast<double>(random() % 200) / 8};
  }
  return sets;
}

std::uint64_t smallest(const Sets& sets) {
  std::uint64_t bytes = 0;
  for (const auto& set : sets) {
    std::uint64_t least = ~std::uint64_t{0};
    for (const auto& option : set) least = std::min(least, option.bytes);
    bytes += least;
  }
  return bytes;
}

}  // namespace

TEST_CASE("the allocation is as good as the best of all combinations") {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    const Sets sets = random_sets(random, 1 + random() % 64);
    const std::uint64_t least = smallest(sets);
    for (int i = 0; i < 6; ++i) {
      const std::uint64_t budget = least + random() % (least + 1);
      const Total total = total_of(sets, allocate(sets, budget));
      INFO("round " << round << ", budget " << budget);
      REQUIRE(total.bytes <= budget);
      REQUIRE(total.loss == best_by_trying(sets, budget));
    }
  }
}

TEST_CASE("a larger budget never loses more, rounded steps or not, and none is exceeded") {
  std::mt19937 random(11);
  for (const std::uint64_t steps : {5U, 17U, 1000U, 131072U}) {
    Sets sets(30);
    for (auto& set : sets) {
      set.resize(5);
      for (auto& option : set) option = {1 + random() % 100'000, static_cast<double>(random() % 1000) / 8};
    }
    double before = std::numeric_limits<double>::infinity();
    const std::uint64_t least = smallest(sets);
    for (std::uint64_t budget = least; budget < 8 * least; budget += least / 7) {
      const Total total = total_of(sets, allocate(sets, budget, steps));
      REQUIRE(total.bytes <= budget);
      REQUIRE(total.loss <= before);
      before = total.loss;
    }
    // With room for everything, rounded up or not, every set has its least loss.
    double best = 0;
    for (const auto& set : sets) {
      double least_loss = set[0].loss;
      for (const auto& option : set) least_loss = std::min(least_loss, option.loss);
      best += least_loss;
    }
    CHECK(total_of(sets, allocate(sets, 1'000'000'000'000, steps)).loss == best);
    CHECK(before >= best);
  }
}

TEST_CASE("of equal losses the smaller size is taken, and coarse steps lose little") {
  const Sets equal{{{10, 1.0}, {20, 1.0}}, {{5, 2.0}, {50, 2.0}, {4, 2.0}}};
  CHECK(allocate(equal, 1000) == std::vector<std::size_t>{0, 2});
  std::mt19937 random(3);
  Sets sets(100);
  for (auto& set : sets) {
    const double weight = static_cast<double>(1 + random() % 1000);
    for (const std::uint64_t bits : {2U, 3U, 4U, 8U}) {
      set.push_back({bits * (1000 + random() % 7), weight / static_cast<double>(1U << (2 * bits))});
    }
  }
  const double exact = total_of(sets, allocate(sets, 400'000, 10'000'000)).loss;
  CHECK(total_of(sets, allocate(sets, 400'000)).loss <= 1.001 * exact);
  CHECK(total_of(sets, allocate(sets, 400'000, 2000)).loss <= 1.1 * exact);
}

TEST_CASE("budgets that nothing fits and losses that are no numbers are refused") {
  const Sets sets{{{10, 1.0}}, {{20, 1.0}, {30, 0.5}}};
  CHECK(allocate(sets, 30) == std::vector<std::size_t>{0, 0});
  try {
    allocate(sets, 29);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ErrorCode::usage);
    CHECK(std::string(error.what()).find("the smallest choice takes 30") != std::string::npos);
  }
  CHECK_THROWS_AS(allocate({{{10, std::numeric_limits<double>::quiet_NaN()}}}, 100), Error);
  CHECK_THROWS_AS(allocate({{}}, 100), Error);
  CHECK(allocate({}, 0).empty());
}

TEST_CASE("bits become bytes that are never more") {
  CHECK(budget_of_bits(4.25, 800) == 425);
  CHECK(budget_of_bits(3.1, 801) == 310);
  CHECK_THROWS_AS(budget_of_bits(0, 800), Error);
  CHECK_THROWS_AS(budget_of_bits(-2, 800), Error);
  CHECK_THROWS_AS(budget_of_bits(std::numeric_limits<double>::quiet_NaN(), 800), Error);
}

TEST_CASE("sums over a set decide, and members of a set get the same scheme") {
  SensitivityReport report;
  report.candidates = {"W2G32", "W4G128"};
  const auto add = [&](const char* module, int set, double low, bool possible) {
    LinearSensitivity linear{module, 8, 100, set, {}};
    linear.losses.push_back({true, "", 250, low, 0, 0, 0});
    linear.losses.push_back({possible, "", 412, low / 16, 0, 0, 0});
    report.linears.push_back(linear);
  };
  add("a", 0, 1.0, true);
  add("b", 1, 1.4, true);
  add("c", 0, 1.0, true);
  // Enough for the two of set 0 or for b: together they matter more.
  Allocation allocation = allocate_schemes(report, 750 + 2 * 162);
  CHECK(allocation.choice == std::vector<std::size_t>{1, 0, 1});
  CHECK(allocation.bytes == 250 + 2 * 412);
  CHECK(allocation.weights == 2400);
  CHECK(allocation.bits_per_weight() == Approx(8.0 * 1074 / 2400));
  // A member that cannot have a scheme keeps its set from it.
  report.linears[2].losses[1].possible = false;
  allocation = allocate_schemes(report, 10'000);
  CHECK(allocation.choice == std::vector<std::size_t>{0, 1, 0});
  try {
    allocate_schemes(report, 700);
    FAIL("accepted");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("2.500 (750 bytes)") != std::string::npos);
  }
}
