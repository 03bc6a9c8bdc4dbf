// Ctrl-C and SIGTERM as a flag that long commands look at.
#pragma once

#include <atomic>

namespace quant::cli {

/// From now on the first SIGINT or SIGTERM sets the flag that is returned; the second ends the program at once.
const std::atomic<bool>* watch_interrupts();

}  // namespace quant::cli
