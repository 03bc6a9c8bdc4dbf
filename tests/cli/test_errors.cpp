#include <filesystem>
#include <new>
#include <set>

#include "errors.h"
#include "support/catch.h"

using namespace quant;
using namespace quant::cli;

namespace {

template <class Exception>
Error as_error(const Exception& exception) {
  return to_error(std::make_exception_ptr(exception));
}

}  // namespace

TEST_CASE("each class of errors has an exit code of its own", "[errors]") {
  std::set<int> codes{kExitOk, kExitFinding};
  for (const ErrorCode code : {ErrorCode::usage, ErrorCode::recipe, ErrorCode::unsupported, ErrorCode::corrupt_file,
                               ErrorCode::io, ErrorCode::numerical, ErrorCode::interrupted, ErrorCode::internal}) {
    CHECK(codes.insert(exit_code(code)).second);
  }
  CHECK(exit_code(ErrorCode::usage) == 2);
  CHECK(exit_code(ErrorCode::interrupted) == 130);
}

TEST_CASE("any exception becomes a sentence", "[errors]") {
  const Error kept = as_error(Error(ErrorCode::corrupt_file, "m", "h", "k"));
  CHECK(kept.code() == ErrorCode::corrupt_file);
  CHECK(kept.hint() == "h");
  CHECK(kept.kind() == "k");
  CHECK(as_error(std::bad_alloc()).kind() == "OutOfMemory");
  const std::filesystem::filesystem_error denied("x", "/some/file", std::make_error_code(std::errc::permission_denied));
  CHECK(as_error(denied).code() == ErrorCode::io);
  CHECK(std::string(as_error(denied).what()).starts_with("/some/file: "));
  CHECK(as_error(std::runtime_error("odd")).code() == ErrorCode::internal);
  CHECK(std::string(as_error(std::runtime_error("odd")).what()).find("odd") != std::string::npos);
  CHECK(as_error(7).code() == ErrorCode::internal);
}
