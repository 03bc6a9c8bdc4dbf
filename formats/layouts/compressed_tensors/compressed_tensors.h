// The layout "compressed-tensors" (docs/compressed_tensors.md). Private to the library quant::formats.
#pragma once

#include <memory>

#include "quant/layout.h"

namespace quant {

std::unique_ptr<Layout> make_compressed_tensors();

}  // namespace quant
