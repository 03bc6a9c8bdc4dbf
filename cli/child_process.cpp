#include "child_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "quant/error.h"

namespace quant::cli {
namespace {

int open_for_child(const std::filesystem::path& file, int flags) {
  const int opened = ::open(file.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
  if (opened >= 0) return opened;
  throw Error(ErrorCode::io, fmt::format("cannot write {}: {}", file.string(), std::strerror(errno)));
}

// Between fork and exec only calls that are safe in a process of many threads.
[[noreturn]] void become(char* const* argv, int out, int log, pid_t parent) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);  // it ended in between
  const int score = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    [[maybe_unused]] const ssize_t written = ::write(score, "500", 3);
    ::close(score);
  }
  struct sigaction action {};
  action.sa_handler = SIG_DFL;
  for (const int number : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ}) ::sigaction(number, &action, nullptr);
  const int nothing = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  if (nothing < 0 || ::dup2(nothing, STDIN_FILENO) < 0 || ::dup2(out, STDOUT_FILENO) < 0 ||
      ::dup2(log, STDERR_FILENO) < 0) {
    ::_exit(127);
  }
  ::execv("/proc/self/exe", argv);
  ::_exit(127);
}

}  // namespace

ChildProcess::ChildProcess(const std::vector<std::string>& arguments, const std::filesystem::path& out,
                           const std::filesystem::path& log)
    : start_(std::chrono::steady_clock::now()) {
  std::vector<std::string> words = {"quant"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int out_file = open_for_child(out, O_TRUNC);
  int log_file = -1;
  try {
    log_file = open_for_child(log, O_APPEND);
  } catch (...) {
    ::close(out_file);
    throw;
  }
  // A parent may have left it ignored; children then end without a word.
  std::signal(SIGCHLD, SIG_DFL);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ == 0) become(argv.data(), out_file, log_file, parent);
  const int reason = errno;
  ::close(out_file);
  ::close(log_file);
  if (pid_ < 0) throw Error(ErrorCode::io, fmt::format("cannot start a process: {}", std::strerror(reason)));
  running_ = true;
}

ChildProcess::~ChildProcess() {
  if (!running_) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

bool ChildProcess::ended() {
  if (!running_) return true;
  int status = 0;
  rusage usage{};
  const pid_t got = ::wait4(pid_, &status, WNOHANG, &usage);
  if (got != pid_ && !(got < 0 && errno == ECHILD)) return false;
  running_ = false;
  end_.signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  end_.exit_code = got != pid_ ? 1 : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + end_.signal;
  end_.seconds = seconds();
  end_.peak_memory = static_cast<std::uint64_t>(usage.ru_maxrss) * 1024;
  return true;
}

void ChildProcess::signal(int number) const {
  if (running_) ::kill(pid_, number);
}

double ChildProcess::seconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
}

}  // namespace quant::cli
