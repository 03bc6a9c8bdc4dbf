// One line on the terminal that says how far a long command is.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "quant/logical_tensors.h"

namespace quant::cli {

struct ProgressState {
  std::uint64_t done = 0;
  std::uint64_t total = 0;
  std::uint64_t resumed = 0;  ///< of `done`, finished before this run: no part of the rate
  double seconds = 0;
  std::string current;           ///< what is worked on, or empty
  bool bytes = true;             ///< units of done and total: bytes, else values
  std::string unit = "weights";  ///< name of the values
};

/// "quantizing  45 %  2.1 of 4.6 GB  1.24 GB/s  0:34 left  model.layers.3", cut to `width` columns.
std::string progress_text(const std::string& verb, const ProgressState& state, std::size_t width);

/// Draws on stderr if that is a terminal and `quiet` is not set; else does nothing. The line is wiped at the end.
class ProgressLine {
 public:
  ProgressLine(std::string verb, bool quiet);
  ~ProgressLine();
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  bool enabled() const { return enabled_; }
  void update(const ProgressState& state);
  void clear();

 private:
  std::string verb_;
  bool enabled_;
  bool drawn_ = false;
};

/// Options of a pass over a checkpoint's values that draws `line` and stops on Ctrl-C.
ScanOptions scan_options(ProgressLine& line, int threads);

}  // namespace quant::cli
