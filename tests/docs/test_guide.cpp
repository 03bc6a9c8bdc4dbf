// The C++ of the manual is that of the example programs, which CTest runs.
#include "support/catch.h"
#include "support/temp_dir.h"

using namespace quant::test;

namespace {

const std::string kSource = QUANT_SOURCE_DIR;

/// The first block of that language.
std::string block_of(const std::string& page, const std::string& language) {
  const std::string fence = "```" + language + "\n";
  const std::size_t begin = page.find(fence);
  REQUIRE(begin != std::string::npos);
  return page.substr(begin + fence.size(), page.find("```\n", begin + fence.size()) - begin - fence.size());
}

/// From the first #include on.
std::string program_of(const std::string& file) {
  const std::string text = read_file(kSource + "/examples/" + file);
  return text.substr(text.find("#include"));
}

}  // namespace

TEST_CASE("programs of the manual are the example programs") {
  CHECK(block_of(read_file(kSource + "/README.md"), "cpp") == program_of("quantize_matrix.cpp"));
  const std::string gptq = block_of(read_file(kSource + "/docs/guide.md"), "cpp");
  const std::string program = read_file(kSource + "/examples/gptq_matrix.cpp");
  INFO(gptq);
  CHECK(program.find(gptq) != std::string::npos);
}
