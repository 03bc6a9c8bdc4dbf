// The knapsack: one option for each set, the least loss within a budget.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "quant/error.h"
#include "quant/sensitivity.h"

namespace quant {
namespace {

constexpr std::uint64_t kTableBytes = 256'000'000;

using Sets = std::vector<std::vector<AllocationOption>>;

/// An option that may be the best one for some budget.
struct Step {
  std::size_t option = 0;
  std::uint64_t extra = 0;  // bytes above the smallest option, later steps of the table
  double loss = 0;
};

/// Options of a set by size, without those that a smaller or equal one beats.
std::vector<Step> useful_options(const std::vector<AllocationOption>& options) {
  std::vector<Step> steps;
  for (std::size_t i = 0; i < options.size(); ++i) {
    if (!std::isfinite(options[i].loss) || options[i].loss < 0) {
      throw Error(ErrorCode::usage, fmt::format("a loss of {} cannot be weighed against others", options[i].loss));
    }
    steps.push_back({i, options[i].bytes, options[i].loss});
  }
  if (steps.empty()) throw Error(ErrorCode::usage, "a set of linears has no scheme to choose");
  std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) {
    return a.extra != b.extra ? a.extra < b.extra : a.loss < b.loss;
  });
  std::vector<Step> useful;
  for (const Step& step : steps) {
    if (useful.empty() || step.loss < useful.back().loss) useful.push_back(step);
  }
  return useful;
}

/// Bytes as steps: exact in units of their greatest common divisor, or rounded up. Units depend on the options alone,
/// so that a larger budget sees the same table.
std::uint64_t to_steps(std::vector<std::vector<Step>>& sets, std::uint64_t most_steps) {
  std::uint64_t unit = 0;
  std::uint64_t range = 0;
  for (const auto& set : sets) {
    for (const Step& step : set) unit = std::gcd(unit, step.extra);
    range += set.back().extra;
  }
  unit = std::max<std::uint64_t>(unit, 1);
  if (range / unit > most_steps) unit = range / most_steps + 1;
  for (auto& set : sets) {
    for (Step& step : set) step.extra = step.extra / unit + (step.extra % unit != 0 ? 1 : 0);
  }
  return unit;
}

/// best[s]: the least loss of the sets so far within s steps; chosen[set][s]: the last one's option.
std::vector<std::size_t> solve(const std::vector<std::vector<Step>>& sets, std::uint64_t steps) {
  const std::size_t width = static_cast<std::size_t>(steps) + 1;
  std::vector<double> best(width, 0), next(width);
  std::vector<std::vector<std::uint16_t>> chosen(sets.size(), std::vector<std::uint16_t>(width));
  for (std::size_t set = 0; set < sets.size(); ++set) {
    for (std::size_t s = 0; s < width; ++s) {
      next[s] = std::numeric_limits<double>::infinity();
      // The smallest option costs no steps, so there is always one; of equals the first, smaller one stays.
      for (std::size_t o = 0; o < sets[set].size() && sets[set][o].extra <= s; ++o) {
        const double loss = best[s - sets[set][o].extra] + sets[set][o].loss;
        if (loss < next[s]) {
          next[s] = loss;
          chosen[set][s] = static_cast<std::uint16_t>(o);
        }
      }
    }
    best.swap(next);
  }
  // The smallest size that reaches the best sum.
  std::size_t s = static_cast<std::size_t>(std::find(best.begin(), best.end(), best.back()) - best.begin());
  std::vector<std::size_t> choice(sets.size());
  for (std::size_t set = sets.size(); set-- > 0;) {
    const Step& step = sets[set][chosen[set][s]];
    choice[set] = step.option;
    s -= step.extra;
  }
  return choice;
}

}  // namespace

std::vector<std::size_t> allocate(const Sets& sets, std::uint64_t budget, std::uint64_t most_steps) {
  std::vector<std::vector<Step>> useful;
  std::uint64_t smallest = 0;
  std::uint64_t range = 0;
  for (const auto& options : sets) {
    useful.push_back(useful_options(options));
    const std::uint64_t least = useful.back().front().extra;
    smallest = checked_add(smallest, least, "sizes of linears");
    for (Step& step : useful.back()) step.extra -= least;
    range = checked_add(range, useful.back().back().extra, "sizes of linears");
  }
  if (smallest > budget) {
    throw Error(ErrorCode::usage, fmt::format("{} bytes are too few: the smallest choice takes {}", budget, smallest),
                "allow more, or offer smaller schemes", "BudgetTooSmall");
  }
  // The table of choices has two bytes for each set and step.
  const std::uint64_t affordable = kTableBytes / (2 * std::max<std::uint64_t>(useful.size(), 1));
  const std::uint64_t unit = to_steps(useful, std::max<std::uint64_t>(std::min(most_steps, affordable), 1));
  std::uint64_t most = 0;
  for (const auto& set : useful) most += set.back().extra;
  return solve(useful, std::min((budget - smallest) / unit, most));
}

