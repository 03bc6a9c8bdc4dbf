// The thread pool and the numbered tasks that run on it.
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "parallel_tasks.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/sanitized.h"
#include "support/temp_dir.h"
#include "thread_pool.h"

using namespace quant;

namespace {

const auto kNoTick = [] {};

std::string failure_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "none";
}

void check_runs_all(ThreadPool& pool, std::size_t count) {
  std::vector<std::atomic<int>> runs(count);
  pool.run(
      count, [&](std::size_t task) { ++runs[task]; }, kNoTick);
  for (const auto& times : runs) REQUIRE(times == 1);
}

}  // namespace

TEST_CASE("a pool runs each task once, run after run") {
  for (const int threads : {-3, 0, 1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const std::size_t count : {0, 1, 2, 7, 1000, 0, 5}) check_runs_all(pool, count);
  }
}

TEST_CASE("what tasks compute does not depend on the number of threads") {
  const auto compute = [](int threads) {
    std::vector<double> results(500);
    ThreadPool pool(threads);
    pool.run(
        results.size(), [&](std::size_t task) { results[task] = 1.0 / (1.0 + static_cast<double>(task)); }, kNoTick);
    return results;
  };
  const auto expected = compute(1);
  for (int threads = 2; threads <= 8; ++threads) CHECK(compute(threads) == expected);
}

TEST_CASE("a task that throws ends the run: later tasks are left out") {
  ThreadPool pool(1);
  std::vector<std::size_t> ran;
  const auto task = [&](std::size_t i) {
    ran.push_back(i);
    if (i == 3) throw std::runtime_error("task 3");
  };
  CHECK(failure_of([&] { pool.run(10, task, kNoTick); }) == "task 3");
  CHECK(ran == std::vector<std::size_t>{0, 1, 2, 3});
  check_runs_all(pool, 20);
}

TEST_CASE("the first of several exceptions is rethrown") {
  ThreadPool pool(2);
  std::atomic<bool> second_started{false};
  std::atomic<bool> first_throws{false};
  std::atomic<int> ticks{0};  // since then
  const auto task = [&](std::size_t i) {
    if (i == 0) {
      while (!second_started) std::this_thread::yield();
      first_throws = true;
      throw std::runtime_error("first");
    }
    second_started = true;
    while (ticks < 3) std::this_thread::yield();
    throw std::runtime_error("second");
  };
  const auto tick = [&] {
    if (first_throws) ++ticks;
  };
  CHECK(failure_of([&] { pool.run(2, task, tick); }) == "first");
  check_runs_all(pool, 20);
}

TEST_CASE("a pool is usable after each of many failures") {
  for (int threads = 1; threads <= 8; ++threads) {
    ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round) {
      const auto task = [](std::size_t i) {
        if (i % 3 == 0) throw std::runtime_error("failed");
      };
      REQUIRE(failure_of([&] { pool.run(50, task, kNoTick); }) == "failed");
      check_runs_all(pool, 50);
    }
  }
}

TEST_CASE("a tick that throws ends the run with its exception") {
  for (const int threads : {1, 4}) {
    ThreadPool pool(threads);
    constexpr std::size_t kEndless = 1'000'000'000'000;
    std::atomic<std::size_t> ran{0};
    const auto tick = [] { throw std::runtime_error("tick"); };
    CHECK(failure_of([&] {
            pool.run(
                kEndless, [&](std::size_t) { ++ran; }, tick);
          }) == "tick");
    CHECK(ran < kEndless);
    check_runs_all(pool, 20);
  }
}

TEST_CASE("the waiting thread ticks while tasks run") {
  ThreadPool pool(2);
  std::atomic<int> ticks{0};
  const auto wait = [&](std::size_t) {
    while (ticks < 2) std::this_thread::yield();
  };
  pool.run(2, wait, [&] { ++ticks; });
  CHECK(ticks >= 2);
}

TEST_CASE("numbered tasks use no more threads than there are tasks") {
  std::mutex mutex;
  std::set<std::thread::id> threads;
  ScanOptions options;
  options.threads = 1'000'000;  // could not be started
  const std::vector<std::uint64_t> costs(3, 1);
  run_tasks(costs, options, [&](std::size_t) {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
  });
  CHECK(threads.size() <= 3);
  CHECK_FALSE(threads.contains(std::this_thread::get_id()));
  run_tasks({}, options, [](std::size_t) { FAIL("there is no task"); });
}

TEST_CASE("numbered tasks rethrow a failure and leave out what has not begun") {
  ScanOptions options;
  options.threads = 1;
  const std::vector<std::uint64_t> costs(10, 1);
  int ran = 0;
  const auto task = [&](std::size_t i) {
    ++ran;
    if (i == 4) throw std::runtime_error("task 4");
  };
  CHECK(failure_of([&] { run_tasks(costs, options, task); }) == "task 4");
  CHECK(ran == 5);
}

#ifndef QUANT_TEST_SANITIZED  // sanitizers need address space of their own
TEST_CASE("threads that cannot be started are an error with a hint") {
  rlimit old{};
  REQUIRE(getrlimit(RLIMIT_AS, &old) == 0);
  const rlim_t pages = std::stoull(test::read_file("/proc/self/statm"));
  const rlimit tight{pages * static_cast<rlim_t>(sysconf(_SC_PAGESIZE)) + (rlim_t{256} << 20U), old.rlim_max};
  std::string message, hint;
  REQUIRE(setrlimit(RLIMIT_AS, &tight) == 0);
  try {
    ThreadPool pool(4000);
  } catch (const Error& error) {
    message = error.what();
    hint = error.hint();
  }
  REQUIRE(setrlimit(RLIMIT_AS, &old) == 0);
  CHECK(message.find("cannot start 4000 threads") == 0);
  CHECK(hint.find("--threads") != std::string::npos);
}
#endif
