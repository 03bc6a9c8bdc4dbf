// Reading of GPTQ checkpoints; see layout_input.h.
#include "fuzz/layout_input.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return quant::fuzz::read_input(quant::fuzz::layout_named("gptq"), data, size);
}
