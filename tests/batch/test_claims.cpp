// Claims: one winner among processes, and what becomes of the dead.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "quant/claims.h"
#include "quant/error.h"
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant;
using namespace quant::test;
using namespace std::chrono_literals;

namespace {

namespace fs = std::filesystem;

// A claim as a process of another machine would have left it, last touched `age` ago.
void write_foreign_claim(const fs::path& file, std::chrono::seconds age) {
  write_file(file, R"({"host": "elsewhere", "pid": 1, "space": "other boot", "start": "1", "token": "t"})");
  timespec times[2] = {};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = std::time(nullptr) - age.count();
  REQUIRE(::utimensat(AT_FDCWD, file.c_str(), times, 0) == 0);
}

// Runs in a child and ends it at once, without the parent's destructors.
template <class Work>
pid_t in_child(const Work& work) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) ::_exit(work());
  return child;
}

int exit_of(pid_t child) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace

TEST_CASE("a claim has one holder until it is released", "[claims]") {
  const TempDir dir;
  Claims first(dir.path());
  Claims second(dir.path());
  CHECK_FALSE(first.holder("job"));
  CHECK(first.acquire("job"));
  CHECK_FALSE(first.acquire("job"));
  CHECK_FALSE(second.acquire("job"));
  CHECK(second.acquire("job.claim"));  // another name
  REQUIRE(second.holder("job"));
  CHECK(second.holder("job")->pid == ::getpid());
  CHECK(second.holder("job")->alive);
  CHECK_FALSE(first.lost("job"));
  second.release("job");  // not its own: nothing happens
  CHECK_FALSE(second.acquire("job"));
  first.release("job");
  CHECK(second.acquire("job"));
}

TEST_CASE("the claim of a process that is gone is free at once", "[claims]") {
  const TempDir dir;
  int ready[2];
  REQUIRE(::pipe(ready) == 0);
  const pid_t child = in_child([&] {
    Claims claims(dir.path());
    const char won = claims.acquire("job") ? 'y' : 'n';
    [[maybe_unused]] const auto written = ::write(ready[1], &won, 1);
    ::pause();
    return 0;
  });
  char won = 0;
  REQUIRE(::read(ready[0], &won, 1) == 1);
  CHECK(won == 'y');
  Claims claims(dir.path());
  CHECK_FALSE(claims.acquire("job"));
  CHECK(claims.holder("job")->pid == child);
  REQUIRE(::kill(child, SIGKILL) == 0);
  CHECK(exit_of(child) == 128 + SIGKILL);
  CHECK_FALSE(claims.holder("job")->alive);
  CHECK(claims.acquire("job"));
  CHECK(claims.holder("job")->pid == ::getpid());
  claims.release("job");
  CHECK_FALSE(claims.holder("job"));  // the dead one's file is gone as well
  ::close(ready[0]);
  ::close(ready[1]);
}

TEST_CASE("another machine's claim is free once its heartbeat is old", "[claims]") {
  const TempDir dir;
  Claims claims(dir.path(), {100ms, 60s});
  write_foreign_claim(dir / "young.claim.3", 10s);
  write_foreign_claim(dir / "old.claim.3", 100s);
  CHECK_FALSE(claims.acquire("young"));
  CHECK(claims.acquire("old"));
  CHECK(fs::exists(dir / "old.claim.4"));
  // A file that its maker did not get to fill counts by its time.
  write_file(dir / "empty.claim.1", "");
  CHECK_FALSE(claims.acquire("empty"));
  write_file(dir / "junk.claim.one", "");
  CHECK(claims.acquire("junk"));
}

TEST_CASE("a holder that slept too long learns that it lost its claim", "[claims]") {
  const TempDir dir;
  Claims claims(dir.path(), {100ms, 60s});
  REQUIRE(claims.acquire("job"));
  write_foreign_claim(dir / "job.claim.2", 0s);
  CHECK(claims.lost("job"));
  claims.release("job");
  CHECK(fs::exists(dir / "job.claim.2"));  // the other's stays
  CHECK(claims.lost("never"));
}

TEST_CASE("holders keep their claims alive", "[claims]") {
  const TempDir dir;
  Claims claims(dir.path(), {20ms, 60s});
  REQUIRE(claims.acquire("job"));
  timespec times[2] = {};
  times[0].tv_nsec = UTIME_OMIT;
  times[1].tv_sec = 1'000'000;
  REQUIRE(::utimensat(AT_FDCWD, (dir / "job.claim.1").c_str(), times, 0) == 0);
  struct stat info {};
  for (int i = 0; i < 500 && (info.st_mtim.tv_sec == 0 || info.st_mtim.tv_sec == 1'000'000); ++i) {
    std::this_thread::sleep_for(10ms);
    REQUIRE(::stat((dir / "job.claim.1").c_str(), &info) == 0);
  }
  CHECK(info.st_mtim.tv_sec > 1'000'000);
}

TEST_CASE("of many processes that take over a dead claim one wins", "[claims]") {
  for (int round = 0; round < 10; ++round) {
    const TempDir dir;
    write_foreign_claim(dir / "job.claim.1", 1000s);
    int start[2];
    REQUIRE(::pipe(start) == 0);
    std::vector<pid_t> children;
    for (int i = 0; i < 6; ++i) {
      children.push_back(in_child([&] {
        ::close(start[1]);
        Claims claims(dir.path(), {100ms, 60s});
        char nothing = 0;
        [[maybe_unused]] const auto got = ::read(start[0], &nothing, 1);  // until the parent closes its end
        for (int attempt = 0; attempt < 50; ++attempt) {
          if (claims.acquire("job")) {
            // Whoever comes later finds this claim: held until all have tried.
            std::this_thread::sleep_for(200ms);
            const bool kept = !claims.lost("job");
            write_file(dir / ("won." + std::to_string(::getpid())), kept ? "kept" : "lost");
            ::_exit(0);  // without releasing
          }
          std::this_thread::sleep_for(1ms);
        }
        return 0;
      }));
    }
    ::close(start[0]);
    ::close(start[1]);
    int winners = 0;
    for (const pid_t child : children) {
      CHECK(exit_of(child) == 0);
      const fs::path file = dir / ("won." + std::to_string(child));
      if (!fs::exists(file)) continue;
      ++winners;
      CHECK(read_file(file) == "kept");
    }
    CHECK(winners == 1);
  }
}

TEST_CASE("claims where nothing can be written say so", "[claims]") {
  CHECK_THROWS_AS(Claims("/nonexistent/folder"), Error);
}
