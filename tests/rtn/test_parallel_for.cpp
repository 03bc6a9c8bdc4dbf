// Loops that exceptions may leave: each task once, which failure is rethrown, more threads than tasks.
#include <algorithm>
#include <atomic>
#include <functional>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "parallel_for.h"
#include "support/catch.h"

namespace {

using quant::rtn::parallel_for;

std::string failure_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "none";
}

}  // namespace

TEST_CASE("a parallel loop runs each task once for any number of threads") {
  for (const int threads : {-1, 0, 1, 2, 3, 8, 1000}) {
    for (const std::size_t count : {0, 1, 2, 100}) {
      std::vector<std::atomic<int>> runs(count);
      parallel_for(threads, count, [&](std::size_t task) { ++runs[task]; });
      for (const auto& times : runs) CHECK(times == 1);
    }
  }
}

TEST_CASE("threads' shares are added up once each") {
  for (int threads = 1; threads <= 8; ++threads) {
    std::vector<int> all;
    parallel_for(
        threads, 100, [] { return std::vector<int>(); },
        [](std::vector<int>& mine, std::size_t task) { mine.push_back(static_cast<int>(task)); },
        [&](const std::vector<int>& mine) { all.insert(all.end(), mine.begin(), mine.end()); });
    std::sort(all.begin(), all.end());
    std::vector<int> expected(100);
    std::iota(expected.begin(), expected.end(), 0);
    CHECK(all == expected);
  }
}

TEST_CASE("the failure of the lowest task leaves the loop") {
  for (int threads = 1; threads <= 8; ++threads) {
    const auto body = [](std::size_t task) {
      if (task >= 37 && task % 2 == 1) throw std::runtime_error("task " + std::to_string(task));
    };
    CHECK(failure_of([&] { parallel_for(threads, 100, body); }) == "task 37");
  }
}

TEST_CASE("failures of set-up and reduction leave the loop") {
  const auto ignore = [](auto&&...) {};
  for (int threads = 1; threads <= 4; ++threads) {
    const auto no_memory = []() -> std::vector<int> { throw std::bad_alloc(); };
    CHECK_THROWS_AS(parallel_for(threads, 10, no_memory, ignore, ignore), std::bad_alloc);
    const auto fails = [](int&) { throw std::runtime_error("reduction"); };
    CHECK(failure_of([&] {
            parallel_for(
                threads, 10, [] { return 0; }, ignore, fails);
          }) == "reduction");
    CHECK_THROWS_AS(parallel_for(threads, 0, no_memory, ignore, ignore), std::bad_alloc);
  }
}

TEST_CASE("no more threads are asked for than have a task") {
  CHECK(quant::rtn::loop_threads(1000, 3) == 3);
  CHECK(quant::rtn::loop_threads(2, 100) == 2);
  CHECK(quant::rtn::loop_threads(5, 0) == 1);
  CHECK(quant::rtn::loop_threads(0, 5) == 1);
  CHECK(quant::rtn::loop_threads(1'000'000, 1'000'000) <= std::max(8, omp_get_num_procs()));
}
