#include "errors.h"

#include <fmt/format.h>

#include <cstdio>
#include <filesystem>
#include <new>
#include <sstream>

#include "output.h"
#include "units.h"

namespace quant::cli {
namespace {

std::string escaped_lines(const std::string& text) {
  std::istringstream lines(text);
  std::string out;
  for (std::string line; std::getline(lines, line);) out += (out.empty() ? "" : "\n") + printable(line);
  return out;
}

}  // namespace

int exit_code(ErrorCode code) {
  switch (code) {
    case ErrorCode::usage:
      return 2;
    case ErrorCode::recipe:
      return 3;
    case ErrorCode::unsupported:
      return 4;
    case ErrorCode::corrupt_file:
      return 5;
    case ErrorCode::io:
      return 6;
    case ErrorCode::numerical:
      return 7;
    case ErrorCode::internal:
      return kExitInternal;
    case ErrorCode::interrupted:
      return 130;
  }
  return kExitInternal;
}

Error to_error(const std::exception_ptr& exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return error;
  } catch (const std::bad_alloc&) {
    return Error(ErrorCode::io, "there is not enough memory", "close other programs, or use fewer threads",
                 "OutOfMemory");
  } catch (const std::filesystem::filesystem_error& error) {
    return Error(ErrorCode::io, fmt::format("{}: {}", error.path1().string(), error.code().message()));
  } catch (const std::exception& error) {
    return Error(ErrorCode::internal, fmt::format("unexpected error: {}", error.what()),
                 "this is a defect of quant: please report it with the command you gave");
  } catch (...) {
    return Error(ErrorCode::internal, "unexpected error of unknown kind",
                 "this is a defect of quant: please report it with the command you gave");
  }
}

int report_error(const Error& error, bool json) noexcept {
  const int code = exit_code(error.code());
  try {
    std::string text = fmt::format("quant: {}\n", escaped_lines(error.what()));
    if (!error.hint().empty()) text += fmt::format("hint: {}\n", escaped_lines(error.hint()));
    std::fwrite(text.data(), 1, text.size(), stderr);
    if (!json) return code;
    const Json details = {{"code", std::string(to_string(error.code()))},
                          {"kind", error.kind()},
                          {"message", std::string(error.what())},
                          {"hint", error.hint()},
                          {"exit_code", code}};
    write_stdout(json_text(Json{{"error", details}}));
  } catch (...) {
    std::fputs("quant: the error could not be written to standard output\n", stderr);
  }
  return code;
}

}  // namespace quant::cli
