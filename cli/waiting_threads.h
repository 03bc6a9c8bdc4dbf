// How OpenMP threads of this program wait.
#pragma once

namespace quant::cli {

/// Makes waiting threads sleep soon rather than spin for milliseconds, unless the environment says how they wait: where
/// other processes want the processors, spinning threads take the time of those that they wait for. OpenMP reads its
/// settings when it is loaded, before main: so the program starts itself anew with them. Returns if nothing is to be
/// done, or it cannot be done.
void let_waiting_threads_sleep(char** argv);

}  // namespace quant::cli
