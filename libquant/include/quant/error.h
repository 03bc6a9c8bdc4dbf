// The one exception type of the library, and overflow-checked sizes.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace quant {

/// What went wrong, as a class of errors. The `quant` program maps each to an exit code (docs/commands.md).
enum class ErrorCode {
  usage,         ///< a wrong argument or option of a call
  recipe,        ///< the recipe cannot be read or means nothing
  unsupported,   ///< a valid request that this version cannot serve
  corrupt_file,  ///< an input file breaks its format
  io,            ///< the operating system refused: missing file, disk full, read-only target
  numerical,     ///< data that no result can be computed from (NaN, infinity)
  interrupted,   ///< stopped by the user; what is finished is kept
  internal       ///< a defect of this library
};

/// The code's name as printed in JSON: "corrupt_file".
std::string_view to_string(ErrorCode code);

/// Ends an operation. `what()` is one sentence that names file, tensor and values; `hint()` says what to do and may be
/// empty; `kind()` is a stable identifier of the failed check ("HeaderTooLarge"), empty where there is none.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message, std::string hint = {}, std::string kind = {});

  ErrorCode code() const noexcept { return code_; }
  const std::string& hint() const noexcept { return hint_; }
  const std::string& kind() const noexcept { return kind_; }

 private:
  ErrorCode code_;
  std::string hint_;
  std::string kind_;
};

/// a * b, or Error{corrupt_file, kind "ValidationOverflow"} naming `what` if it does not fit in 64 bits.
std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b, std::string_view what);
/// a + b, or Error{corrupt_file, kind "ValidationOverflow"} naming `what` if it does not fit in 64 bits.
std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, std::string_view what);

}  // namespace quant
