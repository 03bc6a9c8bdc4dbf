// From exceptions to messages and exit codes.
#pragma once

#include <exception>
#include <string>

#include "quant/error.h"

namespace quant::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFinding = 1;
inline constexpr int kExitInternal = 8;

/// docs/commands.md lists them.
int exit_code(ErrorCode code);
/// Any exception as an Error: those of the standard library become a sentence too.
Error to_error(const std::exception_ptr& exception);
/// Text on stderr, and {"error": {...}} on stdout if `json`. Returns the exit code. Never throws.
int report_error(const Error& error, bool json) noexcept;

}  // namespace quant::cli
