#include "quant/claims.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <condition_variable>
#include <csignal>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>
#include <vector>

#include "output/files.h"
#include "quant/error.h"

namespace quant {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::json;

std::string content_of(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::string host_name() {
  char name[256] = {};
  return ::gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
}

// Process ids mean something within one boot of one machine and one space of process ids (containers have their own).
std::string process_space() {
  std::string boot = content_of("/proc/sys/kernel/random/boot_id");
  boot.erase(std::remove(boot.begin(), boot.end(), '\n'), boot.end());
  std::error_code ignored;
  return boot + " " + fs::read_symlink("/proc/self/ns/pid", ignored).string();
}

// Ticks from boot to the start of a process: an id may be given again. Empty: there is no such process, or it only
// waits for its parent to take note of its end.
std::string start_of(std::int64_t pid) {
  const std::string text = content_of(fmt::format("/proc/{}/stat", pid));
  const std::size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream fields(text.substr(name_end + 1));
  std::string field;
  std::string state;
  for (int i = 3; i <= 22 && fields >> field; ++i) {
    if (i == 3) state = field;
  }
  return state == "Z" || state == "X" ? std::string() : field;
}

struct Identity {
  std::string host = host_name();
  std::string space = process_space();
  std::int64_t pid = ::getpid();
  std::string start = start_of(::getpid());
  std::string token;  ///< of one Claims object

  Identity() {
    std::random_device random;
    token = fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
  }
};

/// A claim's file as it was found.
struct Found {
  std::uint64_t number = 0;
  fs::path file;
  std::string host, space, start, token;
  std::int64_t pid = 0;
  timespec touched{};
};

// A file that is not written to its end yet, or hurt: nobody's, known by its time only.
void read_holder(Found& found) {
  const json object = json::parse(content_of(found.file), nullptr, false);
  if (!object.is_object()) return;
  const auto text = [&](const char* key) {
    const auto at = object.find(key);
    return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  found.host = text("host");
  found.space = text("space");
  found.start = text("start");
  found.token = text("token");
  const auto pid = object.find("pid");
  if (pid != object.end() && pid->is_number_integer()) found.pid = pid->get<std::int64_t>();
}

std::chrono::nanoseconds nanoseconds(const timespec& time) {
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

bool touch(const fs::path& file) { return ::utimensat(AT_FDCWD, file.c_str(), nullptr, 0) == 0; }

}  // namespace

struct Claims::State {
  State(fs::path where, ClaimTimes given) : directory(std::move(where)), times(given) {
    clock = directory / fmt::format(".clock.{}.{}.{}", me.host, me.pid, me.token.substr(0, 8));
  }

  fs::path file_of(std::string_view name, std::uint64_t number) const {
    return directory / fmt::format("{}.claim.{}", name, number);
  }

  // The time of the file system that the directory lies on: clocks of machines differ.
  std::chrono::nanoseconds now() const {
    struct stat info {};
    const Descriptor file(::open(clock.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
    if (file.get() < 0 || ::futimens(file.get(), nullptr) != 0 || ::fstat(file.get(), &info) != 0) {
      throw_io_error("cannot write", clock, errno);
    }
    return nanoseconds(info.st_mtim);
  }

  std::vector<Found> find(std::string_view name) const {
    const std::string prefix = std::string(name) + ".claim.";
    std::vector<Found> all;
    std::error_code failed;
    fs::directory_iterator entries(directory, failed);
    for (; !failed && entries != fs::directory_iterator(); entries.increment(failed)) {
      const auto& entry = *entries;
      const std::string file = entry.path().filename().string();
      if (!file.starts_with(prefix)) continue;
      Found found;
      const char* begin = file.data() + prefix.size();
      const char* end = file.data() + file.size();
      const auto parsed = std::from_chars(begin, end, found.number);
      struct stat info {};
      if (parsed.ec != std::errc() || parsed.ptr != end || ::stat(entry.path().c_str(), &info) != 0) continue;
      found.file = entry.path();
      found.touched = info.st_mtim;
      read_holder(found);
      all.push_back(std::move(found));
    }
    if (failed) throw_io_error("cannot read", directory, failed.value());
    std::sort(all.begin(), all.end(), [](const Found& a, const Found& b) { return a.number < b.number; });
    return all;
  }

  bool alive(const Found& found) const {
    const bool here = found.space == me.space && found.host == me.host && !me.space.starts_with(' ');
    if (found.pid > 0 && here) return start_of(found.pid) == found.start && !found.start.empty();
    return now() - nanoseconds(found.touched) <= times.stale;
  }

  // False if another process was first.
  bool make(const fs::path& file) const {
    const Descriptor made(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    if (made.get() < 0) {
      if (errno == EEXIST) return false;
      throw_io_error("cannot claim work by making", file, errno);
    }
    const std::string text =
        json{{"host", me.host}, {"pid", me.pid}, {"space", me.space}, {"start", me.start}, {"token", me.token}}.dump() +
        "\n";
    if (::write(made.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size())) return true;
    const int reason = errno;
    ::unlink(file.c_str());
    throw_io_error("cannot write", file, reason);
  }

  bool is_mine(const fs::path& file) const {
    Found found;
    found.file = file;
    read_holder(found);
    return found.token == me.token || found.token.empty();
  }

  bool lost(const std::string& name, std::uint64_t number) const {
    const fs::path file = file_of(name, number);
    const std::vector<Found> all = find(name);
    if (!all.empty() && all.back().number > number) return true;
    // A look that fails, as a busy server may answer, tells nothing of who has it.
    if (::access(file.c_str(), F_OK) != 0) return errno == ENOENT;
    return !is_mine(file);
  }

  void beat() {
    std::unique_lock lock(mutex);
    while (!wake.wait_for(lock, times.heartbeat, [&] { return stopping; })) {
      for (const auto& [name, number] : held) touch(file_of(name, number));
    }
  }

  const fs::path directory;
  const ClaimTimes times;
  const Identity me;
  fs::path clock;
  mutable std::mutex mutex;
  std::condition_variable wake;
  bool stopping = false;
  std::map<std::string, std::uint64_t> held;
  std::thread thread;
};

Claims::Claims(fs::path directory, ClaimTimes times) : state_(std::make_unique<State>(std::move(directory), times)) {
  state_->now();  // says at once if nothing can be written there
  state_->thread = std::thread([this] { state_->beat(); });
}

Claims::~Claims() {
  std::vector<std::string> names;
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
    for (const auto& [name, number] : state_->held) names.push_back(name);
  }
  state_->wake.notify_all();
  state_->thread.join();
  for (const std::string& name : names) release(name);
  ::unlink(state_->clock.c_str());
}

bool Claims::acquire(std::string_view name) {
  const std::vector<Found> before = state_->find(name);
  if (std::any_of(before.begin(), before.end(), [&](const Found& found) { return state_->alive(found); })) return false;
  const std::uint64_t number = before.empty() ? 1 : before.back().number + 1;
  const fs::path file = state_->file_of(name, number);
  if (!state_->make(file)) return false;
  // Someone may have released a claim, and others have begun from 1 again, between the look and now: who finds any
  // claim but those that it knows to be dead steps back. Both may; neither ever has it twice.
  for (const Found& other : state_->find(name)) {
    const bool known = std::any_of(before.begin(), before.end(), [&](const Found& found) {
      return found.number == other.number && found.token == other.token;
    });
    if (other.number == number ? other.token == state_->me.token : known) continue;
    ::unlink(file.c_str());
    return false;
  }
  const std::lock_guard lock(state_->mutex);
  state_->held[std::string(name)] = number;
  return true;
}

bool Claims::lost(std::string_view name) const {
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->held.find(std::string(name));
    if (found == state_->held.end()) return true;
    number = found->second;
  }
  return state_->lost(std::string(name), number);
}

void Claims::release(std::string_view name) {
  std::uint64_t number = 0;
  {
    const std::lock_guard lock(state_->mutex);
    const auto found = state_->held.find(std::string(name));
    if (found == state_->held.end()) return;
    number = found->second;
    state_->held.erase(found);
  }
  if (state_->lost(std::string(name), number)) return;
  // The own one last: until then nobody begins from 1.
  for (const Found& found : state_->find(name)) {
    if (found.number < number) ::unlink(found.file.c_str());
  }
  ::unlink(state_->file_of(name, number).c_str());
}

std::optional<ClaimHolder> Claims::holder(std::string_view name) const {
  const std::vector<Found> all = state_->find(name);
  if (all.empty()) return std::nullopt;
  const Found& last = all.back();
  return ClaimHolder{last.host.empty() ? "unknown" : last.host, last.pid, state_->alive(last)};
}

}  // namespace quant
