#include "progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "interrupt.h"
#include "units.h"

namespace quant::cli {
namespace {

std::size_t terminal_width() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

std::string cut(const std::string& text, std::size_t width) {
  std::size_t columns = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool starts_code_point = (static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U;
    if (starts_code_point && columns++ == width) return text.substr(0, i);
  }
  return text;
}

}  // namespace

std::string progress_text(const std::string& verb, const ProgressState& state, std::size_t width) {
  const auto amount = [&](std::uint64_t n) { return state.bytes ? human_bytes(n) : human_count(n); };
  const double share = state.total == 0 ? 1.0 : static_cast<double>(state.done) / static_cast<double>(state.total);
  std::string text = fmt::format("{} {:3.0f} %  {} of {}{}", verb, std::floor(100.0 * share), amount(state.done),
                                 amount(state.total), state.bytes ? "" : " " + state.unit);
  const std::uint64_t fresh = state.done - std::min(state.done, state.resumed);
  if (fresh > 0 && state.seconds > 0.2) {
    const double rate = static_cast<double>(fresh) / state.seconds;
    const double left = static_cast<double>(state.total - std::min(state.total, state.done)) / rate;
    text += fmt::format("  {}/s  {} left", amount(static_cast<std::uint64_t>(rate)), human_seconds(left));
  }
  if (!state.current.empty()) text += "  " + printable(state.current);
  return cut(text, width);
}

ProgressLine::ProgressLine(std::string verb, bool quiet)
    : verb_(std::move(verb)), enabled_(!quiet && isatty(STDERR_FILENO) != 0) {}

ProgressLine::~ProgressLine() { clear(); }

void ProgressLine::update(const ProgressState& state) {
  if (!enabled_) return;
  // One column is left free: a full line would wrap on some terminals.
  fmt::print(stderr, "\r\x1b[K{}", progress_text(verb_, state, terminal_width() - 1));
  std::fflush(stderr);
  drawn_ = true;
}

void ProgressLine::clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

ScanOptions scan_options(ProgressLine& line, int threads) {
  ScanOptions options;
  options.threads = threads;
  options.stop = watch_interrupts();
  if (!line.enabled()) return options;
  options.progress = [&line, start = std::chrono::steady_clock::now()](std::uint64_t done, std::uint64_t total) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    line.update({done, total, 0, elapsed.count(), {}, false, "weights"});
  };
  return options;
}

}  // namespace quant::cli