std::uint64_t budget_of_bits(double bits, std::uint64_t weights) {
  if (!(bits > 0) || bits > 64) {
    throw Error(ErrorCode::usage, fmt::format("{} bits per weight are no target", bits), "as in 4.25");
  }
  return static_cast<std::uint64_t>(std::floor(bits / 8.0 * static_cast<double>(weights)));
}

namespace {

/// The candidates that all members of a set can have, as sums over them; `names` says which.
struct SetOptions {
  std::vector<AllocationOption> options;
  std::vector<std::size_t> candidates;
};

SetOptions options_of(const SensitivityReport& report, int set) {
  SetOptions result;
  std::string first;
  for (std::size_t c = 0; c < report.candidates.size(); ++c) {
    AllocationOption sum;
    bool possible = true;
    for (const LinearSensitivity& linear : report.linears) {
      if (linear.set != set) continue;
      if (first.empty()) first = linear.module;
      possible = possible && linear.losses[c].possible;
      sum.bytes += linear.losses[c].bytes;
      sum.loss += linear.losses[c].loss;
    }
    if (!possible) continue;
    result.options.push_back(sum);
    result.candidates.push_back(c);
  }
  if (!result.options.empty()) return result;
  throw Error(ErrorCode::usage,
              fmt::format("no candidate scheme fits '{}' and all linears that must have the same one", first),
              "offer other schemes with --schemes, or ignore these linears in the recipe", "NoCandidate");
}

/// Of all sets, by their numbers.
std::vector<SetOptions> all_options(const SensitivityReport& report) {
  int count = 0;
  for (const LinearSensitivity& linear : report.linears) count = std::max(count, linear.set + 1);
  std::vector<SetOptions> sets;
  for (int set = 0; set < count; ++set) sets.push_back(options_of(report, set));
  return sets;
}

std::uint64_t smallest_size(const std::vector<SetOptions>& sets) {
  std::uint64_t bytes = 0;
  for (const SetOptions& set : sets) {
    bytes += std::min_element(set.options.begin(), set.options.end(), [](const auto& a, const auto& b) {
               return a.bytes < b.bytes;
             })->bytes;
  }
  return bytes;
}

}  // namespace

std::uint64_t smallest_allocation(const SensitivityReport& report) { return smallest_size(all_options(report)); }

Allocation allocate_schemes(const SensitivityReport& report, std::uint64_t budget) {
  Allocation allocation;
  for (const LinearSensitivity& linear : report.linears) allocation.weights += linear.rows * linear.cols;
  const std::vector<SetOptions> sets = all_options(report);
  std::vector<std::vector<AllocationOption>> options;
  for (const SetOptions& set : sets) options.push_back(set.options);
  if (const std::uint64_t smallest = smallest_size(sets); smallest > budget) {
    const auto bits = [&](std::uint64_t bytes) {
      return 8.0 * static_cast<double>(bytes) / static_cast<double>(allocation.weights);
    };
    throw Error(ErrorCode::usage,
                fmt::format("{:.3f} bits per weight are too few: the smallest candidates take {:.3f} ({} bytes)",
                            bits(budget), bits(smallest), smallest),
                "ask for more, or offer smaller schemes with --schemes", "BudgetTooSmall");
  }
  const std::vector<std::size_t> chosen = allocate(options, budget);
  for (const LinearSensitivity& linear : report.linears) {
    const auto set = static_cast<std::size_t>(linear.set);
    allocation.choice.push_back(sets[set].candidates[chosen[set]]);
    allocation.bytes += linear.losses[allocation.choice.back()].bytes;
  }
  for (std::size_t set = 0; set < sets.size(); ++set) allocation.loss += options[set][chosen[set]].loss;
  return allocation;
}

}  // namespace quant
