// Any text as a file of smoothing factors: only quant::Error may come out. What is read can be written, and is the same
// when it is read again.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "quant/error.h"
#include "quant/smoothing_factors.h"
#include "support/temp_dir.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const quant::test::TempDir folder(quant::test::memory_folder());
  quant::test::write_file(folder / "factors.json", std::string(reinterpret_cast<const char*>(data), size));
  quant::SmoothingFactors read;
  try {
    read = quant::read_smoothing_factors(folder / "factors.json");
  } catch (const quant::Error& error) {
    require(error.code() == quant::ErrorCode::corrupt_file && !error.hint().empty());
    return 0;
  }
  for (const float factor : read.factors) require(std::isfinite(factor) && factor > 0);
  quant::write_smoothing_factors(folder / "again.json", read);
  const quant::SmoothingFactors again = quant::read_smoothing_factors(folder / "again.json");
  require(again.method == read.method && again.smooth_layer == read.smooth_layer);
  require(again.factors == read.factors && again.values == read.values);
  return 0;
}
