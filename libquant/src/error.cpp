#include "quant/error.h"

#include <utility>

namespace quant {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::usage:
      return "usage";
    case ErrorCode::recipe:
      return "recipe";
    case ErrorCode::unsupported:
      return "unsupported";
    case ErrorCode::corrupt_file:
      return "corrupt_file";
    case ErrorCode::io:
      return "io";
    case ErrorCode::numerical:
      return "numerical";
    case ErrorCode::interrupted:
      return "interrupted";
    case ErrorCode::internal:
      return "internal";
  }
  return "internal";
}

Error::Error(ErrorCode code, const std::string& message, std::string hint, std::string kind)
    : std::runtime_error(message), code_(code), hint_(std::move(hint)), kind_(std::move(kind)) {}

std::uint64_t checked_mul(std::uint64_t a, std::uint64_t b, std::string_view what) {
  std::uint64_t result = 0;
  if (__builtin_mul_overflow(a, b, &result)) {
    throw Error(ErrorCode::corrupt_file,
                std::string(what) + ": " + std::to_string(a) + " x " + std::to_string(b) + " exceeds 64 bits", {},
                "ValidationOverflow");
  }
  return result;
}

std::uint64_t checked_add(std::uint64_t a, std::uint64_t b, std::string_view what) {
  std::uint64_t result = 0;
  if (__builtin_add_overflow(a, b, &result)) {
    throw Error(ErrorCode::corrupt_file,
                std::string(what) + ": " + std::to_string(a) + " + " + std::to_string(b) + " exceeds 64 bits", {},
                "ValidationOverflow");
  }
  return result;
}

}  // namespace quant
