// Work shared out among processes, on one machine or on several with a common directory: who claims a piece first has
// it, until it is released or its process is gone.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace quant {

struct ClaimTimes {
  std::chrono::milliseconds heartbeat{10'000};  ///< a holder touches its claims so often
  std::chrono::milliseconds stale{120'000};     ///< one that was not touched for so long is free
};

/// Who holds a claim.
struct ClaimHolder {
  std::string host;
  std::int64_t pid = 0;
  bool alive = false;  ///< false: its process is gone, or its heartbeat is old
};

/// A claim on `name` is the file with the highest number N of `<directory>/<name>.claim.<N>`, made with O_CREAT|O_EXCL:
/// whoever finds N dead makes N + 1, which one process alone can. It tells host, process and start of that process.
/// On the same machine a holder is dead if its process is; elsewhere if its file was not touched for `stale`, by the
/// clock of the file system.
class Claims {
 public:
  /// Starts a thread that touches what is held. The directory must exist.
  explicit Claims(std::filesystem::path directory, ClaimTimes times = {});
  /// Releases all.
  ~Claims();
  Claims(const Claims&) = delete;
  Claims& operator=(const Claims&) = delete;

  /// True if `name` is held by this object from now on. False while another process holds it. Throws Error{io}.
  bool acquire(std::string_view name);
  /// Whether another process took over what this object held: it was stopped for too long. Its work must end.
  bool lost(std::string_view name) const;
  void release(std::string_view name);
  /// Who holds `name`, this object included; null if nobody does or ever did.
  std::optional<ClaimHolder> holder(std::string_view name) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace quant
